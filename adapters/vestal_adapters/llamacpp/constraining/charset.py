"""Sets of Unicode characters as sorted ranges of code points, and how GBNF writes them. Pure.

Surrogates are in no set: no UTF-8 text holds one, so a grammar that allowed them could never be completed.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["EVERY", "JSON_RAW", "Ranges", "difference", "gbnf_class", "single", "union"]

Ranges = tuple[tuple[int, int], ...]
"""Sorted, inclusive, apart from each other."""

EVERY: Ranges = ((0x01, 0xD7FF), (0xE000, 0x10FFFF))
"""What a text may hold. NUL is left out: llama.cpp never lets a model write it under a grammar."""


def single(text: str) -> Ranges:
    """The characters of `text`."""
    return union([(ord(char), ord(char)) for char in text])


def union(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Any pairs of first and last, put in order."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def difference(ranges: Ranges, without: Ranges) -> Ranges:
    """What is in the first and not in the second."""
    left: list[tuple[int, int]] = []
    for start, end in ranges:
        low = start
        for bar_low, bar_high in without:
            if bar_high < low or bar_low > end:
                continue
            if bar_low > low:
                left.append((low, bar_low - 1))
            low = bar_high + 1
        if low <= end:
            left.append((low, end))
    return tuple(left)


JSON_RAW: Ranges = difference(difference(EVERY, ((0x00, 0x1F), (0x7F, 0x7F))), single('"\\'))
"""What stands for itself inside a JSON string. DEL may too by the letter, and is left out for the reader's sake."""


def gbnf_class(ranges: Ranges) -> str:
    """The set as a character class."""
    return "[" + "".join(_point(low) if low == high else f"{_point(low)}-{_point(high)}" for low, high in ranges) + "]"


def _point(code: int) -> str:
    char = chr(code)
    if char.isascii() and char.isalnum():
        return char
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
