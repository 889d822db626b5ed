"""From the configuration to backends: adapters found by entry point, their options checked."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from vestal.backend import Backend
from vestal.errors import ModelError, VestalError
from vestal.models import CATALOG, Store, default_root
from vestald.config import BackendKeys, BackendTable, Config
from vestald.config.backends import resolved
from vestald.failures import BadConfiguration

__all__ = ["Declared", "build", "build_backends", "configured_or_default"]

_DEFAULT_NAMES = {"chat": "chat", "embed": "vectors"}


class Declared(Struct, frozen=True):
    """A backend that the configuration declares, built and not started."""

    table: BackendTable
    keys: BackendKeys
    backend: Backend


def build_backends(config: Config) -> list[Declared]:
    """Every configured backend, or one for each catalog model in the store if there is none.

    Raises `BadConfiguration` naming the line, the table, the key and what is legal.
    """
    return [build(config, table) for table in configured_or_default(config)]


def configured_or_default(config: Config) -> tuple[BackendTable, ...]:
    """The `[[backend]]` tables; with none, one for each catalog model that is in the store."""
    if config.backends:
        return config.backends
    store = Store(default_root(os.environ))
    tables = tuple(
        BackendTable(name=_DEFAULT_NAMES[entry.kind], adapter="llamacpp", options={"model": name})
        for name, entry in CATALOG.items()
        if _stored(store, name)
    )
    if not tables:
        raise BadConfiguration(
            f"no [[backend]] is configured and the model store {_short(store.root)} is empty",
            hint=f"fetch the catalog's models: vestal pull {' '.join(CATALOG)}",
        )
    return tables


def _stored(store: Store, name: str) -> bool:
    try:
        store.resolve(name)
    except ModelError:
        return False
    return True


def build(config: Config, table: BackendTable) -> Declared:
    """The backend of one table. Raises as `build_backends`."""
    found = resolved(config, table)
    try:
        return Declared(table, found.keys, found.adapter(table.name, found.options))
    except (VestalError, ValueError) as exc:
        place = config.place(f"backend.{table.name}")
        raise BadConfiguration(f"{place}: backend {table.name}: {exc}") from exc


def _short(path: Path) -> str:
    home = str(Path.home())
    return str(path).replace(home, "~", 1) if str(path).startswith(home) else str(path)
