"""From the configuration to backends: adapters found by entry point, their options checked."""

from __future__ import annotations

import difflib
import os
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import msgspec

from vestal.backend import Backend
from vestal.errors import ModelError, VestalError
from vestal.models import CATALOG, Store, default_root
from vestald.config import BackendTable, Config, describe_fault
from vestald.failures import BadConfiguration

__all__ = ["ADAPTER_GROUP", "build_backends", "configured_or_default"]

ADAPTER_GROUP = "vestal.backends"
_DEFAULT_NAMES = {"chat": "chat", "embed": "vectors"}


def build_backends(config: Config) -> list[tuple[str, Backend]]:
    """(adapter, backend) for every configured table, or for the catalog models in the store if there is none.

    Raises `BadConfiguration` naming the table, the key and what is legal.
    """
    where = str(config.source) if config.source else "built-in defaults"
    return [(table.adapter, _build(where, table)) for table in configured_or_default(config)]


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


def _build(where: str, table: BackendTable) -> Backend:
    cls = _adapter(where, table)
    try:
        options = msgspec.convert(table.options, cls.Options)
    except msgspec.ValidationError as exc:
        raise BadConfiguration(f"{where}: {describe_fault(exc, cls.Options, f'backend {table.name}')}") from exc
    try:
        return cls(table.name, options)
    except (VestalError, ValueError) as exc:
        raise BadConfiguration(f"{where}: backend {table.name}: {exc}") from exc


def _adapter(where: str, table: BackendTable) -> type[Backend]:
    found: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=ADAPTER_GROUP)}
    point = found.get(table.adapter)
    if point is None:
        near = difflib.get_close_matches(table.adapter, found, n=1)
        raise BadConfiguration(
            f"{where}: backend {table.name}: there is no adapter {table.adapter!r}",
            hint=(f"did you mean {near[0]!r}? " if near else "")
            + f"installed adapters: {', '.join(sorted(found)) or 'none'}",
        )
    try:
        cls: Any = point.load()
    except Exception as exc:  # what a module does when it is imported is its own business, and may fail in any way
        raise BadConfiguration(
            f"{where}: backend {table.name}: adapter {table.adapter!r} cannot be imported: {exc}",
            hint=f"install what it needs: pip install 'vestal[{table.adapter}]'",
        ) from exc
    if not (isinstance(cls, type) and issubclass(cls, Backend)):
        raise BadConfiguration(f"{where}: adapter {table.adapter!r} ({point.value}) is not a vestal.backend.Backend")
    return cls


def _short(path: Path) -> str:
    home = str(Path.home())
    return str(path).replace(home, "~", 1) if str(path).startswith(home) else str(path)
