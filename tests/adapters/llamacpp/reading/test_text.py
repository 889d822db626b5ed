"""Text, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal_adapters.llamacpp.reading.text import StopMatcher


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The slow and obvious way: character by character, the longest of the stop strings that are complete."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def all_cuts(text: str) -> Iterable[list[str]]:
    """Every way to cut the text into pieces."""
    for cuts in product((False, True), repeat=max(len(text) - 1, 0)):
        pieces, piece = [], text[:1]
        for char, cut in zip(text[1:], cuts, strict=True):
            if cut:
                pieces.append(piece)
                piece = ""
            piece += char
        yield [*pieces, piece]


def run(pieces: Iterable[str], stops: Sequence[str] = ()) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join([matcher.feed(piece) for piece in pieces])
    return text + matcher.flush(), matcher.stopped


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
    for pieces in all_cuts(text):
        assert run(pieces, stops) == cut_at_stop(text, stops)


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=4), st.lists(st.text("abc", max_size=4)))
def test_any_stop_strings_cut_like_the_obvious_way(stops: list[str], pieces: list[str]) -> None:
    assert run(pieces, stops) == cut_at_stop("".join(pieces), stops)


@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3), st.text("abc"))
def test_what_is_out_stays_right_whatever_comes_after(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    out = "".join(matcher.feed(char) for char in text)
    assert cut_at_stop(text, stops)[0].startswith(out)
    if not matcher.stopped:  # whatever is held back could be the beginning of a stop string
        held = text[len(out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_nothing_comes_after_a_stop_string() -> None:
    matcher = StopMatcher(["."])
    assert matcher.feed("one. two") == "one"
    assert matcher.stopped
    assert matcher.feed("three") == ""
    assert matcher.flush() == ""


def test_what_was_held_back_comes_out_at_the_end() -> None:
    matcher = StopMatcher(["</answer>"])
    assert matcher.feed("yes </ans") == "yes "
    assert matcher.flush() == "</ans"
    assert not matcher.stopped


def test_text_that_turns_out_to_be_no_stop_string_comes_with_the_next_piece() -> None:
    matcher = StopMatcher(["</answer>"])
    matcher.feed("a </ans")
    assert matcher.feed("et>") == "</anset>"


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopMatcher([]).feed("a") == "a"


def test_long_repetitive_stop_strings_cost_linear_time() -> None:
    """A thousand million comparisons, were it done from each position again."""
    stops = ["a" * 255 + character for character in "bcdefghijklmnopq"]
    assert run(["a" * 4096], stops) == ("a" * 4096, False)


def test_a_matcher_says_what_it_holds() -> None:
    matcher = StopMatcher(["abc"])
    matcher.feed("xab")
    assert "holds 2 characters" in repr(matcher)
