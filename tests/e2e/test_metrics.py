"""The metrics beside the admin socket: the file for node_exporter, and the Unix socket that speaks HTTP."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon
from tests.e2e.peers import PATIENCE
from vestal import messages as m


def exchange(daemon: Daemon, request: bytes) -> bytes:
    """All that is answered to these bytes, until the daemon closes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(os.fspath(daemon.runtime_dir / "metrics.sock"))
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def requests_in(text: str) -> float:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return sum(sample.value for sample in families["vestal_requests"].samples if sample.name.endswith("_total"))


def test_a_scraper_gets_the_metrics_over_http_on_a_unix_socket(start: Start) -> None:
    daemon = start(metrics={"socket": True})
    path = daemon.runtime_dir / "metrics.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with daemon.infer() as peer:
        peer.generate(1, "one two")
    head, _, body = exchange(daemon, b"GET /metrics HTTP/1.1\r\nHost: vestal\r\n\r\n").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert f"Content-Length: {len(body)}" in lines
    assert any(line.startswith("Content-Type: text/plain; version=") for line in lines)
    assert requests_in(body.decode()) == 1
    daemon.stop()
    assert not path.exists()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics?name[]=up HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404 Not Found"),
        (b"GET /metrics/../secret HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", b"405 Method Not Allowed"),
        (b"GET /metrics\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", b"400 Bad Request"),
        (b"\x00\xff\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 5000, b"431 Header Too Large"),
    ],
)
def test_anything_else_is_refused_and_the_daemon_lives(start: Start, request_: bytes, status: bytes) -> None:
    daemon = start(metrics={"socket": True})
    assert exchange(daemon, request_).split(b"\r\n")[0] == b"HTTP/1.1 " + status
    assert daemon.status().state == "ready"


def test_silent_scrapers_keep_nobody_out_for_long(start: Start) -> None:
    """Eight that say nothing are what the socket takes; they are sent away after five seconds."""
    daemon = start(metrics={"socket": True})
    silent = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    try:
        for one in silent:
            one.connect(os.fspath(daemon.runtime_dir / "metrics.sock"))
        assert exchange(daemon, b"") == b""  # the ninth is not listened to
        for one in silent:
            one.settimeout(PATIENCE)
            assert one.recv(1) == b""
    finally:
        for one in silent:
            one.close()
    assert b"200 OK" in exchange(daemon, b"GET /metrics HTTP/1.1\r\n\r\n")


def test_without_the_option_there_is_no_such_socket(start: Start) -> None:
    assert not (start().runtime_dir / "metrics.sock").exists()


def test_the_textfile_is_there_from_the_start_is_kept_fresh_and_goes_with_the_daemon(
    start: Start, short_dir: Path
) -> None:
    file = short_dir / "vestal.prom"
    daemon = start(metrics={"textfile": str(file), "interval": "1s"})
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert "vestal_build_info{" in file.read_text()
    with daemon.infer() as peer:
        peer.generate(1, "one two")
    ends = time.monotonic() + PATIENCE
    inodes = set()
    while requests_in(text := file.read_text()) != 1:  # whole at every moment: a half would not parse
        assert text.endswith("\n")
        assert time.monotonic() < ends
        inodes.add(file.stat().st_ino)
    daemon.stop()
    assert not file.exists()
    assert not list(short_dir.glob(".vestal.prom*"))


def test_a_file_that_can_no_longer_be_written_is_told_once_and_again_when_it_can(start: Start, short_dir: Path) -> None:
    there = short_dir / "there"
    there.mkdir()
    daemon = start(metrics={"textfile": str(there / "vestal.prom"), "interval": "1s"})
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.take(m.Snapshot)
        there.rename(short_dir / "gone")
        event = admin.event("metrics_file_stale")
        assert event.data == {"path": str(there / "vestal.prom"), "fault": "No such file or directory"}
        (short_dir / "gone").rename(there)
        admin.event("metrics_file_fresh")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"textfile": "vestal.txt"}, "is not read by node_exporter"),
        ({"textfile": "/nowhere/vestal.prom"}, "cannot write /nowhere/vestal.prom: No such file or directory"),
        ({"textfile": "/tmp/vestal.prom", "interval": 0}, "metrics.interval is 0 s, and may be 1 s at least"),
    ],
)
def test_a_file_that_makes_no_sense_is_bad_configuration(start: Start, settings: dict[str, object], said: str) -> None:
    daemon = start(wait=False, metrics=settings)
    assert daemon.wait() == 78
    assert said in daemon.stderr
