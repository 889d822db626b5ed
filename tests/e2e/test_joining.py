"""Backends that nobody waits for: the gate opens without them, and they join when they come."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.remote.web import Server, chat_like
from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, Table, echo, slack
from tests.e2e.peers import PATIENCE, Peer
from tests.e2e.test_stubborn_adapters import DEADLINE, Stubborn, stubborn
from vestal import messages as m

__all__ = ["stubborn"]  # a fixture


def watching(daemon: Daemon) -> Peer:
    """An operator who is told of everything from now on."""
    admin = daemon.admin()
    admin.send(m.Subscribe(id=0))
    admin.take(m.Snapshot)
    return admin


class Upstream:
    """A model server on a Unix socket, in a thread of its own, that comes and goes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server = Server(chat_like(), path=path)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def up(self) -> None:
        self._do(self._server.listen())

    def down(self) -> None:
        self._do(self._kill())
        self.path.unlink()

    async def _kill(self) -> None:
        self._server.kill()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)

    def close(self) -> None:
        if self.path.exists():
            self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def upstream(short_dir: Path) -> Iterator[Upstream]:
    upstream = Upstream(short_dir / "up.sock")
    yield upstream
    upstream.close()


def remote(upstream: Upstream, **options: object) -> Table:
    return {"name": "cluster", "adapter": "openai", "preset": "vllm", "unix_socket": str(upstream.path), **options}


# --- the gate ---------------------------------------------------------------------------------------------------


def test_one_that_is_not_required_holds_nobody_up_and_joins_when_it_has_come(start: Start) -> None:
    daemon = start(echo("quick"), echo("slow", required=False, ready_delay="3s", embed=True), wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=0))
        if admin.take(m.Snapshot).status.state != "ready":
            admin.event("daemon_state", state="ready")
        slow = daemon.backend("slow")
        assert (slow.required, slow.state) in ((False, "starting"), (False, "loading"))
        assert not daemon.path("embed").exists()
        with daemon.infer() as peer:
            peer.ask(1, model="slow")
            error = peer.error(1)
            assert (error.code, error.retryable) == ("backend_unavailable", True)
            admin.event("backend_state", backend="slow", state="ready")
            admin.event("socket_opened", socket="embed")
            assert peer.generate(2, model="slow")[1].backend == "slow"


def test_where_nobody_is_required_the_first_that_is_ready_opens_the_gate(start: Start) -> None:
    tables = [echo("broken", required=False, fault="start"), echo("slow", required=False, ready_delay="200ms")]
    daemon = start(*tables, wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=0))
        if admin.take(m.Snapshot).status.state != "ready":
            admin.event("daemon_state", state="ready")
    with daemon.infer() as peer:
        assert peer.generate(1)[1].backend == "slow"
    assert daemon.backend("broken").state == "failed"


def test_a_daemon_whose_only_backend_fails_goes_on_loading_until_it_is_repaired(start: Start) -> None:
    daemon = start(echo(required=False, fault="start"), wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=0))
        if admin.take(m.Snapshot).status.backends[0].state != "failed":
            admin.event("backend_state", backend="echo", state="failed")
        status = daemon.status()
        assert (status.state, list(status.sockets)) == ("loading", ["admin"])
        assert "asked to fail" in status.backends[0].detail
        daemon.rewrite(echo(required=False))
        admin.command(m.RestartBackend(id=1, backend="echo"), m.Acknowledged)
        admin.event("daemon_state", state="ready")
        with daemon.infer() as peer:
            assert peer.generate(1)[1].stop_reason == "end"


def test_one_that_the_gate_waits_for_is_not_taken_away_from_it(start: Start) -> None:
    daemon = start(echo(ready_delay="30s"), wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=0))
        if admin.take(m.Snapshot).status.state != "loading":
            admin.event("daemon_state", state="loading")
        for kind in (m.RestartBackend, m.RemoveBackend):
            error = admin.command(kind(id=1, backend="echo"), m.Error)
            assert "the daemon waits for it" in error.message
        assert daemon.status().state == "loading"


def test_one_that_fails_again_and_again_is_told_once(start: Start) -> None:
    bad = echo("bad", required=False, fault="start", ready_delay="40ms")
    daemon = start(echo("good"), bad)
    with watching(daemon) as admin:
        percents = [0.0]
        while percents[-1] >= max(percents):  # until it is tried again
            percents.append(admin.event("backend_loading", backend="bad").data["percent"])
        assert "asked to fail" in daemon.backend("bad").detail, "the last reason is there to be seen"
        daemon.rewrite(echo("good"), echo("bad", required=False))
        admin.command(m.RestartBackend(id=1, backend="bad"), m.Acknowledged)
        admin.event("backend_state", backend="bad", state="ready")
    told = [json.loads(line) for line in daemon.stderr.splitlines() if '"backend_state"' in line and '"bad"' in line]
    assert [line["state"] for line in told] == ["loading", "failed", "stopping", "stopped", "starting", "ready"]


# --- a server that comes and goes -------------------------------------------------------------------------------


def test_a_server_that_comes_later_joins_by_itself(start: Start, upstream: Upstream) -> None:
    daemon = start(echo(), remote(upstream, required=False))
    with watching(daemon) as admin, daemon.infer() as peer:
        cluster = daemon.backend("cluster")
        assert cluster.state in ("starting", "loading")
        upstream.up()
        admin.event("backend_state", backend="cluster", state="ready")
        assert peer.generate(1, model="small")[0] == "Hello"


def test_a_server_that_came_too_late_for_one_start_is_there_for_the_next(start: Start, upstream: Upstream) -> None:
    daemon = start(echo(), remote(upstream, required=False), daemon={"ready_timeout": "300ms"})
    with watching(daemon) as admin:
        if daemon.backend("cluster").state != "failed":
            admin.event("backend_state", backend="cluster", state="failed")
        assert "not ready within 0.3 s: cluster" in daemon.backend("cluster").detail
        upstream.up()
        admin.event("backend_state", backend="cluster", state="ready")


def test_a_server_that_goes_is_missed_although_nobody_asks_for_anything(start: Start, upstream: Upstream) -> None:
    """No status is asked for, and no request: the rounds find out."""
    upstream.up()
    daemon = start(remote(upstream), daemon={"probe_interval": "100ms"})
    with watching(daemon) as admin:
        upstream.down()
        lost = admin.event("backend_state", backend="cluster", state="unavailable")
        assert "cluster" in lost.data["detail"]
        upstream.up()
        admin.event("backend_state", backend="cluster", state="ready")
        assert daemon.path("infer").exists()


# --- and the daemon stops ---------------------------------------------------------------------------------------


def test_a_stop_does_not_wait_for_one_that_still_starts(start: Start, upstream: Upstream) -> None:
    daemon = start(
        echo(),
        echo("slow", required=False, ready_delay="60s", isolation="process"),
        echo("bad", required=False, fault="start"),
        remote(upstream, required=False),
        daemon={"drain_deadline": DEADLINE},
    )
    with watching(daemon) as admin:
        admin.event("backend_loading", backend="slow")
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < DEADLINE + slack()


def test_nor_for_one_that_swallows_its_cancellation(stubborn: Stubborn) -> None:
    daemon = stubborn("start", echo(), required=False)
    with watching(daemon), daemon.infer() as peer:
        assert peer.generate(1, "not concerned")[0] == "not concerned"
    began = time.monotonic()
    daemon.signal()
    assert daemon.wait() == 70
    assert time.monotonic() - began < DEADLINE + slack()
    assert "backend stubborn" in daemon.last_words[0]
