"""Which models the daemon at hand serves; without one, none. A command about files works whatever the daemon does."""

from __future__ import annotations

from argparse import Namespace

from vestal.cli.reach import at
from vestal.running import running_daemon

__all__ = ["served_models"]


def served_models(args: Namespace) -> dict[str, list[str]]:
    """Each served model with the backends that serve it; empty where no daemon of this user's runs."""
    daemon = running_daemon(**at(args))
    served: dict[str, list[str]] = {}
    for backend in daemon.backends if daemon is not None else ():
        if backend.model:
            served.setdefault(backend.model, []).append(backend.name)
    return served
