"""Bytes to text: whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal_adapters.llamacpp.text import StopMatcher, TextStream


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The slow and obvious way: character by character, the longest of the stop strings that are complete."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


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


def run(pieces: Iterable[bytes], stops: Sequence[str] = ()) -> tuple[str, bool]:
    stream = TextStream(stops)
    text = "".join([stream.feed(piece) for piece in pieces])
    return text + stream.finish(), stream.stopped


@pytest.mark.parametrize("text", ["", "héllo", "a😀b", "\N{ZERO WIDTH JOINER}👩‍👩", "\x00\x7f"])
def test_text_comes_out_as_it_went_in_however_it_is_cut(text: str) -> None:
    for pieces in all_cuts(text.encode()[:14]):
        assert run(pieces)[0] == text.encode()[:14].decode("utf-8", "replace")


def test_no_piece_ever_ends_in_half_a_character() -> None:
    for pieces in all_cuts("é😀x".encode()):
        stream = TextStream()
        for piece in pieces:
            assert "\N{REPLACEMENT CHARACTER}" not in stream.feed(piece)


def test_a_whole_character_is_not_held_back() -> None:
    stream = TextStream()
    assert stream.feed("é".encode()) == "é"
    assert stream.feed(b"\xf0\x9f\x98") == ""
    assert stream.feed(b"\x80") == "😀"


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"a\xff", "a\ufffd"), (b"\xf0\x9f", "\ufffd"), (b"\xe2\x82x", "\ufffdx"), (b"\xc3", "\ufffd")],
)
def test_invalid_bytes_become_replacement_characters(data: bytes, text: str) -> None:
    for pieces in all_cuts(data):
        assert run(pieces)[0] == text


@given(st.lists(st.binary(max_size=5)))
def test_any_bytes_come_out_as_if_they_had_come_at_once(pieces: list[bytes]) -> None:
    assert run(pieces)[0] == b"".join(pieces).decode("utf-8", "replace")


# --- stop strings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["ab"], "xabx"),
        (["ab"], "aab"),
        (["aab"], "aaab"),
        (["abab"], "abaabab"),
        (["abc", "b"], "abc"),
        (["bc", "abc"], "xabcx"),
        (["cd", "abce"], "abcd"),
        (["abcde"], "abcdx"),
        (["é!"], "caé!"),
    ],
)
def test_stop_strings_cut_the_same_wherever_the_tokens_end(stops: list[str], text: str) -> None:
    for pieces in all_cuts(text.encode()):
        assert run(pieces, stops) == cut_at_stop(text, stops)


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=4), st.lists(st.text("abc", max_size=4)))
def test_any_stop_strings_cut_like_the_obvious_way(stops: list[str], pieces: list[str]) -> None:
    assert run([piece.encode() for piece in pieces], stops) == cut_at_stop("".join(pieces), stops)


@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3), st.text("abc"))
def test_what_is_out_stays_right_whatever_comes_after(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    out = "".join(matcher.feed(char) for char in text)
    assert cut_at_stop(text, stops)[0].startswith(out)
    if not matcher.stopped:  # whatever is held back could be the beginning of a stop string
        held = text[len(out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_nothing_comes_after_a_stop_string() -> None:
    stream = TextStream(["."])
    assert stream.feed(b"one. two") == "one"
    assert stream.stopped
    assert stream.feed(b"three") == ""
    assert stream.finish() == ""


def test_what_was_held_back_comes_out_at_the_end() -> None:
    stream = TextStream(["</answer>"])
    assert stream.feed(b"yes </ans") == "yes "
    assert stream.finish() == "</ans"
    assert not stream.stopped


def test_text_that_turns_out_to_be_no_stop_string_comes_with_the_next_piece() -> None:
    stream = TextStream(["</answer>"])
    stream.feed(b"a </ans")
    assert stream.feed(b"et>") == "</anset>"


def test_a_stop_string_of_invalid_bytes_can_end_with_the_text() -> None:
    assert run([b"ab\xff"], ["\ufffd"]) == ("ab", True)
    assert run([b"ab\xf0"], ["\ufffd"]) == ("ab", True)


def test_long_repetitive_stop_strings_cost_linear_time() -> None:
    """A thousand million comparisons, were it done from each position again."""
    stops = ["a" * 255 + character for character in "bcdefghijklmnopq"]
    assert run([b"a" * 4096], stops) == ("a" * 4096, False)


def test_a_stream_says_what_it_holds() -> None:
    stream = TextStream(["abc"])
    stream.feed(b"xab")
    assert "holds 2 characters" in repr(stream)
