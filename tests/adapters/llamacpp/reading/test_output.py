"""An answer's bytes to events: characters, thinking, calls and stop strings together, and every token counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal.backend import TextEvent, ThinkingEvent, ToolUseEvent
from vestal_adapters.llamacpp.families import DEFAULT
from vestal_adapters.llamacpp.reading.calls import CallSplitter
from vestal_adapters.llamacpp.reading.output import Piece, Reader, joined
from vestal_adapters.llamacpp.reading.thinking import ThinkingSplitter, find_tags

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
CALLED = ("call", ("f", {"x": 1}))


def reader(stops: Sequence[str] = (), **options: Any) -> Reader:
    """For a model that thinks and calls."""
    tags = find_tags("<think>")
    assert tags is not None
    return Reader(stops, thinking=ThinkingSplitter(tags, opened=False), calls=CallSplitter(DEFAULT, ["f"]), **options)


def run(reader: Reader, tokens: Iterable[bytes]) -> list[Piece]:
    pieces: list[Piece] = []
    for token in tokens:
        pieces += reader.feed(token)
        if reader.stopped:
            break
    return pieces + reader.finish()


def events(pieces: Iterable[Piece]) -> list[tuple[str, Any]]:
    """What came, neighbours of a kind joined."""
    found: list[tuple[str, Any]] = []
    for event, _ in pieces:
        if isinstance(event, ToolUseEvent):
            found.append(("call", (event.name, event.input)))
            continue
        kind = "text" if isinstance(event, TextEvent) else "thinking"
        if found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + event.text)
        else:
            found.append((kind, event.text))
    return found


def plain(tokens: Iterable[bytes]) -> str:
    return "".join(text for _, text in events(run(Reader(), tokens)))


def all_cuts(data: bytes) -> Iterable[list[bytes]]:
    """Every way to cut the bytes into pieces."""
    for cuts in product((False, True), repeat=max(len(data) - 1, 0)):
        pieces, piece = [], data[:1]
        for byte, cut in zip(data[1:], cuts, strict=True):
            if cut:
                pieces.append(piece)
                piece = b""
            piece += bytes([byte])
        yield [*pieces, piece]


# --- characters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "héllo", "a😀b", "\N{ZERO WIDTH JOINER}👩‍👩", "\x00\x7f"])
def test_text_comes_out_as_it_went_in_however_it_is_cut(text: str) -> None:
    for pieces in all_cuts(text.encode()[:14]):
        assert plain(pieces) == text.encode()[:14].decode("utf-8", "replace")


def test_no_piece_ever_ends_in_half_a_character() -> None:
    for pieces in all_cuts("é😀x".encode()):
        stream = Reader()
        for piece in pieces:
            assert "\N{REPLACEMENT CHARACTER}" not in str(events(stream.feed(piece)))


def test_a_whole_character_is_not_held_back() -> None:
    stream = Reader()
    assert events(stream.feed("é".encode())) == [("text", "é")]
    assert stream.feed(b"\xf0\x9f\x98") == []
    assert events(stream.feed(b"\x80")) == [("text", "😀")]


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"a\xff", "a\ufffd"), (b"\xf0\x9f", "\ufffd"), (b"\xe2\x82x", "\ufffdx"), (b"\xc3", "\ufffd")],
)
def test_invalid_bytes_become_replacement_characters(data: bytes, text: str) -> None:
    for pieces in all_cuts(data):
        assert plain(pieces) == text


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5)))
def test_any_bytes_come_out_as_if_they_had_come_at_once(pieces: list[bytes]) -> None:
    assert plain(pieces) == b"".join(pieces).decode("utf-8", "replace")


# --- all stages -----------------------------------------------------------------------------------------------


def test_thinking_text_and_calls_come_in_order() -> None:
    answer = f"<think>\nhm\n</think>\n\nLet me see.\n{CALL}\n{CALL}"
    expected = [("thinking", "hm"), ("text", "Let me see."), CALLED, CALLED]
    for tokens in ([answer.encode()], [bytes([byte]) for byte in answer.encode()]):
        stream = reader()
        assert events(run(stream, tokens)) == expected
        assert stream.called
        assert stream.notices == []


def test_each_call_has_an_id_of_its_own_that_every_template_takes() -> None:
    ids = [piece.event.call_id for piece in run(reader(), [CALL.encode()] * 9) if isinstance(piece.event, ToolUseEvent)]
    assert len(set(ids)) == 9
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids)


def test_thinking_holds_no_calls_and_calls_hold_no_thinking() -> None:
    assert events(run(reader(), [f"<think>{CALL}</think>a".encode()])) == [("thinking", CALL), ("text", "a")]
    answer = b'<tool_call>{"name": "f", "arguments": {"x": "<think></think>"}}</tool_call>'
    assert events(run(reader(), [answer])) == [("call", ("f", {"x": "<think></think>"}))]


def test_a_call_that_cannot_be_read_is_text_with_a_notice() -> None:
    stream = reader()
    assert events(run(stream, [b"a <tool_call>{1}", b" b"])) == [("text", "a <tool_call>{1} b")]
    assert [notice.code for notice in stream.notices] == ["tool_call_malformed"]


def test_thinking_that_is_not_shown_is_said_to_be_left_out() -> None:
    stream = reader(shows_thinking=False)
    assert events(run(stream, [b"<think>", b"hm", b"</think>", b"a"])) == [("text", "a")]
    assert [notice.code for notice in stream.notices] == ["thinking_left_out"]


@pytest.mark.parametrize(
    ("answer", "stop", "expected", "stopped"),
    [
        ("<think>a. b</think>c. d", ".", [("thinking", "a. b"), ("text", "c")], True),
        (f"see{CALL}. x", "x", [("text", "see"), CALLED, ("text", ". ")], True),
        (f"see{CALL}", '"name"', [("text", "see"), CALLED], False),
        (f"a{CALL}b", "ab", [("text", "a"), CALLED, ("text", "b")], False),
        ("a <tool_call>{", "l_c", [("text", "a <too")], True),
    ],
)
def test_a_stop_string_counts_in_text_only(answer: str, stop: str, expected: list[Any], stopped: bool) -> None:
    for tokens in ([answer.encode()], [bytes([byte]) for byte in answer.encode()]):
        stream = reader([stop])
        assert events(run(stream, tokens)) == expected
        assert stream.stopped is stopped


FRAGMENTS = ("<think>", "</think>", CALL, "<tool_call>", "{", " ", "\n", "text", "é", "<", "stop", "st")


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=9).map(lambda parts: "".join(parts).encode()),
    st.lists(st.integers(0, 400), max_size=8),
    st.booleans(),
)
def test_the_events_are_the_same_wherever_the_tokens_end(answer: bytes, places: list[int], stops: bool) -> None:
    borders = [0, *sorted({place % (len(answer) + 1) for place in places}), len(answer)]
    tokens = [answer[start:end] for start, end in pairwise(borders)]
    one, other = (reader(["stop"] if stops else ()) for _ in range(2))
    assert events(run(one, tokens)) == events(run(other, [answer]))
    assert (one.stopped, one.called, one.notices) == (other.stopped, other.called, other.notices)


# --- tokens ---------------------------------------------------------------------------------------------------


def counted(pieces: Iterable[Piece]) -> list[tuple[int, int]]:
    return [(piece.event.tokens, piece.silent) for piece in pieces]


def test_each_token_is_counted_with_what_it_made() -> None:
    tokens = [b"<think>", b"\n", b"hm", b", hm", b"</think>", b"\n\n", b"Yes", b".", b"\n", CALL.encode()]
    assert counted(run(reader(), tokens)) == [(3, 2), (1, 0), (3, 2), (1, 0), (2, 1)]


def test_tokens_that_were_held_back_are_counted_when_they_come() -> None:
    assert counted(run(reader(), [b"a", b" <", b"tool", b"box", b">", b" "])) == [(1, 0), (3, 0), (1, 0), (1, 0)]
    assert counted(run(Reader(), [b"so", *(bytes([byte]) for byte in "😀".encode()), b"", b"!"])) == [
        (1, 0), (4, 0), (2, 0),
    ]  # fmt: skip


def test_a_token_that_makes_two_kinds_counts_once() -> None:
    assert counted(run(reader(), [b"<think>a</think>b", b"c"])) == [(1, 0), (0, 0), (1, 0)]


@settings(deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=9))
def test_no_token_is_counted_twice(parts: list[str]) -> None:
    tokens = [part.encode() for part in parts]
    pieces = run(reader(), tokens)
    assert sum(piece.event.tokens for piece in pieces) <= len(tokens)
    assert all(0 <= piece.silent <= piece.event.tokens for piece in pieces)
    if pieces and tokens[-1] in (b"text", b"st", CALL.encode()):
        assert sum(piece.event.tokens for piece in pieces) == len(tokens)


def test_pieces_of_a_kind_are_joined() -> None:
    one, two = Piece(TextEvent("a", 1), 0), Piece(TextEvent("b", 2), 0)
    assert joined([one], [two]) == [Piece(TextEvent("ab", 3), 0)]
    assert joined([one], [Piece(ThinkingEvent("b"), 0)]) == [one, Piece(ThinkingEvent("b"), 0)]
    assert len(joined([one], [Piece(TextEvent("b", 2), 1)])) == 2


def test_a_reader_says_what_it_does() -> None:
    assert "ThinkingSplitter" in repr(reader())
    assert "CallSplitter of hermes" in repr(reader())
