"""The examples, as their reader runs them; the demo with the echo backend, so without models or a network."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import PATIENCE, Outcome, Terminal, Vestal

EXAMPLES = Path(__file__).parents[3] / "examples"
BROKEN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import demo; "
    "demo.ECHO += 'fault = \"start\"\\n'; sys.exit(demo.main())"
)
LATE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import demo
look, begin, daemons = demo.is_refused, demo.Daemon.__init__, []
def kept(daemon, backends):
    begin(daemon, backends)
    daemons.append(daemon)
def late(infer, *, first):
    daemons[0].process.wait(20)
    return look(infer, first=first)
demo.Daemon.__init__, demo.is_refused = kept, late
demo.ECHO += 'fault = "start"\\n'
sys.exit(demo.main())
"""
"""The same, and it looks for the socket when the daemon has gone."""


def run(vestal: Vestal, *command: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=PATIENCE, env=vestal.environment()
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_the_quickstart_streams_an_answer_and_says_how_it_went(vestal: Vestal, begin: Begin) -> None:
    begin()
    done = run(vestal, str(EXAMPLES / "quickstart.py"), "hello", "there")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("hello there\nUsage(")


def test_the_demo_goes_all_the_way_and_leaves_nothing_behind(vestal: Vestal) -> None:
    done = run(vestal, str(EXAMPLES / "demo.py"), "--echo")
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert "infer.sock does not exist yet, and connecting fails:" in done.out
    assert "failed until now, and the next succeeds" in done.out
    assert done.out.count("   Why is the sky blue? Answer in two sentences.") == 1
    assert "cosine" in done.out
    assert "exit code 0, and its sockets are gone" in done.out
    assert "All of it worked:" in done.out
    assert leftovers(done.out) == []


def test_the_demo_fits_sixty_columns(vestal: Vestal) -> None:
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--echo"]
    with Terminal(command, 60, vestal.environment()) as terminal:
        assert terminal.finish() == 0
        assert max(map(len, terminal.lines)) <= 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_the_demo_ends_its_daemon(vestal: Vestal, number: signal.Signals) -> None:
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--echo"]
    with Terminal(command, 60, vestal.environment()) as terminal:
        terminal.expect("is loading")
        terminal.process.send_signal(number)
        assert terminal.finish() == 130
        assert terminal.lines[-1] == "demo: interrupted; the private daemon has been stopped"
        assert leftovers(terminal.raw) == []


@pytest.mark.parametrize("program", [BROKEN, LATE], ids=["broken", "late"])
def test_a_daemon_that_fails_is_quoted_and_the_last_line_says_what_happened(vestal: Vestal, program: str) -> None:
    done = run(vestal, "-c", program, str(EXAMPLES), "--echo")
    assert done.code == 1
    *quoted, last = done.err.splitlines()
    assert last.startswith("demo: vestald ")
    assert any(line.startswith("   vestald: vestald: backend 'vectors' did not start") for line in quoted)


def leftovers(shown: str) -> list[str]:
    """Of the demo's private directory, and of processes that still run with it."""
    directory = next(word for word in shown.split() if word.startswith("/tmp/vestal-demo-"))
    running = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile, or is not for this user to see
            if directory.encode() in (command := path.read_bytes()):
                running.append(command.decode(errors="replace"))
    return [*running, *([directory] if Path(directory).exists() else [])]
