"""Reloading a running daemon, by command and by signal: what holds at once, what needs a restart, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo, toml
from vestal import messages as m


def reload(daemon: Daemon) -> m.Reloaded:
    with daemon.admin() as admin:
        return admin.command(m.Reload(id=1), m.Reloaded)


def test_what_is_live_holds_at_once_and_the_rest_is_named_every_time(start: Start) -> None:
    daemon = start(echo(slots=1, fault="hang"))
    daemon.rewrite_as(
        toml(
            echo(slots=2, fault="hang"),
            admission={"queue_depth": 1},
            daemon={"drain_deadline": "3s"},
            sockets={"mode": "0600"},
        ),
    )
    for applied in ({"admission.queue_depth": ("64", "1"), "daemon.drain_deadline": ('"10s"', '"3s"')}, {}):
        done = reload(daemon)
        assert {change.key: (change.before, change.after) for change in done.applied} == applied
        assert {change.key: (change.before, change.after) for change in done.restart_to_apply} == {
            "sockets.mode": ('"0660"', '"0600"'),
            "backend.echo.slots": ("1", "2"),
        }
        assert done.warnings == []
    assert daemon.status().queue_depth == 1
    assert daemon.backend().slots == 1
    with daemon.infer() as peer:
        for id in (1, 2):
            peer.ask(id)
        peer.ask(3)
        assert peer.take(m.Error).code == "queue_full"


def test_a_broken_file_changes_nothing_and_says_what_is_wrong_with_it(start: Start) -> None:
    daemon = start(echo())
    daemon.rewrite_as(toml(echo(slotz=2), admission={"queue_depth": 0, "per_caller": 3}))
    with daemon.admin() as admin:
        error = admin.command(m.Reload(id=1), m.Error)
    assert error.code == "invalid_request"
    faults = (error.details or {})["faults"]
    assert [fault.partition(".toml:")[2].partition(" ")[0] for fault in faults] == ["2:"], faults
    assert daemon.status().queue_depth == 64
    (line,) = [json.loads(line) for line in daemon.stderr.splitlines() if "reload_refused" in line]
    assert line["faults"] == faults


def test_a_name_that_nobody_has_changes_nothing(start: Start) -> None:
    daemon = start(echo())
    daemon.rewrite_as(
        toml(echo(), admission={"queue_depth": 5, "weights": {}}) + '[admission.quotas]\n"no-such-user" = 1\n'
    )
    with daemon.admin() as admin:
        assert "there is no user 'no-such-user'" in admin.command(m.Reload(id=1), m.Error).message
    assert daemon.status().queue_depth == 64


def test_sighup_reloads_and_answers_in_the_log(start: Start) -> None:
    daemon = start(echo())
    daemon.rewrite_as(toml(echo(), admission={"queue_depth": 5}))
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=0))
        admin.take(m.Snapshot)
        daemon.signal(signal.SIGHUP)
        event = admin.event("reloaded")
        assert event.data["applied"] == ["admission.queue_depth: 64 -> 5"]
        daemon.rewrite_as("[daemon\n")
        daemon.signal(signal.SIGHUP)
        assert "not TOML" in admin.event("reload_refused").data["faults"][0]
    assert daemon.status().queue_depth == 5
    assert daemon.stop() == 0


def test_sighup_stops_a_daemon_whose_terminal_has_gone(short_dir: Path) -> None:
    master, slave = os.openpty()
    environ = {**os.environ, "VESTAL_RUNTIME_DIR": str(short_dir / "r"), "VESTAL_HOME": str(short_dir / "store")}
    file = short_dir / "v.toml"
    file.write_text(toml(echo()))
    command = [sys.executable, "-m", "vestald", "--config", str(file)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True)
    os.close(slave)
    try:
        _shown(master, b"daemon_state before=loading state=ready")
        process.send_signal(signal.SIGHUP)
        _shown(master, b"reloaded by=SIGHUP")
        os.close(master)
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def _shown(master: int, text: bytes) -> None:
    """Read a terminal until `text` has been written to it."""
    shown = b""
    while text not in shown:
        shown += os.read(master, 65536)


def test_flags_and_variables_go_on_counting_before_the_file(short_dir: Path) -> None:
    daemon = Daemon(
        short_dir, toml(echo()), "--admission-queue-depth", "7", environ={"VESTAL_ADMISSION_PER_CALLER": "6"}
    ).ready()
    try:
        assert daemon.status().queue_depth == 7
        daemon.rewrite_as(toml(echo(), admission={"queue_depth": 1, "per_caller": 1, "write_timeout": "9s"}))
        assert [change.key for change in reload(daemon).applied] == ["admission.write_timeout"]
        assert daemon.status().queue_depth == 7
    finally:
        daemon.kill()


def test_a_stop_takes_the_deadline_that_was_reloaded(start: Start) -> None:
    daemon = start(echo(fault="hang"))
    daemon.rewrite_as(toml(echo(fault="hang"), daemon={"drain_deadline": "200ms"}))
    reload(daemon)
    with daemon.infer() as peer:
        peer.ask(1)
        daemon.signal()
        assert peer.take(m.Goaway).deadline_ms == 200
        assert peer.error(1).code == "shutting_down"
    assert daemon.wait() == 0


def test_the_command_tells_people_and_programs(start: Start) -> None:
    daemon = start(echo())
    daemon.rewrite_as(toml(echo(slots=3), admission={"queue_depth": 5}))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vestal.cli", "reload", *words]
        environ = {**os.environ, "VESTAL_RUNTIME_DIR": str(daemon.runtime_dir)}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)

    told = run()
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[1:] == [
        "now: admission.queue_depth 64 -> 5",
        "restart to apply: backend.echo.slots 1 -> 3",
        "of backends: `vestal backend restart NAME`, or add, or remove, applies it while vestald runs",
    ]
    assert json.loads(run("--json").stdout)["applied"] == []
    daemon.rewrite_as(toml(echo(), admission={"queue_dept": 5}))
    refused = run()
    assert refused.returncode == 1
    assert "did you mean queue_depth?" in refused.stderr
    assert refused.stderr.splitlines()[-1] == "vestal: nothing was changed"


@pytest.mark.parametrize("state", ["loading", "draining"])
def test_a_reload_is_legal_in(start: Start, state: str) -> None:
    daemon = start(echo(ready_delay="30s" if state == "loading" else "0s"), wait=state != "loading")
    if state == "draining":
        with daemon.admin() as admin:
            admin.command(m.Drain(id=1), m.Acknowledged)
    assert daemon.status().state == state
    assert reload(daemon).applied == []
