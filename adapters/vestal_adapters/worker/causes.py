"""Why a worker ended, in words: what its last lines mean, from one table per engine.

The words are the table's. Nothing of the lines themselves reaches a client, as they may quote somebody's text;
an operator whose worker ended before it loaded is shown the last of them, without where files lie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

__all__ = ["Cause", "cause", "explain", "without_places"]

_DIRECTORIES = re.compile(r"(?<![\w.])(?:~|\.{1,2})?/(?:[^\s/'\"]+/)+")


class Cause(Struct, frozen=True):
    """`pattern` is searched in each line, the last first; `words` go behind how the process ended."""

    pattern: re.Pattern[str]
    words: str


def cause(pattern: str, words: str) -> Cause:
    return Cause(re.compile(pattern, re.IGNORECASE), words)


def explain(causes: Sequence[Cause], lines: Sequence[str]) -> str:
    """The words of the first cause that the latest line knows, or ""."""
    return next((known.words for line in reversed(lines) for known in causes if known.pattern.search(line)), "")


def without_places(line: str) -> str:
    """The line with the last part only of every path in it."""
    return _DIRECTORIES.sub("…/", line)
