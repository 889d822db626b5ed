"""`vestal run`: what goes to stdout, what to stderr, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon, echo
from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import PATIENCE, Vestal

NUMBERS = " ".join(map(str, range(1, 400)))


def test_the_answer_is_all_there_is_on_stdout(served: Vestal) -> None:
    assert served("run", "Why", "is the sky", "blue?") == (0, "Why is the sky blue?\n", "")


def test_an_answer_that_ends_its_line_gets_no_second_newline(served: Vestal) -> None:
    assert served("run", "one\ntwo\n").out == "one\ntwo\n"


@pytest.mark.parametrize("words", [(), ("-",)])
def test_without_words_the_prompt_is_standard_input(served: Vestal, words: tuple[str, ...]) -> None:
    assert served("run", *words, stdin="from a\npipe ü\n") == (0, "from a\npipe ü\n", "")


def test_a_dash_among_words_is_standard_input_in_a_paragraph_of_its_own(served: Vestal) -> None:
    assert (
        served("run", "Explain", "this:", "-", "Be brief.", stdin="a\nb\n").out
        == "Explain this:\n\na\nb\n\nBe brief.\n"
    )


def test_files_come_after_the_words_each_in_a_paragraph_of_its_own(served: Vestal, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("file a\n")
    (tmp_path / "b.txt").write_text("file b, \u00fc\n")
    files = ("-f", f"{tmp_path}/a.txt", "--file", f"{tmp_path}/b.txt")
    assert served("run", *files, "both:").out == "both:\n\nfile a\n\nfile b, \u00fc\n"
    assert served("run", *files).out == "file a\n\nfile b, \u00fc\n"
    assert served("run", "-f", "-", "first", stdin="piped\n").out == "first\n\npiped\n"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("-f", "nowhere.txt"), "nowhere.txt: No such file or directory"),
        (("-f", "/"), "/: Is a directory"),
        (("-f", "/proc/self/exe"), "/proc/self/exe is not UTF-8: byte "),
        (("-f", "-", "-"), "`-` is standard input, and it can be read once only"),
        (("--json-schema", "nowhere.json", "x"), "nowhere.json: No such file or directory"),
        (("--json-schema", "/proc/version", "x"), "/proc/version holds no JSON object"),
    ],
)
def test_files_that_cannot_be_meant_are_refused_by_name(vestal: Vestal, words: tuple[str, ...], fault: str) -> None:
    done = vestal("run", *words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert fault in done.err


def test_a_schema_is_sent_and_a_backend_that_cannot_keep_to_it_says_so(served: Vestal, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object"}')
    done = served("run", "--json-schema", f"{tmp_path}/s.json", "Bob is 31.")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("vestal: unsupported: ")
    assert "response_format" in done.err or "json_schema" in done.err


def test_after_two_dashes_everything_is_a_word(served: Vestal) -> None:
    assert served("run", "--json", "--", "--stats", "--", "-x").code == 0
    assert json.loads(served("run", "--json", "--", "--stats", "-x").out)["text"] == "--stats -x"


def test_options_may_follow_the_prompt_and_a_bare_wait_takes_no_word(served: Vestal) -> None:
    assert served("run", "hello", "--wait", "30", "--max-tokens", "5").out == "hello 30\n"


@pytest.mark.parametrize(("words", "stdin"), [(("",), ""), (("  ",), ""), ((), ""), ((), "\n"), (("-",), " \n")])
def test_an_empty_prompt_is_refused_before_anything_is_sent(vestal: Vestal, words: tuple[str, ...], stdin: str) -> None:
    done = vestal("run", *words, stdin=stdin)
    assert (done.code, done.out, done.err) == (2, "", "vestal: the prompt is empty: vestal run PROMPT…\n")


def test_a_terminal_is_not_waited_on_for_a_prompt(vestal: Vestal) -> None:
    with vestal.terminal("run") as terminal:
        assert terminal.finish() == 2
        assert terminal.lines == ["vestal: a prompt is missing: give it as words, or pipe it in"]


def test_input_that_is_not_utf8_is_refused(vestal: Vestal) -> None:
    command = [sys.executable, "-m", "vestal.cli", "run"]
    done = subprocess.run(command, input=b"caf\xe9", capture_output=True, env=vestal.environment())
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"vestal: standard input is not UTF-8: byte 3 is 0xe9\n"


def test_json_is_one_object_with_everything_the_daemon_said(served: Vestal) -> None:
    done = served("run", "--json", "--system", "Be brief.", "--model", "second", "--seed", "1", "one two three")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    answer = json.loads(done.out)
    assert answer["text"] == "one two three"
    assert answer["stop_reason"] == "end"
    assert answer["usage"] == {"input_tokens": 5, "cached_tokens": 0, "output_tokens": 3}
    assert answer["backend"] == "second"
    assert {"queue_ms", "prefill_ms", "first_token_ms", "decode_ms"} == answer["timings"].keys()
    assert (answer["version"], answer["notices"], answer["thinking"]) == (2, [], "")


@pytest.mark.parametrize("version", [1, 2])
def test_the_protocol_version_can_be_chosen(served: Vestal, version: int) -> None:
    done = served("run", f"--v{version}", "--json", "hello")
    assert (json.loads(done.out)["version"], json.loads(done.out)["text"]) == (version, "hello")


def test_a_version_the_daemon_does_not_speak_is_refused_with_its_code(vestal: Vestal, begin: Begin) -> None:
    begin(echo(v2=False))
    assert vestal("run", "--v1", "hello").out == "hello\n"
    done = vestal("run", "--v2", "hello")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("vestal: version_unsupported: ")
    assert done.err.count("\n") == 1


def test_a_refusal_is_one_line_with_its_code_and_its_hint(served: Vestal) -> None:
    done = served("run", "--model", "gpt-17", "hello")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("vestal: model_not_found: ")
    assert "models served here" in done.err
    assert done.err.count("\n") == 1


def test_an_answer_cut_at_max_tokens_is_printed_and_said_to_be_cut(served: Vestal) -> None:
    done = served("run", "--max-tokens", "2", "one two three")
    assert done == (0, "one two\n", "vestal: cut after 2 tokens: --max-tokens allows no more\n")


def test_stop_strings_end_the_answer_without_a_note(served: Vestal) -> None:
    assert served("run", "--stop", "zzz", "--stop", " three", "one two three four") == (0, "one two\n", "")


def test_stats_are_one_line_on_stderr(served: Vestal) -> None:
    done = served("run", "--stats", "one two three")
    assert (done.code, done.out) == (0, "one two three\n")
    assert done.err.startswith("3 tokens, ")
    assert "tok/s, first after " in done.err
    assert done.err.endswith("prompt 3 tokens; echo on echo\n")


def test_a_request_that_takes_too_long_ends_with_its_code_and_keeps_its_text(vestal: Vestal, begin: Begin) -> None:
    begin(echo(token_delay="50ms"))
    done = vestal("run", "--timeout", "0.5s", NUMBERS)
    assert done.code == 1
    assert done.out.startswith("1 2")
    assert done.out.endswith("\n")
    assert done.err.startswith("vestal: deadline_exceeded: ")


def test_a_full_queue_is_refused(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(fault="hang"), admission={"queue_depth": 1})
    with vestal.start("run", "one") as first:
        _until_queue_has(daemon, 1)
        with vestal.start("run", "two") as second:
            _until_queue_has(daemon, 2)
            done = vestal("run", "three")
            second.kill()
        first.kill()
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("vestal: queue_full: ")


def test_a_daemon_that_dies_is_said_after_the_text_so_far(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="20ms"))
    with vestal.start("run", NUMBERS) as run:
        first = _first_piece(run)
        daemon.process.kill()
        out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 69
    assert (first + out).endswith(b"\n")
    assert err.startswith(b"vestal: the connection to ")
    assert err.count(b"\n") == 1


# --- Ctrl-C and closed pipes ---------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_answer_with_its_terminal_frame_and_keeps_the_text(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="20ms"))
    with vestal.start("run", NUMBERS) as run:
        first = _first_piece(run)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=PATIENCE)
    text = (first + out).decode()
    assert run.returncode == 130
    assert text.endswith("\n")
    assert NUMBERS.startswith(text[:-1])
    assert len(text) < len(NUMBERS)
    assert err.startswith(b"vestal: cancelled after ")  # so the daemon's `done` has come, with its token count
    assert daemon.queue().entries == []


def test_ctrl_c_with_json_prints_what_there_is(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="20ms"))
    with vestal.start("run", "--json", NUMBERS) as run:
        _until_queue_has(daemon, 1)
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130
    answer = json.loads(out)
    assert answer["stop_reason"] == "cancelled"
    assert NUMBERS.startswith(answer["text"])


def test_ctrl_c_on_a_terminal_leaves_the_text_its_newline_and_a_note(vestal: Vestal, begin: Begin) -> None:
    begin(echo(token_delay="20ms"))
    with vestal.terminal("run", NUMBERS, columns=200) as terminal:
        terminal.expect("1 2 3")
        terminal.press("\x03")
        assert terminal.finish() == 130
        text, note = terminal.lines
        assert text.startswith("1 2 3")
        assert note.startswith("vestal: cancelled after ")


def test_a_second_ctrl_c_quits_at_once_even_if_the_daemon_never_confirms(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="20ms"))
    with vestal.start("run", NUMBERS) as run:
        _first_piece(run)
        daemon.signal(signal.SIGSTOP)
        try:
            while run.poll() is None:
                run.send_signal(signal.SIGINT)
                _ended_within(run, 0.05)
        finally:
            daemon.signal(signal.SIGCONT)
    assert run.returncode == -signal.SIGINT


def test_a_reader_that_leaves_ends_it_quietly_and_cancels_the_request(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="20ms"))
    with vestal.start("run", NUMBERS) as run:
        _first_piece(run)
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.wait(PATIENCE) == 141
        assert run.stderr.read() == b""
    _until_queue_has(daemon, 0)


# --- on a terminal -------------------------------------------------------------------------------------------------


def test_control_characters_are_escaped_on_a_terminal_and_only_there(served: Vestal) -> None:
    evil = "a\x1b]0;owned\x07b \x9b31m\ttab\rc"
    assert served("run", evil).out == f"{evil}\n"
    with served.terminal("run", evil) as terminal:
        assert terminal.finish() == 0
        assert r"a\x1b]0;owned\x07b \x9b31m" in terminal.raw
        assert "\x1b]" not in terminal.raw
        assert "\x9b" not in terminal.raw


def test_json_on_a_terminal_holds_no_control_characters(served: Vestal) -> None:
    with served.terminal("run", "--json", "a\x9b31mb\x7f", columns=1000) as terminal:
        assert terminal.finish() == 0
        assert json.loads(terminal.lines[0])["text"] == "a\x9b31mb\x7f"
        assert "\x9b" not in terminal.raw


def test_a_place_in_the_queue_is_shown_on_a_terminal_and_erased(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="20ms"))
    with vestal.start("run", NUMBERS) as first:
        _first_piece(first)
        with vestal.terminal("run", "my turn") as terminal:
            terminal.expect("waiting: number 1 of 1 in the queue")
            first.send_signal(signal.SIGINT)
            first.communicate(timeout=PATIENCE)
            assert terminal.finish() == 0
            assert terminal.lines == ["my turn"]
    assert daemon.queue().entries == []


def test_wait_shows_loading_in_percent_erases_it_and_answers(vestal: Vestal, begin: Begin) -> None:
    begin(echo(ready_delay="4s"), wait=False)
    with vestal.terminal("run", "--wait", "hello") as terminal:
        terminal.expect(" %  loading: echo loading")
        assert terminal.finish() == 0
        assert terminal.lines == ["hello"]


def test_wait_is_silent_where_nobody_looks(vestal: Vestal, begin: Begin) -> None:
    begin(echo(ready_delay="300ms"), wait=False)
    assert vestal("run", "--wait", "hello") == (0, "hello\n", "")


def test_wait_gives_up_and_says_how_far_it_was(vestal: Vestal, begin: Begin) -> None:
    begin(echo(ready_delay="60s"), wait=False)
    done = vestal("run", "--wait=1", "hello")
    assert (done.code, done.out) == (69, "")
    assert "is loading: echo loading" in done.err
    assert done.err.count("\n") == 1


def test_a_dumb_terminal_gets_no_cursor_movements(served: Vestal) -> None:
    with served.terminal("run", "hello", env={"TERM": "dumb"}) as terminal:
        assert terminal.finish() == 0
        assert terminal.raw == "hello\r\n"


def _first_piece(run: subprocess.Popen[bytes]) -> bytes:
    assert run.stdout is not None
    piece = run.stdout.read(64)
    assert piece
    return bytes(piece)


def _ended_within(run: subprocess.Popen[bytes], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        run.wait(seconds)


def _until_queue_has(daemon: Daemon, number: int) -> None:
    """The daemon tells no one of a request's coming and going: so it is asked until it is so."""
    while len(daemon.queue().entries) != number:
        pass
