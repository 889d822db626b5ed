"""What a hostile peer makes of good frames: lies about lengths, bits flipped, values that no schema wants, noise.

Most of what it makes is well framed and nearly right, as only that gets past the first check. A seed gives one
sequence, so what failed once fails again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from vestal.framing import PREFIX, FrameReader

__all__ = ["Mangler", "unfinished"]

# Values at the edges of their types.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63),
    0.0, -0.0, 1e308, 5e-324, math.nan, math.inf, -math.inf,
    "", "\0", "type", "x" * 129, "x" * 5000, "\U0001f600", "\u202e\r\n\x1b[31m", "`$.id`",
    b"", b"\xff\xfe", b"\0" * 300, [], {}, [[]], {"": None}, {"type": "hello"}, [None] * 40,
    {str(number): number for number in range(40)},
)  # fmt: skip
# MessagePack that claims more than it has, that this wire does not use, or that is too deep.
BAD: tuple[Any, ...] = (
    Raw(b"\xc1"), Raw(b"\xa2\xff\xfe"), Raw(b"\xdd\xff\xff\xff\xff"), Raw(b"\xdf\xff\xff\xff\xff"),
    Raw(b"\xc6\xff\xff\xff\xff"), Raw(b"\xdb\x7f\xff\xff\xff"), Raw(b"\xd4\x05\x00"), Raw(b"\xd6\xff\0\0\0\0"),
    Raw(b"\x82\xa1a\x01\xa1a\x02"), Raw(b"\x81\x01\x02"), Raw(b"\x81\x90\xc0"), Raw(b"\x81\x80\xc0"),
    Raw(b"\x91" * 65 + b"\xc0"), Raw(b"\x91" * 2000 + b"\xc0"), Raw(b"\x81\xa1a" * 2000 + b"\xc0"),
)  # fmt: skip
LENGTHS = (0, 1, 2**16, 2**16 + 1, 2**26, 2**26 + 1, 2**31, 2**32 - 1)


def unfinished(data: bytes) -> bool:
    """Whether what follows would be taken for the rest of its last frame."""
    reader = FrameReader(2**32)
    for _ in reader.feed(data):
        pass
    return reader.pending > 0


class Mangler:
    """Makes frames out of those of a corpus."""

    def __init__(self, corpus: Sequence[bytes], seed: int) -> None:
        self._dice = random.Random(seed)
        self._payloads = [frame[PREFIX.size :] for frame in corpus]
        self._values = [msgspec.msgpack.decode(payload) for payload in self._payloads]
        self._parts = [part for value in self._values for part in _parts(value)]
        self._keys = sorted({key for part in self._parts if isinstance(part, dict) for key in part})

    def frame(self) -> bytes:
        """The next: usually one frame, sometimes less or more or none at all."""
        chance = self._dice.random()
        if chance < 0.04:
            return self._dice.randbytes(self._dice.randrange(1, 200))
        payload = self._reshaped_payload() if chance < 0.75 else self._garbled(self._dice.choice(self._payloads))
        return (self._framed_badly if chance > 0.95 else _framed)(payload)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The data as a socket may give it."""
        if self._dice.random() < 0.8:
            yield data
            return
        cut = self._dice.randrange(len(data))
        yield data[:cut]
        yield data[cut:]

    # --- values -----------------------------------------------------------------------------------------------

    def _reshaped_payload(self) -> bytes:
        value = self._dice.choice(self._values)
        for _ in range(self._dice.choice((1, 1, 1, 2, 4))):
            value = self._reshaped(value)
        return msgspec.msgpack.encode(value)

    def _reshaped(self, value: Any) -> Any:
        """The value with one thing in it changed, most often deep inside."""
        dice = self._dice
        if isinstance(value, dict) and value and dice.random() < 0.95:
            # What no longer says its type is refused before anything else of it is looked at.
            key = dice.choice([name for name in value if name != "type" or dice.random() < 0.2] or list(value))
            match dice.randrange(8):
                case 0:
                    return {name: item for name, item in value.items() if name != key}
                case 1:
                    return {**value, dice.choice(self._keys): self._other()}
                case _:
                    return {**value, key: self._reshaped(value[key])}
        if isinstance(value, list) and value and dice.random() < 0.9:
            at = dice.randrange(len(value))
            match dice.randrange(8):
                case 0:
                    return value[:at] + value[at + 1 :]
                case 1:
                    return value * dice.choice((2, 33, 70))
                case _:
                    return [*value[:at], self._reshaped(value[at]), *value[at + 1 :]]
        return self._other()

    def _other(self) -> Any:
        chance = self._dice.random()
        return self._dice.choice(BAD if chance < 0.06 else ODD if chance < 0.5 else self._parts)

    # --- bytes ------------------------------------------------------------------------------------------------

    def _garbled(self, payload: bytes) -> bytes:
        dice, data = self._dice, bytearray(payload)
        for _ in range(dice.choice((1, 1, 2, 8))):
            at = dice.randrange(len(data) + 1)
            match dice.randrange(4):
                case 0 if data:
                    data[at % len(data)] ^= 1 << dice.randrange(8)
                case 1:
                    data[at:at] = dice.randbytes(dice.randrange(1, 5))
                case 2:
                    del data[at : at + dice.randrange(1, 9)]
                case _:
                    other = dice.choice(self._payloads)
                    begin = dice.randrange(len(other))
                    data[at : at + 8] = other[begin : begin + dice.randrange(1, 33)]
        return bytes(data)

    def _framed_badly(self, payload: bytes) -> bytes:
        near = len(payload) + self._dice.choice((-2, -1, 1, 2))
        length = self._dice.choice((max(near, 0), *LENGTHS))
        return PREFIX.pack(length) + payload


def _framed(payload: bytes) -> bytes:
    return PREFIX.pack(len(payload)) + payload


def _parts(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for item in value.values():
            yield from _parts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _parts(item)
