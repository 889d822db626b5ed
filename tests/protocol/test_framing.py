"""Frames survive any way of cutting the stream, and a limit is judged on the prefix alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal import framing
from vestal.errors import FrameTooLarge, MalformedFrame
from vestal.framing import HANDSHAKE_FRAME_LIMIT, MAX_FRAME_LIMIT, PREFIX, FrameReader, frame

PAYLOADS = st.lists(st.binary(max_size=40), max_size=8)


def read(reader: FrameReader, *chunks: bytes) -> list[bytes]:
    return [bytes(payload) for chunk in chunks for payload in reader.feed(chunk)]


def cut(stream: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(stream) + 1) for point in points), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(edges)]


@settings(deadline=None)
@given(PAYLOADS, st.lists(st.integers(0, 10_000), max_size=12))
def test_payloads_come_out_as_they_went_in_however_the_stream_is_cut(payloads: list[bytes], points: list[int]) -> None:
    stream = b"".join(frame(payload) for payload in payloads)
    reader = FrameReader()
    assert read(reader, *cut(stream, points)) == payloads
    assert reader.pending == 0
    reader.eof()


@settings(deadline=None)
@given(PAYLOADS)
def test_payloads_come_out_byte_by_byte(payloads: list[bytes]) -> None:
    stream = b"".join(frame(payload) for payload in payloads)
    assert read(FrameReader(), *(stream[index : index + 1] for index in range(len(stream)))) == payloads


@settings(deadline=None)
@given(st.binary(max_size=40), st.binary(min_size=1, max_size=40), st.data())
def test_what_is_left_of_a_frame_is_kept_and_an_end_there_is_a_fault(
    first: bytes, second: bytes, data: st.DataObject
) -> None:
    rest = frame(second)[: data.draw(st.integers(1, len(second) + 3))]
    reader = FrameReader()
    assert read(reader, frame(first) + rest) == [first]
    assert reader.pending == len(rest)
    with pytest.raises(MalformedFrame) as fault:
        reader.eof()
    assert fault.value.details["received"] == len(rest)
    assert fault.value.details["expected"] > len(rest)


def test_a_payload_that_arrived_whole_is_not_copied() -> None:
    stream = bytearray(frame(b"abc"))
    (payload,) = FrameReader().feed(stream)
    stream[-1:] = b"X"
    assert bytes(payload) == b"abX"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_read(kind: type[bytes | bytearray | memoryview]) -> None:
    assert read(FrameReader(), kind(frame(b"ab")[:5]), kind(frame(b"ab")[5:] + frame(b"c"))) == [b"ab", b"c"]  # type: ignore[arg-type]  # any buffer is taken


@pytest.mark.parametrize("limit", [0, 10, HANDSHAKE_FRAME_LIMIT])
def test_a_payload_of_exactly_the_limit_passes_and_one_byte_more_does_not(limit: int) -> None:
    assert read(FrameReader(limit), frame(bytes(limit), limit)) == [bytes(limit)]
    with pytest.raises(FrameTooLarge) as fault:
        read(FrameReader(limit), PREFIX.pack(limit + 1))
    assert fault.value.details == {"size": limit + 1, "limit": limit}
    with pytest.raises(FrameTooLarge):
        frame(bytes(limit + 1), limit)


def test_the_limit_is_judged_before_a_byte_of_the_payload_has_come() -> None:
    reader = FrameReader()
    assert read(reader, b"\xff\xff\xff") == []
    with pytest.raises(FrameTooLarge, match="4294967295 bytes, the limit is 65536"):
        read(reader, b"\xff")


def test_frames_before_the_one_that_is_too_large_are_still_read() -> None:
    payloads = FrameReader(8).feed(frame(b"first") + PREFIX.pack(9))
    assert bytes(next(payloads)) == b"first"
    with pytest.raises(FrameTooLarge):
        next(payloads)


def test_a_limit_raised_between_two_frames_of_one_chunk_counts_for_the_second() -> None:
    reader, got = FrameReader(4), []
    for payload in reader.feed(frame(b"hi") + frame(b"a longer payload")):
        got.append(bytes(payload))
        reader.limit = MAX_FRAME_LIMIT
    assert got == [b"hi", b"a longer payload"]


def test_the_hint_tells_which_limit_it_was() -> None:
    with pytest.raises(FrameTooLarge) as before:
        read(FrameReader(), PREFIX.pack(HANDSHAKE_FRAME_LIMIT + 1))
    with pytest.raises(FrameTooLarge) as after:
        read(FrameReader(MAX_FRAME_LIMIT), PREFIX.pack(MAX_FRAME_LIMIT + 1))
    assert "before `welcome`" in str(before.value.hint)
    assert "welcome.limits.frame" in str(after.value.hint)


def test_the_reader_shows_what_it_holds() -> None:
    reader = FrameReader(99)
    assert read(reader, b"\x00\x00\x00\x05ab") == []
    assert repr(reader) == "<FrameReader pending=6 limit=99>"


def test_every_exported_name_exists() -> None:
    assert all(hasattr(framing, name) for name in framing.__all__)
