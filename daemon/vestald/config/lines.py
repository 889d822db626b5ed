"""Where in a TOML text each key stands.

tomllib says what a text means and not where. So the text is cut into its statements (a header, or a key with its
value), each found as the shortest run of lines that tomllib takes by itself: only strings and arrays span lines, and
neither is whole before its end. Reading a statement alone gives its keys, by the same rules that read the whole.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

__all__ = ["Place", "key_lines"]

Place = tuple[str | int, ...]
"""Keys from the root on; an item of an array by its number."""


def key_lines(text: str) -> dict[Place, int]:
    """The line, from 1, on which the statement of each key begins. `text` must be valid TOML."""
    lines: dict[Place, int] = {}
    counts: dict[Place, int] = {}  # of the tables so far in each array of tables
    base: Place = ()
    for number, statement in _statements(text.replace("\r\n", "\n").split("\n")):
        table = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            base = _opened(table, counts)
            lines.setdefault(base, number)
        else:
            for place in _places(table, base):
                lines.setdefault(place, number)
    return lines


_ENDS = ("]", '"""', "'''")
"""One of these is in the last line of a statement that spans lines."""


def _statements(lines: list[str]) -> Iterator[tuple[int, str]]:
    begin = 0
    for end, line in enumerate(lines, 1):
        if begin < end - 1 and not any(mark in line for mark in _ENDS):
            continue  # not worth a try: with one at each line a long list would take quadratic time
        statement = "\n".join(lines[begin:end])
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # it goes on
        yield begin + 1, statement
        begin = end


def _opened(table: Any, counts: dict[Place, int]) -> Place:
    """The place of the table that a header opens; a new one of an array is counted."""
    place: Place = ()
    while table:
        ((key, table),) = table.items()
        place = (*place, key)
        if isinstance(table, list):
            counts[place] = counts.get(place, 0) + 1
            (table,) = table
        if place in counts:
            place = (*place, counts[place] - 1)
    return place


def _places(value: Any, base: Place) -> Iterator[Place]:
    """The places of all keys and items in `value`."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*base, key)
        yield from _places(inner, (*base, key))
