"""Deterministic vectors."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.backend import EmbedRequest
from vestal.errors import Unsupported
from vestal_adapters.echo.vectors import DIMENSIONS, embedded, vector_of


@given(st.text(), st.integers(1, 64))
def test_equal_texts_have_equal_vectors_of_length_one(text: str, dimensions: int) -> None:
    vector = vector_of(text, dimensions, normalize=True)
    assert vector == vector_of(text, dimensions, normalize=True)
    assert math.hypot(*vector) == pytest.approx(1)


@given(st.text(), st.text())
def test_different_texts_differ(one: str, other: str) -> None:
    same = embedded(EmbedRequest(input=[one])).data == embedded(EmbedRequest(input=[other])).data
    assert same == (one == other)


def test_the_result_is_row_major_little_endian_in_input_order() -> None:
    result = embedded(EmbedRequest(input=["a b", "", "c"]))
    assert (result.count, result.dimensions, result.input_tokens) == (3, DIMENSIONS, 3)
    rows = list(struct.iter_unpack(f"<{DIMENSIONS}f", result.data))
    for row, text in zip(rows, ["a b", "", "c"], strict=True):
        assert row == pytest.approx(vector_of(text, DIMENSIONS, normalize=True), rel=1e-6)


def test_dimensions_and_scale_are_honoured() -> None:
    result = embedded(EmbedRequest(input=["x"], dimensions=3, normalize=False))
    vector = struct.unpack("<3f", result.data)
    assert math.hypot(*vector) != pytest.approx(1)
    assert all(-1 <= part <= 1 for part in vector)
    assert embedded(EmbedRequest(input=[])).data == b""


@pytest.mark.parametrize("dimensions", [0, -1, 5000])
def test_other_dimensions_are_refused(dimensions: int) -> None:
    with pytest.raises(Unsupported, match="1 to 4096"):
        embedded(EmbedRequest(input=["x"], dimensions=dimensions))


def test_a_task_is_unsupported() -> None:
    with pytest.raises(Unsupported) as caught:
        embedded(EmbedRequest(input=["x"], task="query"))
    assert caught.value.details == {"option": "task"}
