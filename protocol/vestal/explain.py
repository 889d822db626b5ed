"""What an error message says of a value it does not take: the legal ones, and the one that came, cut short.

msgspec says "Invalid enum value 'robot'", and repeats whatever the peer sent, however long. The legal values
are found by walking the message's annotations along the fault's path, on the error path only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from msgspec import Struct

__all__ = ["MAX_ECHO", "expected_one_of", "shown"]

MAX_ECHO = 64
"""Characters of a peer's text that an error message repeats at most."""

_STEP = re.compile(r"[^.\[\]]+|\[\d+\]")


def shown(text: str) -> str:
    """A peer's text as a message may show it: in one line, printable, `MAX_ECHO` characters at most."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:MAX_ECHO]).replace("`", "'")
    if len(text) <= MAX_ECHO and len(printable) <= MAX_ECHO:
        return printable
    return printable[: MAX_ECHO - 1] + "…"


def expected_one_of(union: Any, loose: dict[Any, Any], path: str) -> str | None:
    """`expected one of …, got …` for the field at `path` (such as `messages[0].role`); `None` if it is no choice.

    `loose` is the message decoded without a schema, `union` the type it should have had.
    """
    types, came = list(_members(union)), cast(object, loose)
    for step in _STEP.findall(path):
        types = [inner for type in types for inner in _inside(type, step, came)]
        came = _value(came, step)
    legal = [value for type in types if get_origin(type) is Literal for value in get_args(type)]
    if not legal:
        return None
    got = f"`{shown(came)}`" if isinstance(came, str) else type(came).__name__
    return f"expected one of {', '.join(f'`{value}`' for value in legal)}, got {got}"


def _members(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, or the one type."""
    if get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _inside(annotation: Any, step: str, value: Any) -> Iterator[Any]:
    """The types that `step` leads to from `annotation`, given the loose value that stands there."""
    if step.startswith("["):
        if get_origin(annotation) is list:
            yield from _members(get_args(annotation)[0])
    elif isinstance(annotation, type) and issubclass(annotation, Struct):
        config = annotation.__struct_config__
        if step == config.tag_field:
            yield Literal[config.tag]
        elif config.tag is None or (isinstance(value, dict) and value.get(config.tag_field) == config.tag):
            yield from _members(_annotations(annotation).get(step))


@cache
def _annotations(struct: type[Struct]) -> dict[str, Any]:
    return get_type_hints(struct)


def _value(loose: Any, step: str) -> Any:
    try:
        return loose[int(step[1:-1])] if step.startswith("[") else loose[step]
    except (LookupError, TypeError):  # the peer's value has another shape there
        return None
