"""The command line as a whole: help, mistakes, exit codes, and what a start costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.protocol.cli.conftest import Answer, Begin
from tests.protocol.cli.harness import Outcome, Vestal
from vestal import __version__
from vestal.cli.main import COMMANDS

DAEMONS = ["run hi", "embed hi", "status", "queue", "metrics", "stop", "drain", "undrain", "cancel 1"]

OF_BACKENDS = ["backend", "backend add echo", "backend remove echo", "backend drain echo", "route explain"]


def test_help_names_every_command_with_its_purpose_and_every_exit_code(vestal: Vestal) -> None:
    done = vestal("--help")
    assert (done.code, done.err) == (0, "")
    for name, (_, purpose) in COMMANDS.items():
        assert any(line.split(None, 1) == [name, purpose] for line in done.out.splitlines())
    for code in ("0", "1", "2", "69", "70", "77", "130", "141"):
        assert any(line.split(None, 1)[:1] == [code] for line in done.out.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_that_fits_sixty_columns(vestal: Vestal, name: str) -> None:
    done = vestal(name, "--help", env={"COLUMNS": "60"})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: vestal {name}")
    described = done.out.partition("options:")[2].partition("\n\n")[0]
    assert max(map(len, described.splitlines())) <= 60


def test_the_version_is_the_packages(vestal: Vestal) -> None:
    assert vestal("--version") == (0, f"vestal {__version__}\n", "")


def test_the_console_script_is_the_same_command(vestal: Vestal) -> None:
    script = shutil.which("vestal", path=Path(sys.executable).parent)
    assert script is not None
    assert subprocess.run([script, "--version"], capture_output=True, text=True).stdout == f"vestal {__version__}\n"


def test_no_command_at_all_shows_the_help_and_is_a_mistake(vestal: Vestal) -> None:
    done = vestal()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: vestal")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stauts", "there is no command 'stauts': did you mean status?"),
        ("modles", "did you mean models?"),
        ("xyzzy", "there is no command 'xyzzy'"),
        ("--runtimedir /tmp status", "there is no option --runtimedir: did you mean --runtime-dir?"),
        ("--runtime-dir", "--runtime-dir: expected one argument"),
        ("run --max-token 3 hi", "there is no option --max-token: did you mean --max-tokens?"),
        ("run --max-tokens three hi", "--max-tokens: expected a whole number, got 'three'"),
        ("run --max-tokens 0 hi", "--max-tokens: expected a whole number >= 1, got '0'"),
        ("run --temperature nan hi", "--temperature: expected a number"),
        ("run --top-p 2 hi", "--top-p: expected a number <= 1.0, got '2'"),
        ("run --seed -1 hi", "--seed: expected a whole number >= 0, got '-1'"),
        ("run --timeout 0 hi", "--timeout: expected a time longer than 0"),
        ("run --timeout soon hi", "--timeout: 'soon' is not a duration"),
        ("run --wait=soon hi", "--wait: 'soon' is not a duration"),
        ("run --priority urgent hi", "--priority: invalid choice: 'urgent'"),
        ("run --v1 --v2 hi", "not allowed with"),
        ("run --stop", "--stop: expected one argument"),
        ("embed --dimensions many hi", "--dimensions"),
        ("embed --dimensions 0 hi", "expected a whole number >= 1, got '0'"),
        ("embed --dimensions -3 hi", "expected a whole number >= 1, got '-3'"),
        ("status now", "no place for 'now'"),
        ("backend restart", "NAME is missing"),
        ("backend restart one two", "'two' is one word too many"),
        ("backend restart one --deadline soon", "--deadline: 'soon' is not a duration"),
        ("backend drain one --no-wait", "there is no option --no-wait"),
        ("backend ad one", "there is no command 'backend ad': did you mean add?"),
        ("route", "explain [MODEL] is missing"),
        ("route explain one two", "'two' is one word too many"),
        ("cancel", "REQUEST is missing"),
        ("stop --deadline ages", "--deadline: 'ages' is not a duration"),
        ("rm", "NAME… is missing"),
        ("pull --name x", "--name is for one file"),
        ("run --\x1b[31m", "there is no option --\\x1b[31m"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(vestal: Vestal, line: str, said: str) -> None:
    done = vestal(*line.split(" "))
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("vestal")
    assert done.err.count("\n") == 1


def test_words_that_are_not_utf8_are_refused(vestal: Vestal) -> None:
    done = vestal("run", os.fsdecode(b"caf\xe9"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "is not UTF-8" in done.err


@pytest.mark.parametrize("line", [*DAEMONS, *OF_BACKENDS])
def test_without_a_daemon_each_command_says_so_in_one_line_with_the_next_step(vestal: Vestal, line: str) -> None:
    done = vestal(*line.split())
    assert (done.code, done.out) == (69, "")
    assert done.err.startswith(f"vestal: no vestald at {vestal.runtime_dir}")
    assert done.err.endswith("(start it: vestald)\n")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("line", ["run hi", "embed hi"])
def test_while_the_daemon_loads_a_request_says_so_in_one_line_with_the_next_step(
    vestal: Vestal, begin: Begin, line: str
) -> None:
    begin({"name": "slow", "adapter": "echo", "ready_delay": "60s", "embed": True}, wait=False)
    done = vestal(*line.split())
    assert (done.code, done.out) == (69, "")
    assert "is loading: slow" in done.err
    assert "--wait" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("line", ["--runtime-dir {} status", "status --runtime-dir {}", "status --runtime-dir={}"])
def test_the_runtime_directory_may_stand_before_or_after_the_command(vestal: Vestal, begin: Begin, line: str) -> None:
    begin()
    elsewhere = {"VESTAL_RUNTIME_DIR": "/nonexistent"}
    assert vestal("status", env=elsewhere).code == 69
    done = vestal(*line.format(vestal.runtime_dir).split(), env=elsewhere)
    assert (done.code, done.err) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("line", ["status", "run hi"])
def test_another_user_is_told_who_may_and_the_code_says_permission(vestal: Vestal, begin: Begin, line: str) -> None:
    begin()
    done = _as_nobody(vestal, line)
    assert (done.code, done.out) == (77, "")
    assert "only root may open it" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_models_are_listed_whoever_the_daemon_at_hand_belongs_to(vestal: Vestal, begin: Begin) -> None:
    begin()
    done = _as_nobody(vestal, "models")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("vestal: no models in ")


def _as_nobody(vestal: Vestal, line: str) -> Outcome:
    """That command, given by a user who may not enter the daemon's directory."""
    vestal.home.chmod(0o711)
    # The interpreter may lie where only root can read it: so a first run as root, which goes wrong in the same
    # way, imports what is imported on the way.
    probe = (
        "import os, sys, grp, pwd, locale; from vestal.cli.main import main; stderr, sys.stderr = sys.stderr, None; "
        "main(['--runtime-dir', '/nonexistent', *sys.argv[1:]]); sys.stderr = stderr; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", probe, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=vestal.environment())
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_what_a_stranger_says_is_escaped(vestal: Vestal, impostor: Answer) -> None:
    evil = {"code": "internal", "message": "\x1b]0;owned\x07\nvestal: all is well", "retryable": True}
    impostor("infer", {"type": "error", **evil, "retry_after_ms": 2500, "hint": "\u202ekcab"})
    done = vestal("run", "hi")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "vestal: internal: \\x1b]0;owned\\x07\\nvestal: all is well (\\u202ekcab); try again in 2.5 s\n"
    )


