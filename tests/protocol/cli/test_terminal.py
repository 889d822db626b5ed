"""What may reach a terminal, and the status line that leaves no trace."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.cli.terminal import Screen, Style, columns, escaped_answer, printable, style_of


class Live(io.StringIO):
    """A terminal as far as anybody can tell."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)


@given(st.text())
def test_a_strangers_text_is_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(st.text())
def test_an_answer_keeps_its_lines_and_tabs_and_no_other_control(text: str) -> None:
    shown = escaped_answer(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)
    assert shown.count("\n") == text.count("\n")


def test_escapes_are_those_of_a_python_string_and_emoji_stay_whole() -> None:
    assert printable("\x1b[2J\r\n\u202e") == r"\x1b[2J\r\n\u202e"
    assert escaped_answer("👩\u200d🚀 \x1b[2J\x9b") == "👩\u200d🚀 \\x1b[2J\\x9b"


def test_a_status_is_overwritten_cut_to_the_width_and_erased() -> None:
    written = Live()
    screen = Screen(written)
    screen.status("one")
    screen.status("one")
    screen.status("\x1b[2J" + "x" * 100)
    screen.erase()
    screen.erase()
    assert written.getvalue() == "\rone\x1b[K\r\\x1b[2J" + "x" * 31 + "…\x1b[K\r\x1b[K"


def test_a_note_takes_the_place_of_the_status_and_stays() -> None:
    written = Live()
    screen = Screen(written)
    screen.status("busy")
    screen.note("so\nit is")
    assert written.getvalue() == "\rbusy\x1b[K\r\x1b[Kso\\nit is\n"


def test_in_a_pipe_there_are_notes_only() -> None:
    written = io.StringIO()
    screen = Screen(written)
    screen.status("busy")
    screen.aside("thinking")
    screen.keep()
    screen.erase()
    screen.note("done")
    assert written.getvalue() == "done\n"


def test_an_aside_is_dimmed_and_ends_its_line_before_anything_else() -> None:
    written = Live()
    screen = Screen(written)
    screen.status("busy")
    screen.aside("hm")
    screen.aside("\x07, yes")
    screen.erase()
    assert written.getvalue() == "\rbusy\x1b[K\r\x1b[K\x1b[2mhm\x1b[0m\x1b[2m\\x07, yes\x1b[0m\n"


def test_an_aside_that_could_not_be_told_from_the_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    written = Live()
    Screen(written).aside("hm")
    assert written.getvalue() == ""


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert style_of(Live())("x", "red") == "\x1b[31mx\x1b[0m"
    assert style_of(io.StringIO())("x", "red") == "x"
    monkeypatch.setenv("NO_COLOR", "")  # empty is as unset (no-color.org)
    assert style_of(Live()).coloured
    monkeypatch.setenv("TERM", "dumb")
    assert not style_of(Live()).coloured
    assert Style(coloured=True, drawn=True)("x") == "x"


def test_the_width_is_asked_for_only_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert columns(io.StringIO()) == 40
    monkeypatch.delenv("COLUMNS")
    assert columns(io.StringIO()) is None
    assert columns(Live()) is not None
