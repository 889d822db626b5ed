"""`vestal chat`: on real terminals, and with questions piped in."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.e2e.harness import echo
from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import Terminal, Vestal

NUMBERS = " ".join(map(str, range(1, 1000)))
BARE = {"PROMPT_TOOLKIT_NO_CPR": "1"}  # this terminal answers no questions about its cursor
PROMPT = r"\x1b\[\?2004h[^>]*>"  # the editor is ready: pastes come bracketed from here on


def chat(vestal: Vestal, *words: str, columns: int = 60) -> Terminal:
    return vestal.terminal("chat", *words, columns=columns, env=BARE)


def say(terminal: Terminal, text: str) -> None:
    terminal.expect_match(PROMPT)
    terminal.press(f"{text}\r")


# --- on a terminal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 100])
def test_questions_are_answered_in_turns_and_speed_is_told(served: Vestal, columns: int) -> None:
    with chat(served, columns=columns) as terminal:
        terminal.expect_match("talking to echo")
        say(terminal, "hello there")
        terminal.expect_match(r"\x1b\[Khello there\r\n\[2 tokens, .*first after .*queued .*\]")
        say(terminal, "again")
        terminal.expect_match(r"\x1b\[Kagain\r\n\[1 token, .*prompt 5 tokens")  # what was said before is sent again
        terminal.expect_match(PROMPT)
        terminal.press("\x04")
        assert terminal.finish() == 0


def test_ctrl_c_cancels_one_answer_and_keeps_the_chat(vestal: Vestal, begin: Begin) -> None:
    begin(echo(token_delay="20ms"))
    with chat(vestal) as terminal:
        say(terminal, NUMBERS)
        terminal.expect_match(r"\x1b\[K1 2 3 4")
        terminal.press("\x03")
        terminal.expect_match(r"cancelled after \d+ tokens")
        say(terminal, "/clear")
        terminal.expect_match("forgotten")
        say(terminal, "still here")
        terminal.expect_match(r"\x1b\[Kstill here\r\n")
        terminal.expect_match(PROMPT)
        terminal.press("half a question\x03")  # and at the prompt it takes back what was typed
        say(terminal, "/quit")
        assert terminal.finish() == 0


def test_a_second_ctrl_c_stops_waiting_for_a_daemon_that_does_not_answer(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="20ms"))
    with chat(vestal) as terminal:
        say(terminal, NUMBERS)
        terminal.expect_match(r"\x1b\[K1 2 3 4")
        daemon.signal(19)  # SIGSTOP: it hears of no cancel
        try:
            terminal.press("\x03")
            while not terminal.shows("not waiting any longer", within=1.0):  # two in a row may count as one
                terminal.press("\x03")
        finally:
            daemon.signal(18)
        say(terminal, "/quit")
        assert terminal.finish() == 0


def test_several_lines_are_one_question(served: Vestal) -> None:
    with chat(served) as terminal:
        terminal.expect_match(PROMPT)
        terminal.press("one\x0atwo\x1b\rthree\r")  # Ctrl-J, then Alt-Enter
        terminal.expect_match(r"\[3 tokens, .*prompt 3 tokens")
        terminal.expect_match(PROMPT)
        terminal.press("\x1b[200~four\rfive\x1b[201~\r")  # a bracketed paste
        terminal.expect_match(r"\[2 tokens, .*prompt 8 tokens")
        terminal.expect_match(PROMPT)
        terminal.press("\x04")
        assert terminal.finish() == 0


def test_the_place_in_the_queue_is_shown(vestal: Vestal, begin: Begin) -> None:
    begin(echo(token_delay="20ms"))
    with vestal.start("run", NUMBERS) as busy, chat(vestal) as terminal:
        say(terminal, "me too")
        terminal.expect_match("waiting: number 1 of 1 in the queue")
        busy.kill()
        terminal.expect_match(r"\x1b\[Kme too\r\n")
        say(terminal, "/quit")
        assert terminal.finish() == 0


def test_a_daemon_that_is_killed_ends_the_answer_and_the_next_one_goes_on_with_the_chat(
    vestal: Vestal, begin: Begin
) -> None:
    daemon = begin(echo(token_delay="20ms"))
    with chat(vestal) as terminal:
        say(terminal, NUMBERS)
        terminal.expect_match(r"\x1b\[K1 2 3 4")
        daemon.kill()
        terminal.expect_match("vestal: ")
        say(terminal, "anybody?")
        terminal.expect_match("no vestald at")
        begin()
        say(terminal, "and now?")
        terminal.expect_match(r"\x1b\[Kand now\?\r\n")
        say(terminal, "/quit")
        assert terminal.finish() == 0


def test_the_commands(served: Vestal, tmp_path: Path) -> None:
    with chat(served) as terminal:
        say(terminal, "/help")
        terminal.expect_match("/save")
        say(terminal, "/hlep")
        terminal.expect_match("there is no command /hlep: did you mean /help")
        say(terminal, "/system be brief")
        terminal.expect_match("system message: be brief")
        say(terminal, "/model nothing")
        terminal.expect_match("no backend serves 'nothing'; there are echo, second")
        say(terminal, "/model second")
        terminal.expect_match("model: second")
        say(terminal, "hi")
        terminal.expect_match("on second")
        say(terminal, f"/save {tmp_path}/said.json")
        terminal.expect_match("saved 1 turn to")
        say(terminal, f"/save {tmp_path}/said.json")
        terminal.expect_match("nothing is saved: .*File exists")
        say(terminal, f"/save {tmp_path}/said.md")
        terminal.expect_match("saved 1 turn to")
        say(terminal, "/quit")
        assert terminal.finish() == 0
    assert json.loads((tmp_path / "said.json").read_text()) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hi"},
    ]
    assert (tmp_path / "said.md").read_text().endswith("**Answer**\n\nhi\n")
    assert stat.S_IMODE((tmp_path / "said.md").stat().st_mode) == 0o600


def test_nothing_that_is_typed_is_written_to_disk(served: Vestal) -> None:
    with chat(served) as terminal:
        say(terminal, "a-secret-of-mine")
        terminal.expect_match(r"\x1b\[Ka-secret-of-mine\r\n")
        terminal.expect_match(PROMPT)
        terminal.press("\x04")
        assert terminal.finish() == 0
    for path in served.home.rglob("*"):
        if path.is_file():
            assert b"a-secret-of-mine" not in path.read_bytes(), path


# --- in a pipe ------------------------------------------------------------------------------------------------------


def test_piped_in_each_line_is_a_question_and_only_answers_come_out(served: Vestal) -> None:
    done = served("chat", stdin="hello\n\n//usr\n/system be brief\nbye\n/quit\nnever asked\n")
    assert (done.code, done.out) == (0, "hello\n/usr\nbye\n")
    assert done.err == "vestal: system message: be brief\n"


def test_piped_in_a_failure_is_told_and_the_rest_is_answered(served: Vestal) -> None:
    done = served("chat", stdin="/nonsense\nhello\n")
    assert (done.code, done.out) == (1, "hello\n")
    assert done.err.startswith("vestal: there is no command /nonsense")
    assert served("chat", stdin="").code == 0
    assert served("chat", "--model", "nothing", stdin="hello\n").err.startswith("vestal: model_not_found: ")


def test_an_alias_is_a_model_too(vestal: Vestal, begin: Begin) -> None:
    begin(echo(aliases=["fast"]))
    done = vestal("chat", stdin="/model fats\n/model fast\nhello\n")
    assert (done.code, done.out) == (1, "hello\n")
    assert done.err.splitlines() == [
        "vestal: no backend serves 'fats': did you mean fast?; there are echo, fast",
        "vestal: model: fast of echo, fast",
    ]


def test_without_a_daemon_it_says_so_at_once(vestal: Vestal) -> None:
    done = vestal("chat", stdin="hello\n")
    assert (done.code, done.out) == (69, "")
    assert done.err.startswith("vestal: no vestald at ")
