"""Frames become results: in order, whole, and only once the end has come."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal import messages as m
from vestal.errors import ContextOverflow, LocalProtocolError, RemoteProtocolError
from vestal.results import Answer, Embeddings
from vestal.testing import done
from vestal.values import Notice, TextBlock, ThinkingBlock, TokenLogprob, ToolUseBlock, TopLogprob, Usage


def answer_of(*batches: list[Any], version: int = 2) -> Answer:
    answer = Answer(version)
    for batch in batches:
        answer.add(batch)
    return answer


def test_v1_tokens_are_one_text_block() -> None:
    result = answer_of([m.Token(1, "Hel"), m.Token(1, "lo")], [done(1)], version=1).result()
    assert result.content == [TextBlock("Hello")]
    assert (result.text, result.thinking, result.tool_uses) == ("Hello", "", [])


def test_v1_without_a_token_is_one_empty_text_block() -> None:
    assert answer_of([done(1)], version=1).result().content == [TextBlock("")]
    assert answer_of([done(1)]).result().content == []


def test_deltas_of_one_kind_merge_and_the_order_of_kinds_stays() -> None:
    call = m.ToolUse(id=1, call_id="c", name="weather", input={"city": "Rome"})
    other = m.ToolUse(id=1, call_id="d", name="clock", input={})
    thoughts = [m.ThinkingDelta(1, "hm"), m.ThinkingDelta(1, "m")]
    texts = [m.Text(1, "Let me "), m.Text(1, "look.")]
    queued = m.Queued(id=1, position=1, depth=1)
    result = answer_of([queued, *thoughts, *texts, call, other, m.Text(1, "So."), done(1, "tool_use")]).result()
    use, another = ToolUseBlock("c", "weather", {"city": "Rome"}), ToolUseBlock("d", "clock", {})
    assert result.content == [ThinkingBlock("hmm"), TextBlock("Let me look."), use, another, TextBlock("So.")]
    assert (result.text, result.thinking, result.tool_uses) == ("Let me look.So.", "hmm", [use, another])
    assert result.stop_reason == "tool_use"


def test_a_whole_answer_is_taken_from_done() -> None:
    assert answer_of([done(1, text="Hi")], version=1).result().content == [TextBlock("Hi")]
    blocks: list[Any] = [ThinkingBlock("hm"), TextBlock("Hi")]
    assert answer_of([done(1, content=blocks)]).result().content == blocks


@pytest.mark.parametrize("piece", [m.Token, m.Text])
def test_probabilities_come_with_the_pieces_or_with_done(piece: type[m.Token | m.Text]) -> None:
    hel = TokenLogprob(b"Hel", -0.1, (TopLogprob(b"Hel", -0.1), TopLogprob(b"Ha", -2.0)))
    lo = TokenLogprob(b"lo", -0.5)
    assert answer_of([piece(1, "Hel", (hel,)), piece(1, "lo", (lo,)), done(1)]).result().logprobs == (hel, lo)
    whole = m.Done(**{**msgspec.structs.asdict(done(1, text="Hello")), "logprobs": (hel, lo)})
    assert answer_of([whole]).result().logprobs == (hel, lo)
    assert answer_of([piece(1, "Hello"), done(1)]).result().logprobs == ()


def test_before_the_end_there_is_no_result() -> None:
    answer = answer_of([m.Text(1, "Hi")])
    assert answer.more()
    with pytest.raises(LocalProtocolError, match="has not ended yet"):
        answer.result()


def test_an_error_comes_after_the_pieces_before_it_and_stays() -> None:
    answer = Answer()
    error = m.Error(id=1, code="context_overflow", message="9 > 8", retryable=False, details={"context": 8})
    assert answer.add([m.Text(1, "Hi"), error]) == [m.Text(1, "Hi")]
    for again in (answer.more, answer.more, answer.result):
        with pytest.raises(ContextOverflow, match="9 > 8") as caught:
            again()
        assert caught.value.details == {"context": 8}


def test_a_closed_answer_says_so_unless_the_end_was_faster() -> None:
    answer = answer_of([m.Text(1, "Hi")])
    answer.closed = True
    answer.lost(RemoteProtocolError("x"))
    assert not answer.more()
    with pytest.raises(LocalProtocolError, match="closed before its end"):
        answer.result()
    ended = answer_of([done(1)])
    ended.closed = True
    assert ended.result().stop_reason == "end"


deltas = st.lists(st.tuples(st.sampled_from([m.Text, m.ThinkingDelta]), st.text(max_size=5)), max_size=30)


@given(pieces=deltas, cuts=st.lists(st.integers(0, 31), max_size=4))
def test_however_frames_are_batched_the_result_is_the_same(pieces: list[Any], cuts: list[int]) -> None:
    frames = [*(kind(1, text) for kind, text in pieces), done(1)]
    edges = [0, *sorted(min(cut, len(frames)) for cut in cuts), len(frames)]
    batches = [frames[a:b] for a, b in pairwise(edges) if a < b]
    result = answer_of(*batches).result()
    assert result == answer_of(frames).result()
    assert result.text == "".join(text for kind, text in pieces if kind is m.Text)
    assert result.thinking == "".join(text for kind, text in pieces if kind is m.ThinkingDelta)
    kinds = [type(block) for block in result.content]
    assert all(a is not b for a, b in pairwise(kinds))


def vectors(rows: list[list[float]], **changed: Any) -> m.Embeddings:
    data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    fields = {"id": 1, "count": len(rows), "dimensions": len(rows[0]), "dtype": "f32le", "data": data, "usage": Usage(),
              "model": "minilm", "backend": "vectors"}  # fmt: skip
    return m.Embeddings(**{**fields, **changed})


def test_vectors_come_as_rows_lists_and_an_array() -> None:
    embeddings = Embeddings.of(vectors([[0.5, -1.0, 2.0], [1.5, 0.0, 4.0]]))
    assert embeddings.vectors == [[0.5, -1.0, 2.0], [1.5, 0.0, 4.0]]
    assert list(embeddings.row(1)) == list(embeddings.row(-1)) == [1.5, 0.0, 4.0]
    assert (len(embeddings), embeddings.count, embeddings.dimensions) == (2, 2, 3)
    assert embeddings.row(0).readonly
    array = embeddings.to_numpy()
    assert (array.shape, array.dtype.str, array.tolist()) == ((2, 3), "<f4", embeddings.vectors)


@pytest.mark.parametrize("index", [2, -3])
def test_a_row_that_is_not_there_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"row {index} of 2"):
        Embeddings.of(vectors([[1.0], [2.0]])).row(index)


@pytest.mark.parametrize("changed", [{"count": 2}, {"dimensions": 4}, {"dtype": "f16le"}, {"data": b""}])
def test_vectors_whose_numbers_disagree_are_the_daemons_fault(changed: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match="expected"):
        Embeddings.of(vectors([[1.0, 2.0, 3.0]], **changed))


def test_vectors_say_who_made_how_many_of_them() -> None:
    parts = [m.EmbedPart(backend="near", count=2), m.EmbedPart(backend="far", count=1)]
    notice = Notice("retried", "1 text again on far")
    shared = Embeddings.of(vectors([[1.0], [2.0], [3.0]], parts=parts, notices=[notice]))
    assert (shared.parts, shared.notices) == (tuple(parts), (notice,))
    assert Embeddings.of(vectors([[1.0]])).parts == ()
    with pytest.raises(RemoteProtocolError, match="2 vectors, and the parts have 3"):
        Embeddings.of(vectors([[1.0], [2.0]], parts=parts))


def test_reprs_show_numbers_and_little_text() -> None:
    result = answer_of([m.Text(1, "x" * 1000), done(1, output_tokens=3)]).result()
    assert len(repr(result)) < 250
    assert "end" in repr(result)
    assert repr(Embeddings.of(vectors([[1.0, 2.0]]))).startswith("<Embeddings 1 x 2 by 'minilm'")
