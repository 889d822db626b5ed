"""What a service manager hears, on a real notify socket: from a whole daemon, and from the corners of the protocol."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import start
from tests.e2e.harness import Daemon, echo, toml
from vestald.systemd import ServiceManager

__all__ = ["start"]


class Manager:
    """The manager's end: a bound datagram socket, and what has come."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)
        self.sock.settimeout(20)

    def hear(self) -> list[str]:
        """The assignments of one datagram."""
        return self.sock.recv(4096).decode().split("\n")

    def until(self, assignment: str) -> list[str]:
        """All assignments up to and with this one."""
        heard: list[str] = []
        while assignment not in heard:
            heard += self.hear()
        return heard

    def silent(self) -> bool:
        """Whether nothing has come that was not heard."""
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def manager(short_dir: Path) -> Iterator[Manager]:
    made = Manager(str(short_dir / "notify"))
    yield made
    made.sock.close()


@pytest.fixture
def address(short_dir: Path) -> str:
    return str(short_dir / "notify")


def test_a_daemon_tells_its_life(short_dir: Path, manager: Manager, address: str) -> None:
    slow = echo(ready_delay="50ms")
    daemon = Daemon(short_dir, toml(slow, daemon={"drain_deadline": "7s"}), environ={"NOTIFY_SOCKET": address})
    try:
        heard = manager.until("READY=1")
        assert heard[0] == "STATUS=loading"
        percents = [line for line in heard if line.startswith("STATUS=loading echo: ")]
        assert len(percents) > 1
        assert "STOPPING=1" not in heard
        with daemon.infer() as peer:  # ready is what it says
            peer.ping()
        daemon.signal()
        heard = manager.until("STOPPING=1")
        assert "READY=1" not in heard
        assert "EXTEND_TIMEOUT_USEC=12000000" in heard
        assert daemon.wait() == 0
    finally:
        daemon.kill()


def test_a_daemon_that_fails_to_load_is_never_ready(short_dir: Path, manager: Manager, address: str) -> None:
    daemon = Daemon(short_dir, toml(echo(fault="start")), environ={"NOTIFY_SOCKET": address})
    try:
        assert daemon.wait() == 69
        assert "READY=1" not in manager.until("STATUS=failed")
    finally:
        daemon.kill()


def test_a_daemon_says_that_its_loop_turns(short_dir: Path, manager: Manager, address: str) -> None:
    daemon = Daemon(short_dir, toml(echo()), environ={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"})
    try:
        for _ in range(10):
            manager.until("WATCHDOG=1")
    finally:
        daemon.kill()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may read the environment of an undumpable process")
def test_workers_are_not_told_of_the_manager(short_dir: Path, manager: Manager, address: str) -> None:
    isolated = echo(isolation="process")
    daemon = Daemon(short_dir, toml(isolated), environ={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"})
    try:
        manager.until("READY=1")
        pid = daemon.backend().pid
        assert b"PATH=" in Path(f"/proc/{pid}/environ").read_bytes()
        for name in (b"NOTIFY_SOCKET", b"WATCHDOG_USEC"):
            assert name in Path(f"/proc/{daemon.process.pid}/environ").read_bytes()
            assert name not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        daemon.kill()


def test_a_name_in_the_abstract_space_is_reached() -> None:
    manager = Manager(f"\0vestal-test-{os.getpid()}")
    ServiceManager({"NOTIFY_SOCKET": f"@vestal-test-{os.getpid()}"}).stopping(1.0)
    assert manager.hear() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=6000000"]
    manager.sock.close()


def test_ready_is_said_once_and_what_a_backend_says_never(manager: Manager, address: str) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": address})
    told.event(1, "backend_state", {"backend": "a", "state": "ready", "detail": "x"})
    told.event(2, "daemon_state", {"before": "loading", "state": "ready"})
    told.event(3, "daemon_state", {"before": "ready", "state": "draining"})
    told.event(4, "daemon_state", {"before": "draining", "state": "ready"})
    told.event(5, "refused", {"code": "queue_full"})
    told.event(6, "backend_state", {"backend": "a", "state": "unavailable", "detail": "whatever it said"})
    assert manager.hear() == ["READY=1", "STATUS=ready"]
    said = ["STATUS=draining", "STATUS=ready", "STATUS=backend a is unavailable"]
    assert [manager.hear() for _ in said] == [[line] for line in said]
    assert manager.silent()


@pytest.mark.parametrize("nobody", ["", "vsock:2:1234", "/nowhere/at/all", "relative"])
def test_where_nobody_listens_nothing_happens(nobody: str) -> None:
    ServiceManager({"NOTIFY_SOCKET": nobody}).stopping(1.0)


def test_a_manager_that_does_not_read_is_not_waited_for(manager: Manager, address: str) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": address})
    for _ in range(10_000):  # more than any queue of datagrams holds
        told.stopping(1.0)
    assert not manager.silent()


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("30000000", None, 15.0), ("30000000", os.getpid(), 15.0), ("30000000", 1, None), ("0", None, None),
     ("", None, None), ("-5", None, None), ("soon", None, None), ("²", None, None)],
)  # fmt: skip
def test_a_sign_of_life_is_due_at_half_the_time_and_from_this_process_only(
    manager: Manager, address: str, usec: str, pid: int | None, expected: float | None
) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": usec} | ({"WATCHDOG_PID": str(pid)} if pid else {})
    told = ServiceManager(environ)

    async def main() -> None:
        told.watch()
        told.close()

    asyncio.run(main())
    words = f" watchdog every {expected:g} s>" if expected is not None else f"{address!r}>"
    assert repr(ServiceManager(environ)).endswith(words)
    assert manager.silent() == (expected is None)


def test_after_the_end_nothing_is_said(manager: Manager, address: str) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": address})
    told.close()
    told.close()
    told.stopping(1.0)
    assert manager.silent()
    assert repr(told) == "<ServiceManager: none>"
