"""What the scripted servers answer: the words they are given, up to a limit or a stop string."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["echoed"]


def echoed(text: str, stops: Iterable[str] | None, limit: int | None) -> tuple[list[str], str]:
    """(words with the white space before them, "stop" at a stop string, "length" at the limit, else "end")."""
    words = re.findall(r"\s*\S+", text)
    for index, word in enumerate(words):
        if any(stop in word for stop in stops or ()):
            return words[:index], "stop"
    return words[:limit], "length" if limit is not None and limit < len(words) else "end"
