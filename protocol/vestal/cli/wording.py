"""Numbers, lengths of time and tables, as people read them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = [
    "bar", "cells", "count", "cut", "elapsed", "folded", "json_line", "megabytes", "pad", "table", "words_of_time",
]  # fmt: skip

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def count(number: int, noun: str) -> str:
    """`1 token`, `2 tokens`, `12,000 tokens`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def megabytes(size: float) -> str:
    """Bytes in decimal units, three digits or fewer where it matters: `980 B`, `98 MB`, `1.4 GB`."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def elapsed(seconds: float) -> str:
    """A measured time: `85 ms`, `1.23 s`, `72 s`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def words_of_time(seconds: float) -> str:
    """A length of time in its two largest units: `3 minutes 5 seconds`, `2 days 4 hours`."""
    left = int(seconds)
    parts = []
    for unit, size in _UNITS:
        number, left = divmod(left, size)
        parts.append((number, unit))
    first = next((index for index, (number, _) in enumerate(parts) if number), len(parts) - 1)
    said = parts[first : first + 2]
    return " ".join(count(number, unit) for number, unit in said if number) or "0 seconds"


def cells(text: str) -> int:
    """How many columns of a terminal `text` takes: East Asian wide characters two, combining marks none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int | None) -> str:
    """`text` in at most `width` columns, with `…` where something is left out."""
    if width is None or cells(text) <= width:
        return text
    return _fitting(text, width - 1) + "…"


def folded(text: str, width: int | None, indent: int) -> list[str]:
    """`text` in lines of at most `width` columns, broken at blanks where there are any; later lines are indented."""
    lines, rest = [], text.rstrip(" ")
    while width is not None and cells(rest) > width:
        fits = _fitting(rest, width)
        blank = len(fits) if rest[len(fits)] == " " else fits.rfind(" ")
        at = blank if fits[: max(blank, 0)].strip() else len(fits)
        lines.append(rest[:at].rstrip(" "))
        rest = " " * indent + rest[at:].lstrip(" ")
    return [*lines, rest]


def _fitting(text: str, room: int) -> str:
    """The longest beginning that takes no more than so many columns."""
    for end, character in enumerate(text):
        room -= cells(character)
        if room < 0:
            return text[:end]
    return text


def pad(text: str, width: int, *, right: bool = False) -> str:
    """`text` filled up with blanks to `width` columns."""
    blanks = " " * max(width - cells(text), 0)
    return blanks + text if right else text + blanks


def bar(percent: float, length: int, encoding: str | None) -> str:
    """`█████░░░░░`, or `#####-----` where the encoding has no blocks; full only at 100 %."""
    full = length if percent >= 100 else min(int(max(percent, 0.0) / 100 * length), length - 1)
    on, off = "█░" if "utf" in (encoding or "").lower() else "#-"
    return on * full + off * (length - full)


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int | None = None) -> list[str]:
    """Lines of aligned columns, two blanks apart; `right` are the columns of numbers, `width` cuts whole lines."""
    widths = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    lines = ["  ".join(pad(text, widths[i], right=i in right) for i, text in enumerate(row)) for row in rows]
    return [cut(line.rstrip(), width) for line in lines]


def json_line(value: object) -> str:
    """One line of JSON. DEL and C1, which JSON leaves as they are and a terminal obeys, become escapes."""
    import msgspec

    text = msgspec.json.encode(value).decode()
    return re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)
