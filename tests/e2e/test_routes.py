"""Two servers behind one daemon: which is asked, what a failing one costs, and what everybody is told of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.adapters.remote.threaded import running
from tests.adapters.remote.web import Asked, chat_like, chunk, sse
from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, Table, echo
from tests.e2e.peers import Peer
from vestal import messages as m
from vestal.messages import BreakerStatus

Answer = Callable[[Asked], Awaitable[None]]


class Upstream:
    """Says its name to whoever asks; while `broken` it answers 500, and while `held` it waits."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.broken = self.held = False
        self.asked = 0

    async def answer(self, asked: Asked) -> None:
        self.asked += 1
        if self.broken:
            await asked.reply({"error": {"message": "out of order"}}, 500)
            return
        await asked.stream(sse(chunk(self.name)))
        if self.held:
            await asked.gone.wait()
        else:
            await asked.more(sse(chunk("", "stop"), "[DONE]"))
            await asked.end_stream()


@pytest.fixture
def servers() -> Iterator[list[tuple[Upstream, str]]]:
    """Two of them, and where they are."""
    with ExitStack() as stack:
        yield [(up, stack.enter_context(running(chat_like(up.answer))).url) for up in (Upstream("a"), Upstream("b"))]


def tables(servers: list[tuple[Upstream, str]], **options: object) -> list[Table]:
    shared = {"adapter": "openai", "preset": "vllm", "aliases": ["fast"], "slots": 2, **options}
    return [{"name": up.name, "base_url": url, **shared} for up, url in servers]


def asked(peer: Peer, id: int, **options: Any) -> str:
    """The backend that answered, or the code of the error."""
    peer.ask(id, **options)
    end = peer.end(id)
    return end.backend if isinstance(end, m.Done) else end.code if isinstance(end, m.Error) else repr(end)


def explained(daemon: Daemon, **question: object) -> m.RouteReport:
    with daemon.admin() as admin:
        return admin.command(m.ExplainRoute(id=0, **question), m.RouteReport)  # type: ignore[arg-type]  # its fields


def test_a_server_that_fails_three_times_is_left_alone_and_comes_back_by_one_request(
    start: Start, servers: list[tuple[Upstream, str]]
) -> None:
    (a, _), (b, _) = servers
    daemon = start(*tables(servers), router={"breaker_cold": "2s"})
    with daemon.infer(1) as peer, daemon.admin() as watching:
        watching.send(m.Subscribe(id=0))
        watching.take(m.Snapshot)
        assert asked(peer, 1, model="fast") == "a"
        a.broken = True
        assert [asked(peer, id, model="fast") for id in (2, 3, 4)] == ["backend_crashed"] * 3
        opened = watching.event("breaker_opened", backend="a").data
        assert (opened["failures"], opened["last"], opened["seconds"]) == (3, "backend_crashed", 2.0)
        before = a.asked
        assert [asked(peer, id, model="fast") for id in (5, 6)] == ["b", "b"]
        assert a.asked == before
        report = explained(daemon, model="fast")
        assert [(c.backend, c.verdict) for c in report.candidates] == [("b", "chosen"), ("a", "cold")]
        assert daemon.backend("a").breaker.state == "open"
        a.broken = False
        time.sleep((daemon.backend("a").breaker.cold_ms or 0) / 1000 + 0.01)  # what it says is when it is tried again
        assert asked(peer, 7, model="fast") == "a"
        watching.event("breaker_closed", backend="a")
        assert daemon.backend("a").breaker == BreakerStatus(last="backend_crashed")
    assert b.asked >= 2


