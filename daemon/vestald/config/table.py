"""The table of options: what `schema` declares, with the names under which each is given.

`admission.queue_depth` in the file is `--admission-queue-depth` and `VESTAL_ADMISSION_QUEUE_DEPTH`. An option of a
backend is `backend.NAME.KEY`, `--backend-NAME-KEY` and `VESTAL_BACKEND_NAME_KEY`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, get_type_hints

from msgspec import Struct, structs

from vestal.options import Field, fields_of

__all__ = ["PREFIX", "Option", "backend_option", "options_of", "plain"]

PREFIX = "VESTAL_"


class Option(Struct, frozen=True):
    """One option: its place in the file, and its declaration."""

    path: tuple[str, ...]
    field: Field

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        return f"--{self.field.trait.name or plain(self.key)}"

    @property
    def variable(self) -> str:
        return PREFIX + self.flag[2:].upper().replace("-", "_")

    @property
    def formerly(self) -> Iterable[Option]:
        """The same under the names that it had."""
        bare = structs.replace(self.field, trait=structs.replace(self.field.trait, name="", formerly=()))
        return [Option(tuple(old.split(".")), bare) for old in self.field.trait.formerly]

    def value(self, root: object) -> Any:
        """Its value in a configuration."""
        for name in self.path:
            root = getattr(root, name)
        return root

    def __repr__(self) -> str:
        return f"<Option {self.key}>"


def plain(text: str) -> str:
    """A key as a part of a flag: `queue_depth` and `chat.1` become `queue-depth` and `chat-1`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


@cache
def options_of(root: type[Struct]) -> tuple[Option, ...]:
    """Every option in the sections of a configuration, first to last; its other fields are none."""
    hints = get_type_hints(root)
    return tuple(option for name, kind in hints.items() if _is_section(kind) for option in _below(kind, (name,)))


def _below(struct: type[Struct], path: tuple[str, ...]) -> Iterator[Option]:
    for field in fields_of(struct):
        if _is_section(field.type):
            yield from _below(field.type, (*path, field.name))
        else:
            yield Option((*path, field.name), field)


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def backend_option(name: str, field: Field) -> Option:
    """An adapter's option in the table of one backend."""
    return Option(("backend", name, field.name), field)
