"""`vestal status`, `queue`, `metrics`, `drain`, `undrain`, `cancel`, `stop`: what operators see and do."""

from __future__ import annotations

import json

import pytest

from tests.e2e.harness import Daemon, echo
from tests.protocol.cli.conftest import Answer, Begin
from tests.protocol.cli.harness import PATIENCE, Vestal

NUMBERS = " ".join(map(str, range(1, 400)))


# --- status --------------------------------------------------------------------------------------------------------


def test_status_tells_the_daemon_and_each_backend_within_sixty_columns(served: Vestal) -> None:
    done = served("status", env={"COLUMNS": "60"})
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    lines = done.out.splitlines()
    assert lines[0].split() == ["vestald/0.1.0", "ready"]
    assert lines[1].startswith("pid ")
    assert " up " in lines[1]
    assert "sockets    admin embed infer" in lines
    assert "echo  ready" in lines
    assert "  echo by echo, 0 of 8 slots busy, 0 waiting" in lines
    assert max(map(len, lines)) <= 60


def test_status_on_a_terminal_is_coloured_unless_colour_is_unwanted(served: Vestal) -> None:
    with served.terminal("status") as terminal:
        assert terminal.finish() == 0
        assert "\x1b[1;32mready\x1b[0m" in terminal.raw
    for unwanted in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with served.terminal("status", env=unwanted) as terminal:
            assert terminal.finish() == 0
            assert "\x1b" not in terminal.raw
            assert "ready" in terminal.raw


def test_status_as_json_is_the_daemons_own_report(served: Vestal) -> None:
    done = served("status", "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    report = json.loads(done.out)
    assert report["state"] == "ready"
    assert {backend["name"]: backend["state"] for backend in report["backends"]} == {"echo": "ready", "second": "ready"}
    assert report["sockets"]["infer"] == str(served.runtime_dir / "infer.sock")
    assert "type" not in report


@pytest.mark.parametrize("words", [("status",), ("status", "--json")])
def test_status_while_loading_tells_the_percent_and_exits_as_not_ready(
    vestal: Vestal, begin: Begin, words: tuple[str, ...]
) -> None:
    begin(echo(ready_delay="60s"), wait=False)
    done = vestal(*words)
    assert done.code == 69
    assert "loading" in done.out
    assert "%" in done.out or json.loads(done.out)["backends"][0]["percent"] is not None
    assert done.err == "vestal: vestald is not ready yet: `vestal run --wait PROMPT` waits for it\n"


def test_status_while_loading_draws_a_bar_on_a_terminal(vestal: Vestal, begin: Begin) -> None:
    begin(echo(ready_delay="60s"), wait=False)
    with vestal.terminal("status") as terminal:
        assert terminal.finish() == 69
        assert any(line.startswith("echo  loading  ") and "░" in line for line in terminal.lines)
        assert max(map(len, terminal.lines[:-1])) <= 60


# --- queue, cancel, metrics ----------------------------------------------------------------------------------------


def test_the_queue_shows_who_runs_and_who_waits_and_cancel_ends_one_of_them(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="20ms"))
    assert vestal("queue").out == "nobody waits, nobody runs (up to 64 may wait)\n"
    with vestal.start("run", NUMBERS) as running:
        _until_queue_has(daemon, 1)
        with vestal.start("run", NUMBERS) as waiting:
            _until_queue_has(daemon, 2)
            head, first, second = vestal("queue").out.splitlines()
            assert head.split() == ["#", "STATE", "BACKEND", "USER", "PID", "AGE", "TOKENS", "CLIENT"]
            assert str(running.pid) in first.split()
            assert "waiting (1)" in second
            entries = json.loads(vestal("queue", "--json").out)["entries"]
            assert [entry["pid"] for entry in entries] == [running.pid, waiting.pid]

            number = first.split()[0]
            assert vestal("cancel", number) == (0, f"request #{number} is cancelled\n", "")
            _, err = running.communicate(timeout=PATIENCE)
            assert running.returncode == 1
            assert b"cancelled by the daemon's operator" in err
            waiting.kill()


def test_cancelling_what_is_not_there_is_refused(served: Vestal) -> None:
    done = served("cancel", "12345")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("vestal: invalid_request: no request #12345")
    assert served("cancel", "five").code == 2


def test_metrics_are_prometheus_text(served: Vestal) -> None:
    done = served("metrics")
    assert (done.code, done.err) == (0, "")
    assert "# TYPE vestal_connections gauge\n" in done.out


