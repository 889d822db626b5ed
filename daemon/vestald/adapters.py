"""Adapters are found by entry point, and only here: the daemon knows none by name."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vestal.backend import Backend
from vestald.failures import BadConfiguration

__all__ = ["ADAPTER_GROUP", "adapter_class", "installed"]

ADAPTER_GROUP = "vestal.backends"


def installed() -> dict[str, EntryPoint]:
    """The adapters of this installation, by name; none is imported."""
    return {point.name: point for point in entry_points(group=ADAPTER_GROUP)}


def adapter_class(name: str) -> type[Backend]:
    """Import an adapter. Raises `BadConfiguration` with the nearest name, or with what is missing."""
    found = installed()
    point = found.get(name)
    if point is None:
        near = difflib.get_close_matches(name, found, n=1)
        raise BadConfiguration(
            f"there is no adapter {name!r}",
            hint=(f"did you mean {near[0]!r}? " if near else "")
            + f"installed adapters: {', '.join(sorted(found)) or 'none'}",
        )
    try:
        cls: Any = point.load()
    except Exception as exc:  # what a module does when it is imported is its own business, and may fail in any way
        raise BadConfiguration(
            f"adapter {name!r} cannot be imported: {exc}",
            hint="install the extra that it is part of, such as 'vestal[all]' for those of this project",
        ) from exc
    if not (isinstance(cls, type) and issubclass(cls, Backend)):
        raise BadConfiguration(f"adapter {name!r} ({point.value}) is not a vestal.backend.Backend")
    return cls
