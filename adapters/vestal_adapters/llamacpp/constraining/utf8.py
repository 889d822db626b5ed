"""Ranges of code points as sequences of byte ranges, for an automaton that reads UTF-8. Pure.

The construction is that of Russ Cox's RE2 and the Rust crate `utf8-ranges`: split a range where the length of the
encoding changes, then where a continuation byte runs over, until first and last differ byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["sequences"]

_LAST_OF_LENGTH = (0x7F, 0x7FF, 0xFFFF)

Sequence = tuple[tuple[int, int], ...]


def sequences(low: int, high: int) -> Iterator[Sequence]:
    """The encodings of the code points from `low` to `high`, surrogates not among them, in their order."""
    for last in _LAST_OF_LENGTH:
        if low <= last < high:
            yield from sequences(low, last)
            yield from sequences(last + 1, high)
            return
    for bits in (6, 12, 18):
        mask = (1 << bits) - 1
        if high > 0x7F and (low & ~mask) != (high & ~mask):
            if low & mask:
                yield from sequences(low, low | mask)
                yield from sequences((low | mask) + 1, high)
                return
            if (high & mask) != mask:
                yield from sequences(low, (high & ~mask) - 1)
                yield from sequences(high & ~mask, high)
                return
    yield tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))