# --- drain ---------------------------------------------------------------------------------------------------------


def test_a_drained_daemon_refuses_requests_until_it_is_undrained(vestal: Vestal, begin: Begin) -> None:
    begin()
    assert vestal("drain") == (
        0, "vestald takes no new requests (0 requests running, 0 waiting); `vestal undrain` lets it again\n", ""
    )  # fmt: skip
    refused = vestal("run", "hello")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("vestal: shutting_down: ")
    assert vestal("status").code == 69
    assert vestal("undrain") == (0, "vestald is ready\n", "")
    assert vestal("run", "hello").out == "hello\n"
    assert vestal("undrain").err.startswith("vestal: invalid_request: ")


# --- stop ----------------------------------------------------------------------------------------------------------


def test_stop_waits_until_the_daemon_is_gone(vestal: Vestal, begin: Begin) -> None:
    daemon = begin()
    done = vestal("stop")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"vestald (pid {daemon.process.pid}) has stopped after ")
    assert done.out.count("\n") == 1
    assert daemon.wait() == 0
    assert not daemon.path("admin").exists()


def test_stop_lets_requests_run_on_and_says_so_on_a_terminal(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="50ms"))
    text = " ".join("w" * 60)  # three seconds, in which another command starts
    with vestal.start("run", text) as run:
        _until_queue_has(daemon, 1)
        with vestal.terminal("stop") as terminal:
            terminal.expect("stopping: 1 request may run on")
            assert terminal.finish() == 0
            (line,) = terminal.lines
            assert "has stopped" in line
        out, _ = run.communicate(timeout=PATIENCE)
    assert (run.returncode, out.decode()) == (0, f"{text}\n")


def test_stop_says_what_the_deadline_cut(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(fault="hang"))
    with vestal.start("run", "hello") as run:
        _until_queue_has(daemon, 1)
        done = vestal("stop", "--deadline", "0")
        assert done.code == 0
        assert done.out.endswith("; 1 request cut at the deadline\n")
        _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1
    assert err.startswith(b"vestal: shutting_down: ")


def test_stop_says_which_backend_would_not(vestal: Vestal, begin: Begin) -> None:
    begin(echo(fault="ignore_stop"))
    done = vestal("stop", "--deadline", "100ms")
    assert done.code == 0
    assert done.out.endswith("; killed, as they would not stop: echo\n")


def test_stop_also_ends_a_daemon_that_is_still_loading(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(ready_delay="60s"), wait=False)
    assert vestal("stop").code == 0
    assert daemon.wait() == 0


def test_ctrl_c_ends_the_waiting_and_not_the_stop(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(token_delay="50ms"))
    with vestal.start("run", NUMBERS) as run:
        _until_queue_has(daemon, 1)
        with vestal.terminal("stop", "--deadline", "1s") as terminal:
            terminal.expect("stopping")
            terminal.press("\x03")
            assert terminal.finish() == 130
            assert terminal.lines[-1] == "vestal: not waiting any longer; vestald goes on stopping"
        run.communicate(timeout=PATIENCE)
    assert daemon.wait() == 0


def test_a_hostile_status_cannot_move_the_cursor(vestal: Vestal, impostor: Answer) -> None:
    evil = "\x1b[2J\n"
    welcome = {
        "type": "welcome", "version": 1, "server": "x", "session": "s", "features": [], "backends": [],
        "limits": {"frame": 65536, "requests_per_connection": 1, "queue_depth": 1, "per_caller": 1},
    }  # fmt: skip
    backend = {"name": evil, "adapter": evil, "model": evil, "state": "ready", "detail": evil}
    report = {
        "type": "status_report", "id": 1, "state": "ready", "pid": 1, "server": evil, "uptime_ms": 1,
        "runtime_dir": evil, "sockets": {evil: evil}, "connections": 1, "backends": [backend], "waiting": 0,
        "running": 0, "queue_depth": 1,
    }  # fmt: skip
    impostor("admin", welcome, report)
    done = vestal("status")
    assert done.code in (0, 70)  # an answer before the question may also be taken for what it is
    assert "\x1b" not in done.out + done.err


def _until_queue_has(daemon: Daemon, number: int) -> None:
    """The daemon tells no one of a request's coming and going: so it is asked until it is so."""
    while len(daemon.queue().entries) != number:
        pass
