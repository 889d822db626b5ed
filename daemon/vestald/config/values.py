"""Values of options: the types TOML has no word for, and the way from a text to a value and back.

A flag's or variable's text is read as TOML would read the value, and is a plain text where that is none or the
option takes nothing else: `64`, `true`, `10s`, `["alice", 1000]`, `{ "@staff" = 2 }`.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import msgspec
from msgspec import inspect

from vestal.durations import parse_duration
from vestal.options import TIME, Field

__all__ = ["Duration", "Mode", "converted", "from_text", "kind_of", "to_text"]


class Duration(float):
    """Seconds; written as a number or as text with a unit: "250ms", "10s", "5m"."""

    FORM = TIME


class Mode(int):
    """Permission bits, written as octal text: "0660"."""

    FORM = 'permission bits as octal text like "0660"'


def kind_of(field: Field) -> Any:
    """The type that a value must have; an adapter's length of time is looked at as the daemon's own."""
    return Duration if field.trait.form == TIME else field.type


def converted(value: object, kind: Any) -> Any:
    """`value` as the option has it. Raises `msgspec.ValidationError`."""
    return msgspec.convert(value, kind, dec_hook=_decode)


def _decode(kind: type, value: object) -> object:
    if kind is Duration and isinstance(value, str | int | float) and not isinstance(value, bool):
        return Duration(parse_duration(value))
    if kind is Mode:
        if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
            return Mode(int(value, 8))
        raise ValueError(f"expected {Mode.FORM}, got {value!r}")
    raise ValueError(f"got {value!r}")


def from_text(text: str, kind: Any) -> object:
    """What `text` would be in the file."""
    if not _only_text(inspect.type_info(kind)):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, ValueError, RecursionError):
            pass
    return text


def _only_text(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.Metadata):
        return _only_text(kind.type)
    if isinstance(kind, inspect.UnionType):
        return all(_only_text(member) for member in kind.types if not isinstance(member, inspect.NoneType))
    if isinstance(kind, inspect.LiteralType):
        return all(isinstance(value, str) for value in kind.values)
    return isinstance(kind, inspect.StrType) or (isinstance(kind, inspect.CustomType) and kind.cls is Mode)


def to_text(value: object) -> str:
    """`value` as it would be written in the file; what has no form there is `-`."""
    match value:
        case None:
            return "-"
        case Duration():
            return f'"{_time(value)}"'
        case Mode():
            return f'"{value:04o}"'
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case int():
            return str(value)
        case str():
            return _quoted(value)
        case list() | tuple():
            return f"[{', '.join(to_text(one) for one in value)}]"
        case dict():
            entries = (f"{_quoted(str(key))} = {to_text(one)}" for key, one in value.items())
            return f"{{ {', '.join(entries)} }}" if value else "{}"
    return str(value)


def _quoted(text: str) -> str:
    """Escaped where a terminal would obey it, or a byte of the environment was no UTF-8."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 or not seconds else f"{1000 * seconds:g}ms"
