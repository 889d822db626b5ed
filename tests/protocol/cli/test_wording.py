"""Numbers, times and tables, as people read them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.cli.wording import bar, cells, count, cut, elapsed, folded, json_line, megabytes, pad, table, words_of_time


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"), (0.9, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"),
        (61, "1 minute 1 second"), (3600, "1 hour"), (3605, "1 hour"), (7325, "2 hours 2 minutes"),
        (86400 * 2 + 3600 * 4 + 59, "2 days 4 hours"), (86400 * 400, "400 days"),
    ],
)  # fmt: skip
def test_a_length_of_time_has_two_units_at_most(seconds: float, words: str) -> None:
    assert words_of_time(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98 MB"), (999_600, "1.0 MB"), (1.44e9, "1.4 GB")],
)
def test_sizes_are_decimal(size: float, words: str) -> None:
    assert megabytes(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 ms"), (0.0854, "85 ms"), (0.9996, "1.00 s"), (1.234, "1.23 s"), (72.4, "72 s")]
)
def test_measured_times(seconds: float, words: str) -> None:
    assert elapsed(seconds) == words


def test_counts_agree_with_their_noun() -> None:
    assert [count(n, "token") for n in (0, 1, 2, 12000)] == ["0 tokens", "1 token", "2 tokens", "12,000 tokens"]


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("", 0), ("ÿ", 1)])
def test_cells_are_columns_of_a_terminal(text: str, width: int) -> None:
    assert cells(text) == width


@given(st.text(), st.integers(1, 30))
def test_what_is_cut_fits_and_says_that_it_was_cut(text: str, width: int) -> None:
    short = cut(text, width)
    assert cells(short) <= width
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_nothing_is_cut_in_a_pipe() -> None:
    assert cut("x" * 500, None) == "x" * 500


@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" ")), st.integers(8, 40))
def test_what_is_folded_fits_and_nothing_of_it_is_lost(text: str, width: int) -> None:
    lines = folded(text, width, 4)
    assert max(map(cells, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(line.startswith("    ") for line in lines[1:])


def test_lines_are_folded_at_blanks_and_inside_a_word_only_where_it_must_be() -> None:
    assert folded("  one two three", 10, 4) == ["  one two", "    three"]
    assert folded("  one, twothreefour", 10, 4) == ["  one,", "    twothr", "    eefour"]
    assert folded("日本日本日", 8, 2) == ["日本日本", "  日"]
    assert folded("x" * 100, None, 4) == ["x" * 100]


@given(st.floats(-50, 200), st.integers(1, 40))
def test_a_bar_has_its_length_and_is_full_only_at_the_end(percent: float, length: int) -> None:
    drawn = bar(percent, length, "utf-8")
    assert len(drawn) == length
    assert drawn == "█" * drawn.count("█") + "░" * drawn.count("░")
    assert ("░" in drawn) is (percent < 100)


def test_a_bar_without_unicode_is_ascii() -> None:
    assert bar(50, 4, "ascii") == bar(50, 4, None) == "##--"


def test_columns_are_aligned_by_what_is_seen() -> None:
    lines = table([["NAME", "N"], ["日本", "1"], ["abc", "100"]], right=(1,))
    assert lines == ["NAME    N", "日本    1", "abc   100"]
    assert pad("日本", 6) == "日本  "
    assert table([]) == []


@given(st.text())
def test_json_has_no_control_character_and_says_the_same(text: str) -> None:
    line = json_line({"text": text})
    assert json.loads(line) == {"text": text}
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)
