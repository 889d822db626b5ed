"""Embeddings are what was asked for, in order, or an error."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest

from vestal.backend import EmbedRequest
from vestal.errors import BackendCrashed, Unsupported
from vestal_adapters.remote.openai.presets import PRESETS
from vestal_adapters.remote.openai.vectors import EmbeddingPage, embeddings_body, vectors_of

TWO = EmbedRequest(input=["a", "b"])


def page(*rows: tuple[int, list[float]], usage: dict[str, int] | None = None) -> EmbeddingPage:
    data = [{"index": index, "embedding": vector} for index, vector in rows]
    return msgspec.convert({"data": data, "usage": usage}, EmbeddingPage)


def test_vectors_are_put_in_order_and_made_of_length_one() -> None:
    result = vectors_of(page((1, [0, 2]), (0, [3, 4]), usage={"prompt_tokens": 6}), TWO, 2, "x")
    assert struct.unpack("<4f", result.data) == pytest.approx([0.6, 0.8, 0, 1])
    assert (result.count, result.dimensions, result.input_tokens) == (2, 2, 6)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([(0, [1, 0])], "1 vectors for 2 texts"),
        ([(0, [1, 0]), (0, [1, 0])], "twice the same"),
        ([(0, [1, 0]), (1, [1, 0]), (2, [1, 0])], "3 vectors for 2"),
        ([(0, [1, 0]), (1, [1])], "instead of 2"),
        ([(0, [1, 0, 0]), (1, [1, 0, 0])], "vectors of 3 dimensions instead of 2"),
        ([(0, []), (1, [])], "0 dimensions"),
        ([(0, [0, 0]), (1, [1, 0])], "no direction"),
    ],
)
def test_vectors_that_are_not_what_was_asked_for(rows: Any, why: str) -> None:
    with pytest.raises(BackendCrashed, match=why) as failed:
        vectors_of(page(*rows), TWO, 2, "x")
    assert not failed.value.retryable


def test_what_the_api_cannot_do_is_refused_by_name() -> None:
    for request, option in (
        (EmbedRequest(input=["a"], task="query"), "task"),
        (EmbedRequest(input=["a"], normalize=False), "normalize"),
        (EmbedRequest(input=["a"], dimensions=2), "dimensions"),
    ):
        with pytest.raises(Unsupported) as refused:
            embeddings_body(request, PRESETS["ollama"], "m")
        assert refused.value.details == {"option": option}


def test_the_dimensions_that_the_model_has_anyway_can_be_asked_of_every_server() -> None:
    request = EmbedRequest(input=["a"], dimensions=2)
    assert "dimensions" not in embeddings_body(request, PRESETS["ollama"], "m", 2)
    with pytest.raises(BackendCrashed, match="3 dimensions instead of 2"):
        vectors_of(page((0, [1, 0, 0])), request, 2, "x")


def test_dimensions_go_out_where_they_are_honoured_and_are_held_to() -> None:
    request = EmbedRequest(input=["a"], dimensions=2)
    assert embeddings_body(request, PRESETS["openai"], "m")["dimensions"] == 2
    with pytest.raises(BackendCrashed, match="3 dimensions instead of 2"):
        vectors_of(page((0, [1, 0, 0])), request, 4, "x")
    with pytest.raises(Unsupported, match="cuts no vectors short"):  # it gives its own, whatever is asked for
        vectors_of(page((0, [1, 0, 0])), request, 3, "x")
