"""Names that Tab offers: what the daemon serves and runs, what the store, the catalog and the key ring hold.

The scripts of `vestal completion` ask for them by kind. Whoever cannot be asked knows none: nobody who presses Tab
wants to read why. A daemon may be somebody else's, so a name that would mean anything to a shell is not offered.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

from vestal import AdminClient, Client, EmbedClient, VestalError
from vestal.cli.reach import At, at
from vestal.running import running_daemon

__all__ = ["KINDS", "names"]

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_PATIENCE = 2.0  # seconds for each that is asked: longer, and Tab seems dead
_DECLARED = re.compile(r"backend\.(.+)\.required")


def names(kinds: Iterable[str], args: Namespace) -> list[str]:
    """All there are of `kinds`, each once. Raises `KeyError` for a kind that there is not."""
    found = dict.fromkeys(name for ask in [KINDS[kind] for kind in kinds] for name in _told(ask, args))
    return [name for name in found if _PLAIN.fullmatch(name)]


def _told(ask: Callable[[Namespace], Iterable[str]], args: Namespace) -> list[str]:
    try:
        return list(ask(args))
    except (VestalError, OSError):
        return []


def _models(args: Namespace) -> Iterator[str]:
    """What a request that generates may name."""
    with Client(**at(args), connect_timeout=_PATIENCE) as client:
        for backend in client.backends:
            if backend.capabilities.generate:
                yield from (backend.name, backend.model, *backend.aliases)


def _embedders(args: Namespace) -> Iterator[str]:
    """What an embed may name."""
    with EmbedClient(**at(args), connect_timeout=_PATIENCE) as client:
        for backend in client.backends:
            if backend.capabilities.embed:
                yield from (backend.name, backend.model, *backend.aliases)


def _running(args: Namespace) -> list[str]:
    with AdminClient(**at(args), connect_timeout=_PATIENCE) as client:
        return [backend.name for backend in client.backends()]


def _declared(args: Namespace) -> list[str]:
    """Backends of the running daemon's configuration that do not run. Only `vestald config` can read it."""
    import subprocess  # which no other kind needs

    place: At = at(args)
    daemon = running_daemon(**place)
    if daemon is None or not daemon.config or find_spec("vestald") is None:
        return []
    command = [sys.executable, "-P", "-m", "vestald", "config", "explain", "--json", "--config", daemon.config]
    try:
        told = subprocess.run(command, capture_output=True, timeout=10 * _PATIENCE, check=True)
    except subprocess.SubprocessError:
        return []
    there = {backend.name for backend in daemon.backends}
    declared = [found[1] for key in json.loads(told.stdout) if (found := _DECLARED.fullmatch(key))]
    return [name for name in declared if name not in there]


def _requests(args: Namespace) -> list[str]:
    with AdminClient(**at(args), connect_timeout=_PATIENCE) as client:
        return [str(entry.request) for entry in client.queue().entries]


def _stored(_: Namespace) -> tuple[str, ...]:
    from vestal.models import Store

    return Store().names()


def _catalog(_: Namespace) -> Iterable[str]:
    from vestal.models import CATALOG

    return CATALOG


def _keys(_: Namespace) -> list[str]:
    from vestal.models import Store
    from vestal.models.trust import Trust

    return [key.name for key, _state in Trust(Store()).known_keys()]


KINDS: dict[str, Callable[[Namespace], Iterable[str]]] = {
    "models": _models,
    "embedders": _embedders,
    "running": _running,
    "declared": _declared,
    "requests": _requests,
    "stored": _stored,
    "catalog": _catalog,
    "keys": _keys,
}
"""Who tells the names of each kind."""