def test_what_answers_and_is_no_vestald_is_said_to_break_the_protocol(vestal: Vestal, impostor: Answer) -> None:
    impostor("admin", b"\0\0\0\x04HTTP")
    done = vestal("status")
    assert (done.code, done.out) == (70, "")
    assert done.err.count("\n") == 1


def test_help_into_a_closed_pipe_is_quiet(vestal: Vestal) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vestal.cli", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=vestal.environment())
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", [["--help"], ["completion", "bash"], ["models"]])
def test_a_disk_that_is_full_is_no_bug(vestal: Vestal, words: list[str]) -> None:
    (vestal.home / "store").mkdir()
    command = [sys.executable, "-m", "vestal.cli", *words, *(["--json"] if words == ["models"] else [])]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=vestal.environment())
    assert (done.returncode, done.stderr) == (74, "vestal: the output could not be written: No space left on device\n")


def test_a_log_that_cannot_be_printed_is_none_that_cannot_be_read(vestal: Vestal, begin: Begin) -> None:
    begin()
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "vestal.cli", "logs"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=vestal.environment())
    assert (done.returncode, done.stderr) == (74, "vestal: the output could not be written: No space left on device\n")


def test_a_second_word_that_is_none_is_told_with_those_there_are(vestal: Vestal) -> None:
    assert vestal("backend", "restrat", "x") == (
        2,
        "",
        "vestal: there is no command 'backend restrat': did you mean restart? "
        "(list, add, remove, drain, undrain, restart) (see `vestal backend --help`)\n",
    )


def test_a_start_imports_neither_the_protocol_nor_an_event_loop(vestal: Vestal) -> None:
    heavy = {"asyncio", "subprocess", "numpy", "msgspec", "socket", "threading"}
    assert not heavy & _imported(vestal, "--help")


def test_status_imports_no_event_loop_and_no_model_store(vestal: Vestal, begin: Begin) -> None:
    begin()
    assert not {"asyncio", "subprocess", "numpy", "vestal.models"} & _imported(vestal, "status")


def _imported(vestal: Vestal, *words: str) -> set[str]:
    probe = (
        "import sys, json; from vestal.cli.main import main; code = main(sys.argv[1:]); "
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", probe, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=vestal.environment(), check=True)
    return set(json.loads(done.stderr))
