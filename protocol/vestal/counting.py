"""How many values a MessagePack payload holds, counted without making any of them.

A value costs one byte on the wire and up to seventy in memory, and Python's collector visits each of them: a frame of
64 MiB of empty arrays would take gigabytes, and half a minute in which nobody else is served. So whoever reads what
others may write counts first. A payload shorter than the limit cannot hold more, and is not looked at; of a longer one
no more is looked at than the limit allows.

Source: the MessagePack specification, "Formats".
"""

from __future__ import annotations

__all__ = ["MAX_VALUES", "has_more_values"]

MAX_VALUES = 2**20
"""Values of one message: maps, arrays, and what is in them, keys among it."""

Bytes = bytes | bytearray | memoryview

_SIZES = {  # bytes of the formats that are of one size
    0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9,
    0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18,
}  # fmt: skip
_LENGTHS = {  # bytes of the length that follows, bytes beside it and the text
    0xC4: (1, 2), 0xC5: (2, 3), 0xC6: (4, 5), 0xC7: (1, 3), 0xC8: (2, 4), 0xC9: (4, 6),
    0xD9: (1, 2), 0xDA: (2, 3), 0xDB: (4, 5),
}  # fmt: skip
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # bytes of the count, values for each


def _size(byte: int) -> int:
    return 1 + (byte & 0x1F) if 0xA0 <= byte <= 0xBF else _SIZES.get(byte, 1)


def _inside(byte: int) -> int:
    if 0x80 <= byte <= 0x8F:
        return 2 * (byte & 0x0F)
    return byte & 0x0F if 0x90 <= byte <= 0x9F else 0


_SIZE = tuple(map(_size, range(256)))
_INSIDE = tuple(map(_inside, range(256)))
_LONG = frozenset({*_LENGTHS, *_COUNTS})


def has_more_values(payload: Bytes, most: int = MAX_VALUES) -> bool:
    """Whether it holds, or claims to hold, more than `most`. Of a payload that is broken the decoder tells."""
    size = len(payload)
    if size <= most:
        return False
    at, seen, due = 0, 0, 1
    while due and at < size:
        byte = payload[at]
        seen += 1
        due += _INSIDE[byte] - 1
        if byte in _LONG:
            at, more = _long(payload, at, byte)
            due += more
        else:
            at += _SIZE[byte]
        if seen + due > most:
            return True
    return False


def _long(payload: Bytes, at: int, byte: int) -> tuple[int, int]:
    """Where the next value begins, and how many are inside this one, whose length or count stands by itself."""
    if byte in _LENGTHS:
        width, beside = _LENGTHS[byte]
        return at + beside + int.from_bytes(payload[at + 1 : at + 1 + width], "big"), 0
    width, each = _COUNTS[byte]
    return at + 1 + width, each * int.from_bytes(payload[at + 1 : at + 1 + width], "big")
