"""More connections than there are places: each is told so and let go, and operators always get in."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

import vestal
from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import Peer
from vestal import messages as m
from vestal.errors import QueueFull

FEW = {"connections_per_uid": 3}


def refusal(peer: Peer) -> m.Error:
    """What the daemon said in place of a welcome, if it closed then."""
    assert isinstance(peer.welcome, m.Error), peer.welcome
    assert peer.rest() == []
    return peer.welcome


def test_a_connection_too_many_is_told_so_at_once_and_closed(start: Start) -> None:
    daemon = start(echo(embed=True), sockets=FEW)
    with daemon.infer() as one, daemon.infer(), daemon.embed():
        for knock in (daemon.infer, daemon.embed):  # they count together
            with knock() as refused:
                error = refusal(refused)
            assert (error.code, error.retryable, error.id) == ("queue_full", True, None)
            assert error.details == {"bound": "connections_per_uid", "limit": 3, "current": 3}
            assert error.hint is not None
            assert "sockets.connections_per_uid" in error.hint
        assert one.generate(1)[1].stop_reason == "end"


def test_it_is_told_before_it_has_said_anything(start: Start) -> None:
    daemon = start(sockets={"connections_per_uid": 1})
    with daemon.infer(), daemon.raw("infer") as silent:
        assert silent.error()["code"] == "queue_full"
        assert silent.read() is None, "it is not kept for longer than it takes to read"


def test_a_place_is_free_as_soon_as_somebody_leaves_and_that_teaches_when_to_come_back(start: Start) -> None:
    daemon = start(sockets=FEW)
    with ExitStack() as stack, daemon.admin() as admin:
        peers = [stack.enter_context(daemon.infer()) for _ in range(3)]
        for _ in range(3):
            peers.pop().close()
            while admin.command(m.Status(id=1), m.StatusReport).connections > 3:  # two peers and this one
                pass
            peers.append(stack.enter_context(daemon.infer()))
            assert isinstance(peers[-1].welcome, m.Welcome)
        with daemon.infer() as refused:
            retry = refusal(refused).retry_after_ms
        assert retry is not None
        assert retry >= 1


def test_operators_are_not_counted_and_get_in_when_nobody_else_does(start: Start) -> None:
    daemon = start(sockets={"connections_per_uid": 1})
    with daemon.infer(), ExitStack() as stack:
        for _ in range(5):
            admin = stack.enter_context(daemon.admin())
            assert admin.command(m.Status(id=1), m.StatusReport).state == "ready"


def test_the_bound_on_all_is_what_the_system_allows_less_what_is_set_aside(start: Start) -> None:
    """A crowd at a daemon with few descriptors: every connection gets a welcome or an error, and operators get in."""
    daemon = start(echo(isolation="process"), open_files=320, sockets={"connections_per_uid": 5000})
    limit = daemon.status().connection_limit
    assert limit is not None
    assert 16 <= limit < 320 - 64
    with ExitStack() as stack:
        inside = [stack.enter_context(daemon.infer()) for _ in range(limit)]
        assert all(isinstance(peer.welcome, m.Welcome) for peer in inside)
        # More than there are descriptors left, all at the door before the first has been answered.
        outside = [stack.enter_context(daemon.raw("infer")) for _ in range(400)]
        for raw in outside:
            error = raw.error()
            assert (error["code"], error["details"]["bound"]) == ("queue_full", "connections")
        assert daemon.status().connections == limit + 1
        assert inside[0].generate(1, "still served")[0] == "still served"
        with daemon.admin() as admin:  # there are descriptors for another worker
            admin.send(m.Subscribe(id=1))
            admin.command(m.RestartBackend(id=2, backend="echo"), m.Acknowledged)
            admin.event("backend_state", backend="echo", state="ready")
        assert inside[-1].generate(1, "and after")[0] == "and after"
        inside[0].close()
        for raw in outside:
            assert raw.read() is None
        with daemon.admin() as admin:
            while admin.command(m.Status(id=1), m.StatusReport).connections > limit:
                pass
        with daemon.infer() as next:
            assert isinstance(next.welcome, m.Welcome)
    assert daemon.stop() == 0


def test_a_daemon_with_next_to_no_descriptors_says_how_many_it_needs(start: Start) -> None:
    daemon = start(open_files=100, wait=False)
    assert daemon.wait() == 78
    (line,) = daemon.last_words
    assert "100 open files" in line
    assert "ulimit -n" in line


def test_client_libraries_raise_the_daemons_error_and_not_a_lost_connection(start: Start) -> None:
    daemon = start(sockets={"connections_per_uid": 1})
    with daemon.infer():
        for _ in range(20):
            with pytest.raises(QueueFull, match="1 is the limit"), vestal.Client(runtime_dir=daemon.runtime_dir) as one:
                one.generate("Hi")
        asyncio.run(_refused_asyncio(daemon))


async def _refused_asyncio(daemon: Daemon) -> None:
    for _ in range(20):
        with pytest.raises(QueueFull, match="1 is the limit"):
            async with vestal.AsyncClient(runtime_dir=daemon.runtime_dir) as client:
                await client.generate("Hi")
