"""Server-sent events: the standard's own examples, any cutting of the stream, and bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.errors import ContextOverflow
from vestal_adapters.remote.openai.answers import ChatAnswer
from vestal_adapters.remote.sse import Event, EventTooLarge, SseParser


def parsed(stream: bytes) -> list[Event]:
    return SseParser().feed(stream)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")]),
        (b": test stream\n\ndata: first\nid: 1\n\ndata:second\nid\n\n", [Event("first"), Event("second")]),
        (b"data:  third event\n\n", [Event(" third event")]),
        (b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")]),
        (b"data:test\n\ndata: test\n\n", [Event("test"), Event("test")]),
        (b"event: add\ndata: 73857293\n\n", [Event("73857293", "add")]),
        (b"event: add\n\ndata: x\n\n", [Event("x")]),
        (b"\xef\xbb\xbfdata: x\r\n\r\n", [Event("x")]),
        (b"data: x\r\r", [Event("x")]),
        (b"retry: 10\nunknown: y\ndata: x\n\n", [Event("x")]),
        (b"data: \xff\n\n", [Event("\N{REPLACEMENT CHARACTER}")]),
        (b"data: half an ev", []),
    ],
)  # fmt: skip
def test_the_standards_examples_and_corners(stream: bytes, events: list[Event]) -> None:
    assert parsed(stream) == events


PIECE = st.sampled_from(
    [b"data", b":", b" ", b"\n", b"\r", b"\r\n", b"event", b"id", b"\xef\xbb\xbf", "\u2603".encode(), b"x", b"\n\n"]
)


@given(pieces=st.lists(PIECE, max_size=40), cuts=st.lists(st.integers(0, 120), max_size=20))
def test_events_do_not_depend_on_where_the_stream_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    parser, places = SseParser(), sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    events = [
        event
        for start, end in pairwise(places)
        for event in parser.feed(stream[start:end])
    ]  # fmt: skip
    whole = SseParser()
    assert events == whole.feed(stream)
    assert parser.unfinished == whole.unfinished


@given(
    data=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
    ending=st.sampled_from(["\n", "\r", "\r\n"]),
)
def test_what_is_sent_as_data_comes_out_as_data(data: str, ending: str) -> None:
    parser = SseParser()
    stream = f"data: {data}{ending}{ending}".encode()
    assert [event for byte in stream for event in parser.feed(bytes([byte]))] == [Event(data)]
    assert not parser.unfinished


@pytest.mark.parametrize("stream", [b"data: half", b"data: half\n", b"event: half\n"])
def test_half_an_event_is_known_to_be_unfinished(stream: bytes) -> None:
    parser = SseParser()
    assert parser.feed(stream) == []
    assert parser.unfinished


def test_a_line_that_does_not_end_is_bounded() -> None:
    parser = SseParser(limit=100)
    parser.feed(b"x" * 100)
    with pytest.raises(EventTooLarge, match="a line has more than 100 bytes"):
        parser.feed(b"x")


def test_an_event_of_many_lines_is_bounded() -> None:
    parser = SseParser(limit=100)
    with pytest.raises(EventTooLarge, match="an event has more than 100 bytes"):
        parser.feed(b"data: 123456789\n" * 7)


def test_events_one_after_another_are_not_added_up() -> None:
    assert len(SseParser(limit=100).feed(b"data: 123456789\n\n" * 50)) == 50


def test_an_error_that_is_a_field_is_an_error_like_others() -> None:
    """As llama-server sent it until late in 2025: before it, or instead of an answer."""
    refused = b'error: {"code":400,"message":"the request exceeds the available context size"}\n\ndata: [DONE]\n\n'
    event, _ = SseParser().feed(refused)
    with pytest.raises(ContextOverflow, match="answered 400: the request exceeds"):
        ChatAnswer("served", v2=True, prompt_size=0).feed(event.data)
