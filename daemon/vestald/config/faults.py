"""What is wrong with a configuration: each fault with its place, its key, the nearest right word or what is legal.

All of them are found before any is told. `vestald` ends with the first one, and says how many more there are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from vestal.options import Field
from vestald.config.table import Option
from vestald.failures import BadConfiguration

__all__ = ["BadSettings", "Fault", "of_value", "secret_flag", "unknown"]


_BARE = ("Expected `", "Invalid ", "not what")
"""How messages begin that do not say what is legal; those of the values' own types do."""


_UNLIKE = "Expected `str` matching regex "


class Fault(Struct, frozen=True):
    """`place` is a file with its line, a flag or a variable; `message` names the key."""

    place: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class BadSettings(BadConfiguration):
    """One fault or more; the message is the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        first, more = self.faults[0], len(faults) - 1
        hints = [first.hint] if first.hint else []
        if more:
            hints.append(f"{more} more fault{'s' if more > 1 else ''}: `vestald config check` lists all")
        super().__init__(f"{first.place}: {first.message}", hint="; ".join(hints) or None)


def secret_flag(option: Option) -> Fault:
    """A secret on a command line is none."""
    return Fault(
        option.flag,
        f"{option.key} is a secret, and every user of this machine can read a flag in the list of processes",
        f"set {option.variable}, or the key in the file",
    )


def unknown(where: str, key: str, known: Iterable[str]) -> str:
    """The message for a key that is none of `known`, with the nearest, or with all there are."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {where}" + (f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}")


def of_value(key: str, field: Field, value: object, exc: msgspec.ValidationError) -> str:
    """The message for a value that is none of the option's; a secret's is not repeated."""
    what, _, path = str(exc).partition(" - at `$")
    if field.trait.secret:
        what = "not what it takes"
    elif type(value) in (int, float) and "=" in what:  # out of range, which msgspec says without the number
        what += f", got {value!r:.64}"
    elif what.startswith(_UNLIKE):
        what = f"{_at(value, path)!r:.64} does not match {what.removeprefix(_UNLIKE)}"
    legal = f"; legal: {field.legal}" if what.startswith(_BARE) else ""
    return f"{key}{path.rstrip('`').replace('[...]', '')}: {what[:1].lower()}{what[1:]}{legal}"


def _at(value: object, path: str) -> object:
    """What is at `[2]` of a list; anything else is told whole."""
    index = path.strip("[]`")
    return value[int(index)] if isinstance(value, list) and index.isdigit() else value
