"""What can be wrong with a GGUF file: its fields at the edges of their types, its texts replaced, its bytes wrong.

The layout is walked here once more, on its own and trusting the file, which is a good one: fields that lie about
lengths, counts, types and shapes are what reaches past the first check. A number gives one mutant.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from struct import Struct as Layout
from struct import pack
from typing import NamedTuple

__all__ = ["Field", "fields_of", "mutated"]

_U32, _U64 = Layout("<I"), Layout("<Q")
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ALIGNMENT = 32

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    31,
    33,
    64,
    255,
    256,
    4097,
    65_535,
    2**20,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63,
    2**64 - 1,
)
FLOATS = (0.0, -1.0, 1e-45, 3e38, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    b"", b"\0", b"\xff\xfe", b"llama", b"gpt2", b"bert", b"t5", b"rwkv", b"none", b"../../etc/passwd", b"A" * 70_000,
    "\u2581\u2028\U0001f600".encode(), b"{{ 10 ** 10 ** 8 }}", b"{% for i in range(10 ** 9) %}x{% endfor %}", b"{{ {",
    b"{{ messages.__class__.__mro__ }}",
    b"{% for m in messages %}{{ m.content }}{{ raise_exception('no') }}{% endfor %}",
    b"{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", b"{{ 'x' * 10 ** 10 }}",
)  # fmt: skip
ARCHITECTURES = (b"gemma", b"qwen2", b"bloom", b"mamba", b"rwkv6", b"olmoe", b"arwkv", b"xxxxx")
"""As long as the "llama" whose place they take, in the names of all keys."""


class Field(NamedTuple):
    """Where something of the header stands: a whole number, a fraction, or a text behind its length."""

    kind: str
    at: int
    size: int


class _Walk:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self.found: list[Field] = []

    def number(self, size: int, kind: str = "number") -> int:
        self.found.append(Field(kind, self.at, size))
        self.at += size
        return int.from_bytes(self._data[self.at - size : self.at], "little")

    def text(self) -> None:
        begin = self.at
        self.at += _U64.size + _U64.unpack_from(self._data, begin)[0]
        self.found.append(Field("text", begin, self.at - begin))
        self.found.append(Field("number", begin, _U64.size))

    def value(self, kind: int) -> None:
        if kind == _STRING:
            self.text()
        elif kind == _ARRAY:
            of = self.number(4)
            for _ in range(self.number(8)):
                self.value(of)
        else:
            self.number(_SIZES[kind], "fraction" if kind in (6, 12) else "number")


def fields_of(data: bytes) -> tuple[list[Field], int]:
    """The fields of a good file's header, and where the header ends."""
    walk = _Walk(data)
    for size in (4, 4):  # magic, version
        walk.number(size)
    tensors, keys = walk.number(8), walk.number(8)
    for _ in range(keys):
        walk.text()
        walk.value(walk.number(4))
    for _ in range(tensors):
        walk.text()
        for _ in range(walk.number(4)):
            walk.number(8)
        walk.number(4)
        walk.number(8)
    return walk.found, walk.at


def mutated(data: bytes, number: int) -> bytes:
    """The mutant of that number."""
    dice = random.Random(number)
    deeds: tuple[Callable[[bytes, random.Random], bytes], ...]
    deeds = (_field, _texts, _architecture, _bits, _cut, _shuffled, _weights)
    return dice.choices(deeds, (50, 14, 4, 12, 8, 6, 6))[0](data, dice)


def _field(data: bytes, dice: random.Random) -> bytes:
    """Some fields are other than they were; vocabularies, which are most of all fields, no more often than the rest."""
    made = bytearray(data)
    fields = [field for field in fields_of(data)[0] if field.kind != "text"]
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        field = dice.choice(dice.choice((fields[:40], fields[-120:], fields)))
        made[field.at : field.at + field.size] = _other(data, field, dice)
    return bytes(made)


def _other(data: bytes, field: Field, dice: random.Random) -> bytes:
    if field.kind == "fraction":
        return pack("<f" if field.size == 4 else "<d", dice.choice(FLOATS))
    value = int.from_bytes(data[field.at : field.at + field.size], "little")
    near = value + dice.choice((-1, 1)), value * 2, value // 2, value ^ (1 << dice.randrange(8 * field.size))
    chosen = dice.choice((*NUMBERS, *near, *near, *near))
    return (chosen % (1 << 8 * field.size)).to_bytes(field.size, "little")


def _texts(data: bytes, dice: random.Random) -> bytes:
    """A key, a value, a token or a tensor's name reads differently, and everything behind it has moved."""
    fields, end = fields_of(data)
    texts = [field for field in fields if field.kind == "text"]
    field = dice.choice(dice.choice((texts[:30], texts[-20:], texts)))
    other = dice.choice(texts)
    theirs = data[other.at + _U64.size : other.at + other.size]
    text = dice.choice((*TEXTS, theirs, theirs, theirs))
    header = data[: field.at] + _U64.pack(len(text)) + text + data[field.at + field.size : end]
    return _padded(header) + data[len(_padded(data[:end])) :]


def _padded(header: bytes) -> bytes:
    return header + b"\0" * (-len(header) % _ALIGNMENT)


def _architecture(data: bytes, dice: random.Random) -> bytes:
    end = fields_of(data)[1]
    return data[:end].replace(b"llama", dice.choice(ARCHITECTURES)) + data[end:]


def _bits(data: bytes, dice: random.Random) -> bytes:
    made = bytearray(data)
    end = fields_of(data)[1]
    for _ in range(dice.choice((1, 2, 8, 64))):
        made[dice.randrange(end)] ^= 1 << dice.randrange(8)
    return bytes(made)


def _cut(data: bytes, dice: random.Random) -> bytes:
    end = fields_of(data)[1]
    size = dice.choice((dice.randrange(64), dice.randrange(end), dice.randrange(end, len(data))))
    return data[:size] + dice.choice((b"", b"", b"\0" * (len(data) - size), dice.randbytes(100)))


def _shuffled(data: bytes, dice: random.Random) -> bytes:
    """A piece of the header stands in another's place."""
    end = fields_of(data)[1]
    made = bytearray(data)
    source, target, size = dice.randrange(end), dice.randrange(end), dice.randrange(1, 200)
    made[target : target + size] = data[source : source + size]
    return bytes(made)


def _weights(data: bytes, dice: random.Random) -> bytes:
    """The numbers it computes with are any numbers, none among them."""
    end = len(_padded(data[: fields_of(data)[1]]))
    made = bytearray(data)
    for _ in range(dice.choice((1, 20, 500))):
        at = dice.randrange(end, len(data) - 4) & ~3
        made[at : at + 4] = pack("<f", dice.choice(FLOATS))
    return bytes(made)