def test_with_one_server_the_client_hears_when_to_come_back_and_then_is_served(
    start: Start, servers: list[tuple[Upstream, str]]
) -> None:
    (a, _), _ = servers
    daemon = start(*tables(servers[:1]), router={"breaker_cold": "2s"})
    with daemon.infer(1) as peer:
        a.broken = True
        for id in (1, 2, 3):
            assert asked(peer, id) == "backend_crashed"
        peer.ask(4)
        error = peer.take(m.Error, id=4)
        assert (error.code, error.retryable) == ("backend_unavailable", True)
        assert error.retry_after_ms is not None
        assert "is left alone for" in error.message
        refusal = explained(daemon).refusal
        assert refusal is not None
        assert refusal.code == "backend_unavailable"
        a.broken = False
        time.sleep(error.retry_after_ms / 1000 + 0.01)  # what it says is when to come back
        assert asked(peer, 5) == "a"


def test_a_reload_changes_the_policy_and_the_retries_of_the_next_request(
    start: Start, servers: list[tuple[Upstream, str]]
) -> None:
    (a, _), _ = servers
    daemon = start(*tables(servers))
    with daemon.infer(1) as peer, daemon.admin() as admin:
        a.broken = True
        assert asked(peer, 1) == "backend_crashed"
        daemon.rewrite(*tables(servers), router={"retry_before_first_token": 1})
        reloaded = admin.command(m.Reload(id=7), m.Reloaded)
        assert [(c.key, c.before, c.after) for c in reloaded.applied] == [("router.retry_before_first_token", "0", "1")]
        peer.ask(2)
        done = peer.done(2)
        assert done.backend == "b"
        assert [notice.code for notice in done.notices if notice.code == "retried"] == ["retried"]
        assert "'a' failed with backend_crashed" in next(n.message for n in done.notices if n.code == "retried")


def test_least_busy_spreads_what_runs(start: Start, servers: list[tuple[Upstream, str]]) -> None:
    for up, _ in servers:
        up.held = True
    daemon = start(*tables(servers), router={"policy": "least_busy"})
    with daemon.infer(1) as peer:
        for id in range(4):
            peer.ask(id)
            peer.take(m.Token, id=id)
        assert [up.asked for up, _ in servers] == [2, 2]
        report = explained(daemon)
        assert [(c.backend, c.running, c.slots) for c in report.candidates] == [("a", 2, 2), ("b", 2, 2)]
        for id in range(4):
            peer.send(m.Cancel(id=id))
            assert peer.done(id).stop_reason == "cancelled"


def test_what_is_on_this_machine_goes_first(start: Start, servers: list[tuple[Upstream, str]]) -> None:
    cloud = tables(servers[:1], local=False)
    daemon = start(*cloud, echo("own"), router={"policy": "local_first"})
    with daemon.infer(1) as peer:
        assert isinstance(peer.welcome, m.Welcome)
        assert {b.name: b.capabilities.local for b in peer.welcome.backends} == {"a": False, "own": True}
        assert asked(peer, 1) == "own"
        assert asked(peer, 2, model="a") == "a"


def test_a_worker_that_is_killed_again_and_again_is_not_left_alone(start: Start) -> None:
    """A worker that was started anew is another engine: what waits for it is served, however often its like died."""
    daemon = start(echo(isolation="process", token_delay="1s"))
    with daemon.infer(1) as peer, daemon.admin() as watching:
        watching.send(m.Subscribe(id=0))
        watching.take(m.Snapshot)
        for id in range(5):
            peer.ask(id, "one two")
            peer.take(m.Token, id=id)
            pid = daemon.backend().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert peer.take(m.Error, id=id).code == "backend_crashed"
            watching.event("backend_state", state="ready")
            assert daemon.backend().breaker == BreakerStatus()
        peer.ask(9, "x")
        assert peer.done(9).stop_reason == "end"


def test_names_that_a_request_may_use_are_listed_where_one_is_wrong(
    start: Start, servers: list[tuple[Upstream, str]]
) -> None:
    daemon = start(*tables(servers))
    with daemon.infer(1) as peer:
        peer.ask(1, model="faast")
        error = peer.take(m.Error, id=1)
        assert error.code == "model_not_found"
        assert (error.details or {})["models"] == ["a", "small", "fast", "b"]
        assert "fast" in (error.hint or "")
