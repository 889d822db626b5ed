"""Lines of JSON, cut anywhere, and bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal_adapters.remote.ndjson import LineParser
from vestal_adapters.remote.sse import Event, EventTooLarge


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'{"a": 1}\n{"b": 2}\n', [Event('{"a": 1}'), Event('{"b": 2}')]),
        (b"a\r\nb\r\n", [Event("a"), Event("b")]),
        (b"\n \n\na\n", [Event("a")]),
        (b"a\nhalf", [Event("a")]),
        (b"\xff\n", [Event("\N{REPLACEMENT CHARACTER}")]),
        (b"a\rb\n", [Event("a\rb")]),  # which a JSON text holds only as white space
    ],
)
def test_lines_and_corners(stream: bytes, events: list[Event]) -> None:
    parser = LineParser()
    assert parser.feed(stream) == events
    assert parser.unfinished == stream.endswith(b"half")


PIECE = st.sampled_from([b"{", b'"a"', b"\n", b"\r\n", b" ", "\u2603".encode(), b"\n\n"])


@given(pieces=st.lists(PIECE, max_size=40), cuts=st.lists(st.integers(0, 120), max_size=20))
def test_lines_do_not_depend_on_where_the_stream_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    parser, whole = LineParser(), LineParser()
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    events = [event for start, end in pairwise(places) for event in parser.feed(stream[start:end])]
    assert events == whole.feed(stream)
    assert parser.unfinished == whole.unfinished


@pytest.mark.parametrize("step", [1, 7, 64])
def test_a_line_that_never_ends_costs_a_bounded_amount(step: int) -> None:
    parser, fed = LineParser(limit=64), 0
    with pytest.raises(EventTooLarge, match="more than 64 bytes"):
        for _ in range(100):
            fed += step
            parser.feed(b"x" * step)
    assert fed <= 64 + step


def test_a_line_of_the_largest_size_is_taken_and_a_longer_one_is_not_even_if_it_comes_whole() -> None:
    parser = LineParser(limit=4)
    assert parser.feed(b"xxxx\nyyyy\n") == [Event("xxxx"), Event("yyyy")]
    with pytest.raises(EventTooLarge):
        parser.feed(b"xxxxx\n")
