"""Adapters in which something never ends, whatever it is told: their clients are answered, and the daemon exits."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.e2e import stubborn_adapter
from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, Table, echo, slack
from tests.e2e.peers import Peer
from vestal import messages as m
from vestal.values import MessageV2, TextBlock

DEADLINE = 0.4

Stubborn: TypeAlias = Callable[..., Daemon]


@pytest.fixture
def stubborn(start: Start, tmp_path: Path) -> Stubborn:
    """Start a daemon whose first backend `stays_in` something; the adapter is installed in a folder of its own."""
    shutil.copy(stubborn_adapter.__file__, tmp_path)
    info = tmp_path / "stubborn-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stubborn\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vestal.backends]\nstubborn = stubborn_adapter:StubbornBackend\n")

    def begin(stays_in: str, *others: Table, ready_timeout: float = 60, required: bool = True) -> Daemon:
        table = {"name": "stubborn", "adapter": "stubborn", "stays_in": stays_in, "required": required}
        times = {"drain_deadline": DEADLINE, "ready_timeout": ready_timeout}
        environ = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
        return start(table, *others, wait=stays_in != "start" or not required, environ=environ, daemon=times)

    return begin


def is_loading(admin: Peer) -> None:
    """Return once the backend is in its `start`."""
    admin.send(m.Subscribe(id=0))
    if admin.take(m.Snapshot).status.backends[0].state != "loading":
        admin.event("backend_loading", backend="stubborn")


def stopped_in_time(daemon: Daemon, began: float) -> int:
    code = daemon.wait()
    assert time.monotonic() - began < DEADLINE + slack()
    assert list(daemon.runtime_dir.iterdir()) == []
    return code


def test_a_start_that_swallows_its_cancellation_does_not_hold_up_the_stop(stubborn: Stubborn) -> None:
    daemon = stubborn("start")
    with daemon.admin() as admin:
        is_loading(admin)
        began = time.monotonic()
        daemon.signal()
    assert stopped_in_time(daemon, began) == 70
    (line,) = daemon.last_words
    assert "backend stubborn" in line


def test_a_second_signal_does_not_wait_for_such_a_start_at_all(stubborn: Stubborn) -> None:
    daemon = stubborn("start")
    with daemon.admin() as admin:
        is_loading(admin)
        admin.command(m.Stop(id=2, deadline_ms=60_000), m.Acknowledged)
        began = time.monotonic()
        daemon.signal(signal.SIGINT)
    assert daemon.wait() == 70
    assert time.monotonic() - began < slack()


def test_such_a_start_that_takes_too_long_ends_the_daemon_as_any_does(stubborn: Stubborn) -> None:
    daemon = stubborn("start", echo("quick"), ready_timeout=0.3)
    assert daemon.wait() == 69
    (line,) = daemon.last_words
    assert "not ready within 0.3 s: stubborn" in line


def test_a_restart_that_never_comes_back_does_not_hold_up_the_stop(stubborn: Stubborn) -> None:
    daemon = stubborn("restart", echo("other"))
    with daemon.infer() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.command(m.RestartBackend(id=2, backend="stubborn"), m.Acknowledged)
        admin.event("backend_state", backend="stubborn", state="starting")
        assert peer.generate(1, "not concerned", model="other")[0] == "not concerned"
        began = time.monotonic()
        daemon.signal()
    assert stopped_in_time(daemon, began) == 70


@pytest.mark.parametrize("stays_in", ["stream", "close"])
def test_a_stream_that_does_not_close_costs_its_slot_and_not_its_client(stubborn: Stubborn, stays_in: str) -> None:
    daemon = stubborn(stays_in)
    with daemon.infer(features=("queue_events",)) as peer:
        peer.ask(1)
        peer.take(m.Text, id=1)
        peer.ask(2)
        peer.take(m.Queued, id=2)
        peer.send(m.Cancel(id=1))
        assert peer.done(1).stop_reason == "cancelled"
        assert daemon.backend("stubborn").running == 1, "the slot is taken until the stream is closed"
        began = time.monotonic()
        daemon.signal()
        assert peer.error(2).code == "shutting_down"
        assert not [frame for frame in peer.rest() if not isinstance(frame, m.Goaway)]
    assert stopped_in_time(daemon, began) == 70
    assert "backend stubborn" in daemon.last_words[0]


@pytest.mark.parametrize("stays_in", ["stream", "close", "cancelled_close"])
def test_a_deadline_is_told_at_once_however_long_the_stream_takes_to_close(stubborn: Stubborn, stays_in: str) -> None:
    daemon = stubborn(stays_in)
    with daemon.infer(features=("queue_events",)) as peer:
        peer.ask(1, timeout_ms=50)
        *pieces, error = peer.answer(1)
        assert isinstance(error, m.Error)
        assert error.code == "deadline_exceeded"
        texts = [piece for piece in pieces if isinstance(piece, m.Text)]
        assert error.details == {"timeout_ms": 50, "output_tokens": len(texts)}
        assert daemon.backend("stubborn").running == 1, "the slot is taken until the stream is closed"
        peer.ask(1)  # the id is free, and the slot is not
        assert peer.take(m.Queued, id=1).position == 1


def test_a_stream_that_would_close_if_it_were_told_twice_is_told_twice(stubborn: Stubborn) -> None:
    daemon = stubborn("cancelled_close")
    with daemon.infer() as peer:
        peer.ask(1)
        peer.take(m.Text, id=1)
        began = time.monotonic()
        daemon.signal()
        assert peer.error(1).code == "shutting_down"
    assert stopped_in_time(daemon, began) == 0


def test_a_count_that_never_ends_does_not_hold_up_the_stop(stubborn: Stubborn) -> None:
    daemon = stubborn("count")
    with daemon.infer() as peer:
        peer.send(m.CountV2(id=1, messages=[MessageV2("user", [TextBlock("Hi")])]))
        peer.ping()
        began = time.monotonic()
        daemon.signal()
    assert stopped_in_time(daemon, began) == 70


def test_a_thread_that_nobody_ends_does_not_hold_up_the_exit(stubborn: Stubborn) -> None:
    daemon = stubborn("thread")
    began = time.monotonic()
    daemon.signal()
    assert stopped_in_time(daemon, began) == 0


def test_a_stop_that_never_returns_is_left_behind(stubborn: Stubborn) -> None:
    daemon = stubborn("stop", echo("fine", isolation="process"))
    began = time.monotonic()
    daemon.signal()
    assert stopped_in_time(daemon, began) == 70
    (line,) = daemon.last_words
    assert "backend stubborn" in line
    assert "fine" not in line


def test_one_that_is_removed_and_never_stops_is_there_to_be_seen_and_told_at_the_end(stubborn: Stubborn) -> None:
    daemon = stubborn("stop", echo("fine"))
    with daemon.infer() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.command(m.RemoveBackend(id=2, backend="stubborn"), m.Acknowledged)
        failed = admin.event("backend_remove_failed", backend="stubborn")
        assert "did not stop within 1 s" in failed.data["error"]
        assert (daemon.backend("stubborn").state, daemon.backend("stubborn").draining) == ("stopping", True)
        assert peer.generate(1, "not concerned")[0] == "not concerned"
    daemon.signal()
    assert daemon.wait() == 70
    assert "backend stubborn" in daemon.last_words[0]
