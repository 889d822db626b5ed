"""The audit log of a real daemon: what happens is a line, the chain survives restarts, and the daemon serves on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import Peer
from vestal import messages as m
from vestal.audit_files import file_names, lines_of, verify

WHO = {"socket", "session", "uid", "gid", "pid", "client"}


def log_of(daemon: Daemon) -> Path:
    return daemon.home / f"audit-{daemon.runtime_dir.name}"


def lines(daemon: Daemon, *events: str) -> list[dict[str, Any]]:
    """The lines of those events; all of them without."""
    where = log_of(daemon)
    found = [json.loads(line) for name in file_names(where) for line in lines_of(where / name)]
    return [line for line in found if not events or line["event"] in events]


def vestal(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "vestal.cli", *arguments], capture_output=True, text=True, check=False)


def test_a_connection_its_requests_and_its_end_are_lines(start: Start) -> None:
    daemon = start(echo(slots=1))
    with daemon.infer(client="editor \x1b[2J/1") as peer:
        peer.generate(7, "one two three")
        peer.ask(8, model="nobody")
        assert peer.error(8).code == "model_not_found"
        session = peer.welcome.session if isinstance(peer.welcome, m.Welcome) else ""
    assert daemon.stop() == 0
    found = lines(daemon, "connection", "admitted", "ended", "disconnection")
    found = [line for line in found if line["socket"] == "infer"]
    assert [line["event"] for line in found] == ["connection", "admitted", "ended", "ended", "disconnection"]
    for line in found:
        assert line.keys() >= WHO
        assert (line["uid"], line["gid"], line["pid"]) == (os.getuid(), os.getgid(), os.getpid())
        assert (line["client"], line["session"]) == ("editor \x1b[2J/1", session)
    _, admitted, done, refused, gone = found
    assert (admitted["id"], admitted["backend"], admitted["priority"], admitted["depth"]) == (7, "echo", "normal", 0)
    assert admitted["request"] == done["request"]
    assert (done["decision"], done["outcome"], done["input_tokens"], done["output_tokens"]) == ("admitted", "end", 3, 3)
    assert (refused["id"], refused["decision"], refused["outcome"]) == (8, "refused", "model_not_found")
    assert gone["requests"] == 2
    assert gone["bytes_in"] > 100
    assert gone["bytes_out"] > 100
    assert 0 <= done["queue_ms"] <= done["duration_ms"] <= gone["duration_ms"]


def test_who_waits_is_queued_and_who_finds_the_queue_full_is_refused_with_the_numbers(start: Start) -> None:
    daemon = start(echo(fault="hang", slots=1), admission={"queue_depth": 1})
    with daemon.infer() as peer:
        peer.send(*(peer.request(id) for id in (1, 2, 3)))
        assert peer.error(3).code == "queue_full"
        peer.send(m.Cancel(id=1), m.Cancel(id=2))
        peer.done(1)
        peer.done(2)
    assert daemon.stop() == 0
    assert [(line["event"], line["id"], line["depth"]) for line in lines(daemon, "admitted", "queued")] == [
        ("admitted", 1, 0),
        ("queued", 2, 1),
    ]
    ended = {line["id"]: (line["decision"], line["outcome"]) for line in lines(daemon, "ended")}
    assert ended == {1: ("admitted", "cancelled"), 2: ("queued", "cancelled"), 3: ("refused", "queue_full")}
    (full,) = [line for line in lines(daemon, "ended") if line["id"] == 3]
    assert full["numbers"]["limit"] == 1


def test_refusals_without_a_request_and_connections_without_a_word_are_lines(start: Start) -> None:
    daemon = start()
    with daemon.raw("infer", version=2) as peer:
        peer.write(b"\x00\x00\x00\x01\xc1")
        assert peer.error()["code"] == "malformed_frame"
    with daemon.raw("infer") as peer:
        peer.write(b"\xff\xff\xff\xff")
        assert peer.error()["code"] == "frame_too_large"
    with daemon.raw("infer"):
        pass
    assert daemon.stop() == 0
    (refused,) = lines(daemon, "refused")
    assert refused["code"] == "malformed_frame"
    (turned_away,) = lines(daemon, "connection_refused")
    assert (turned_away["code"], turned_away["uid"]) == ("frame_too_large", os.getuid())
    assert len(lines(daemon, "connection_abandoned")) == 1


def test_operators_commands_are_lines_and_mere_looks_are_not(start: Start) -> None:
    daemon = start()
    with daemon.admin() as admin:
        admin.command(m.Status(id=1), m.StatusReport)
        admin.command(m.Drain(id=2), m.Acknowledged)
        admin.command(m.Drain(id=3), m.Error)
        admin.command(m.Undrain(id=4), m.Acknowledged)
        admin.command(m.CancelRequest(id=5, request=99), m.Error)
        admin.command(m.RestartBackend(id=6, backend="echo"), m.Acknowledged)
        admin.command(m.Stop(id=7, deadline_ms=0), m.Acknowledged)
    assert daemon.wait() == 0
    found = [(line["command"], line["code"]) for line in lines(daemon, "admin")]
    assert found == [
        ("drain", "ok"),
        ("drain", "invalid_request"),
        ("undrain", "ok"),
        ("cancel_request", "invalid_request"),
        ("restart_backend", "ok"),
        ("stop", "ok"),
    ]
    assert [line["request"] for line in lines(daemon, "admin") if "request" in line] == [99]
    assert ("echo", "stopping") in [(line["backend"], line["state"]) for line in lines(daemon, "backend_state")]
    assert [line["event"] for line in lines(daemon)][-1] == "stop"


def test_the_chain_goes_on_over_restarts_and_a_kill(start: Start) -> None:
    for number, end in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)):
        daemon = start()
        with daemon.infer() as peer:
            peer.generate(1)
            while len(lines(daemon, "start")) <= number:  # what has not been written yet is lost in a kill
                peer.ping()
        daemon.signal(end)
        daemon.wait()
    found = verify(log_of(daemon))
    assert (found.findings, found.unfinished) == ([], False)
    assert len(lines(daemon, "start")) == 3
    assert [line["seq"] for line in lines(daemon)] == list(range(found.lines))


def test_status_and_metrics_tell_the_head_and_verify_finds_a_cut_end_with_it(start: Start) -> None:
    daemon = start()
    with daemon.infer() as peer:
        peer.generate(1)
    assert daemon.stop() == 0  # all is on disk
    noted = verify(log_of(daemon)).head
    daemon = start()
    with daemon.admin() as admin:
        audit = None
        while audit is None or audit.seq == noted.seq:  # until the first line of this run is written
            audit = admin.command(m.Status(id=1), m.StatusReport).audit
        text = admin.command(m.Metrics(id=2), m.MetricsReport).text
    assert (audit.directory, audit.dropped, audit.fault) == (str(log_of(daemon)), 0, "")
    assert audit.seq > noted.seq
    assert "vestal_audit_line " in text
    assert "vestal_audit_dropped_total 0.0" in text
    daemon.kill()
    where = log_of(daemon)
    (name,) = file_names(where)
    whole = list(lines_of(where / name))
    (where / name).write_bytes(b"".join(whole[: audit.seq]))
    assert vestal("audit", "verify", str(where)).returncode == 0
    cut = vestal("audit", "verify", "--head", f"{audit.seq}:{audit.hash}", str(where))
    assert cut.returncode == 1
    assert "its end was cut" in cut.stdout
    still = vestal("audit", "verify", f"--head={noted}", str(where))
    assert (still.returncode, "the chain is whole" in still.stdout) == (0, True)


def test_a_daemon_whose_log_cannot_be_written_serves_on_and_says_how_many_lines_it_lost(start: Start) -> None:
    daemon = start()
    with daemon.infer() as peer:
        peer.generate(1)
    limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    with daemon.infer() as peer:
        for id in range(1, 50):
            assert peer.generate(id)[1].stop_reason == "end"
        while not (status := daemon.status()).audit or not status.audit.dropped:
            peer.ping()
        assert status.audit.fault == "File too large"
        assert status.state == "ready"
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, limits)
    with daemon.infer() as peer:
        peer.generate(1)
    assert daemon.stop() == 0
    found = verify(log_of(daemon))
    assert found.findings == []
    assert found.dropped >= 50
    assert sum(line["count"] for line in lines(daemon, "dropped")) == found.dropped


@pytest.mark.parametrize("trouble", ["symlink", "locked"])
def test_a_log_that_cannot_be_kept_as_asked_is_a_reason_not_to_start(
    start: Start, short_dir: Path, trouble: str
) -> None:
    place = short_dir / "audit"
    if trouble == "symlink":
        (short_dir / "real").mkdir()
        place.symlink_to(short_dir / "real")
        daemon, code = start(wait=False, audit={"directory": str(place)}), 78
    else:
        start(audit={"directory": str(place)})
        config = f'[audit]\ndirectory = "{place}"\n[[backend]]\nname = "e"\nadapter = "echo"\n'
        daemon, code = Daemon(short_dir, config, runtime_dir=short_dir / "other"), 75
    assert daemon.wait() == code
    assert "audit.enabled = false" in daemon.last_words[-1]


def test_without_a_log_there_is_none(start: Start, short_dir: Path) -> None:
    daemon = start(audit={"enabled": False, "directory": str(short_dir / "none")})
    with daemon.infer() as peer:
        peer.generate(1)
    assert daemon.status().audit is None
    assert daemon.stop() == 0
    assert not (short_dir / "none").exists()


def test_the_default_place_is_in_the_data_home_by_the_runtime_directory(start: Start) -> None:
    daemon = start(audit={"files": 3})
    where = daemon.home / "store" / "audit" / "-".join(daemon.runtime_dir.parts[1:])
    status = daemon.status()
    assert status.audit is not None
    assert status.audit.directory == str(where)
    assert daemon.stop() == 0
    environ = {**os.environ, "VESTAL_HOME": str(daemon.home / "store")}
    done = subprocess.run(
        [sys.executable, "-m", "vestal.cli", "audit", "tail", "-n", "1", "--runtime-dir", str(daemon.runtime_dir)],
        capture_output=True, text=True, check=True, env=environ,
    )  # fmt: skip
    assert " stop uptime_ms=" in done.stdout


def test_the_command_line_tells_mistakes_and_what_is_not_there(tmp_path: Path) -> None:
    assert vestal("audit").returncode == 2
    assert vestal("audit", "mend").returncode == 2
    assert vestal("audit", "verify", "--head", "nonsense").returncode == 2
    assert vestal("audit", "tail", "-n", "0").returncode == 2
    missing = vestal("audit", "verify", str(tmp_path))
    assert (missing.returncode, "there is no audit log in" in missing.stderr) == (1, True)


def test_hostile_lines_are_shown_without_their_control_characters(tmp_path: Path) -> None:
    (tmp_path / "audit-000000000000.ndjson").write_bytes(b'\x1b[2J{"seq":0}\n')
    for arguments in (("tail",), ("tail", "--json"), ("verify",)):
        shown = vestal("audit", *arguments, str(tmp_path))
        assert "\x1b" not in shown.stdout


def test_a_peer_of_many_words_costs_one_line_each(start: Start) -> None:
    daemon = start()
    with Peer(daemon.path("infer"), "infer", (2,), client="x" * 128) as peer:
        peer.generate(1, "w " * 5000)
    assert daemon.stop() == 0
    for name in file_names(log_of(daemon)):
        assert max(map(len, lines_of(log_of(daemon) / name))) < 1024
