"""What servers say of their models, whatever the API: one chosen by its name, facts found in pages of any shape.

A page may hold anything. What is not there, or not of the kind it should be, is not known; of models there are those
that a request can name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from vestal.errors import ModelNotFound

__all__ = ["count_at", "first", "nameable", "picked", "truth_at", "value_at"]

T = TypeVar("T")

_MOST_NAMED = 8  # models that an error lists
_LONGEST_NAME = 256  # characters: no request can name a longer one, and each name is in every welcome
_MOST = 2**53  # JSON has larger numbers, and no frame has


def picked(entries: Mapping[str, T], model: str | None, backend: str) -> T:
    """The entry of the configured model, or the only one. Raises `ModelNotFound` listing what is served."""
    for name in () if model is None else (model, f"{model}:latest"):  # what Ollama calls a model pulled without a tag
        if name in entries:
            return entries[name]
    served = sorted(filter(nameable, entries))
    if model is None and len(served) == 1:
        return entries[served[0]]
    shown = ", ".join(served[:_MOST_NAMED]) + (f" and {len(served) - _MOST_NAMED} more" * (len(served) > _MOST_NAMED))
    raise ModelNotFound(
        f"the server of backend {backend!r} does not serve model {model!r}"
        if model
        else f"the server of backend {backend!r} serves {len(served)} models, and none is chosen",
        hint=f"set model to one of those it serves: {shown}" if served else "it serves none: load one there",
        details={"models": served[:_MOST_NAMED]},
    )


def nameable(name: Any) -> bool:
    """Whether a request can name such a model, and an error show it."""
    return isinstance(name, str) and name.isprintable() and 0 < len(name) <= _LONGEST_NAME


def first(*words: bool | None) -> bool:
    """The first word that somebody said."""
    return next((word for word in words if word is not None), False)


def value_at(page: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        page = page.get(step) if isinstance(page, dict) else None
    return page


def count_at(page: Any, path: tuple[str, ...]) -> int | None:
    """A number above zero."""
    found = value_at(page, path) if path else None
    return found if isinstance(found, int) and 0 < found <= _MOST and not isinstance(found, bool) else None


def truth_at(page: Any, path: tuple[str, ...]) -> bool | None:
    found = value_at(page, path)
    return found if isinstance(found, bool) else None
