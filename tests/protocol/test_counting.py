"""Counting the values of a payload: the same number that a decoder would make, without making them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.counting import MAX_VALUES, has_more_values

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=40))
)
VALUES = st.recursive(
    LEAVES, lambda inside: st.lists(inside, max_size=20) | st.dictionaries(st.text(max_size=3), inside, max_size=20)
)
ARRAY_32 = b"\xdd"


def count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + count(one) for one in value.values())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


def padded(payload: bytes) -> bytes:
    """A payload that is looked at whatever the limit is: its first value stands beside one long text."""
    return b"\x92" + payload + msgspec.msgpack.encode("x" * 100_000)


@given(VALUES)
def test_as_many_as_there_are_and_not_one_more(value: Any) -> None:
    payload = padded(msgspec.msgpack.encode(value))
    assert not has_more_values(payload, count(value) + 2)
    assert has_more_values(payload, count(value) + 1)
    assert has_more_values(memoryview(payload), count(value) + 1)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(b"\xdc\x00\x02\xc0\xc0", id="array 16"),
        pytest.param(b"\xdd\x00\x00\x00\x02\xc0\xc0", id="array 32"),
        pytest.param(b"\xde\x00\x01\xc0\xc0", id="map 16"),
        pytest.param(b"\xdf\x00\x00\x00\x01\xc0\xc0", id="map 32"),
    ],
)
def test_every_form_of_a_count(one: bytes) -> None:
    assert not has_more_values(padded(one), 5)
    assert has_more_values(padded(one), 4)


SCALARS = zip(range(0xCA, 0xD4), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True)
LONG = zip((0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xD9, 0xDA, 0xDB), (1, 2, 4) * 3, strict=True)


@pytest.mark.parametrize(
    "one",
    [
        *(bytes([head]) + b"\x91" * size for head, size in SCALARS),
        *(bytes([0xD4 + power, 5]) + b"\x91" * 2**power for power in range(5)),
        *(bytes([head]) + (9).to_bytes(width, "big") + b"\x91" * (9 + (0xC7 <= head <= 0xC9)) for head, width in LONG),
        *(bytes([0xA0 + size]) + b"\x91" * size for size in (0, 1, 31)),
    ],
    ids=lambda one: f"{one[0]:02x}",
)
def test_what_is_inside_a_text_is_none(one: bytes) -> None:
    """Each is one value, however much of it looks like arrays."""
    assert not has_more_values(padded(one), 3)
    assert has_more_values(padded(one), 2)


def test_one_that_claims_more_than_it_has_is_not_waited_for() -> None:
    assert has_more_values(ARRAY_32 + b"\xff" * 4 + b"\xc0" * MAX_VALUES)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_no_bytes_raise(payload: bytes, most: int) -> None:
    has_more_values(payload, most)


def test_a_short_payload_is_not_looked_at() -> None:
    assert not has_more_values(ARRAY_32 + b"\xff" * 4, 5)
