"""Which models the daemon at hand serves; without one, none. A command about files works whatever the daemon does."""

from __future__ import annotations

from argparse import Namespace

from vestal import VestalError
from vestal.cli.reach import admin
from vestal.paths import socket_path

__all__ = ["served_models"]


def served_models(args: Namespace) -> dict[str, list[str]]:
    """Each served model with the backends that serve it; empty where no daemon of this user's runs."""
    if not socket_path("admin", args.runtime_dir).exists():
        return {}
    try:
        with admin(args) as client:
            backends = client.backends()
    except VestalError:  # it is another user's, or on its way up or down
        return {}
    served: dict[str, list[str]] = {}
    for backend in backends:
        if backend.model:
            served.setdefault(backend.model, []).append(backend.name)
    return served
