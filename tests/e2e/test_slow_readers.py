"""Clients that do not read: they cost themselves, and nobody else, and the daemon little memory."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import Peer, framed
from vestal import messages as m

MIB = 2**20
LONG = ("w" * 99 + " ") * 20_000  # 2 MB: far more than the socket and the outbox hold
HURRY = {"write_timeout": "300ms"}
ENOUGH = 'vestal_refusals_total{code="slow_consumer"} 1.0'


def send_all_that_goes(peer: Peer, data: bytes) -> None:
    """Write all of it, or until the daemon hangs up."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        peer.sock.sendall(data)


def told_off(daemon: Daemon, peer: Peer, frame: bytes) -> list[m.AnyMessage]:
    """All that comes back to one who writes, and reads nothing until the daemon has had enough of it. Its last words
    wait for a second and no longer, so it is a lump at a time: what came before them is to be read within that."""
    with daemon.admin() as admin:
        while ENOUGH not in admin.command(m.Metrics(id=1), m.MetricsReport).text:
            send_all_that_goes(peer, frame * 1000)
    return peer.rest()


def internal_errors(daemon: Daemon) -> bool:
    with daemon.admin() as admin:
        return 'outcome="internal"' in admin.command(m.Metrics(id=1), m.MetricsReport).text


def test_an_answer_that_is_not_read_is_ended_as_slow_consumer(start: Start) -> None:
    daemon = start(echo(), admission=HURRY)
    with daemon.infer() as sleeper, daemon.infer(features=("queue_events",)) as other:
        sleeper.ask(1, LONG)
        other.ask(1, "after it")  # waits for the only slot until the sleeper has lost it
        assert other.done(1).stop_reason == "end"
        *pieces, error = sleeper.answer(1)
        assert isinstance(error, m.Error)
        assert (error.code, error.retryable) == ("slow_consumer", False)
        assert error.details is not None
        assert error.details["write_timeout_ms"] == 300
        assert error.details["waiting_bytes"] > 0
        assert len(pieces) < 10_000
        assert sleeper.generate(2, "it reads again")[0] == "it reads again"


def test_an_answer_that_is_read_late_but_in_time_is_whole(start: Start) -> None:
    daemon = start(echo(), admission={"write_timeout": "20s"})
    text = LONG
    with daemon.infer() as sleeper:
        sleeper.ask(1, text)
        daemon.status()  # the daemon has run in the meantime
        *pieces, done = sleeper.answer(1)
        assert isinstance(done, m.Done)
        assert len(pieces) == 20_000


def test_those_who_read_do_not_notice_those_who_do_not(start: Start) -> None:
    daemon = start(echo(slots=8), admission={"write_timeout": "20s"})
    before = daemon.resident()
    sleepers = [daemon.infer() for _ in range(7)]
    try:
        for sleeper in sleepers:
            sleeper.ask(1, LONG)
        with daemon.infer() as reader:
            for id in range(20):
                assert reader.generate(id, "word " * 1000)[1].usage.output_tokens == 1000
        # Each has its request (2 MB, and as much again in words) and some 500 KiB of answer, not 3 MB of frames.
        assert [entry.output_tokens < 10_000 for entry in daemon.queue().entries] == [True] * 7
        assert daemon.resident() - before < 7 * 12 * MIB
    finally:
        for sleeper in sleepers:
            sleeper.close()


def test_a_hundred_who_do_not_read_cost_the_daemon_little_memory(start: Start) -> None:
    """Each asks for 2 MB and reads none of it: what it costs is its request and its outbox, not its answer."""
    sections = {
        "admission": {"write_timeout": "60s", "per_caller": 200, "queue_depth": 200},
        "sockets": {"connections_per_uid": 200},
    }
    daemon = start(echo(slots=100), echo("quick"), **sections)
    text = ("w" * 999 + " ") * 2000
    sleepers = [daemon.infer(1) for _ in range(100)]
    try:
        before = daemon.resident()
        for sleeper in sleepers:
            sleeper.ask(1, text, model="echo")
        with daemon.infer(1) as reader:
            for id in range(20):
                assert reader.generate(id, "word " * 200, model="quick")[1].usage.output_tokens == 200
        entries = daemon.queue().entries
        assert [entry.state for entry in entries] == ["running"] * 100
        assert max(entry.output_tokens for entry in entries) < 1000, "each is paused after a part of its answer"
        # 2 MB of prompt, 2 MB of it in words, less than 1 MB of outbox; 4 MB of frames if nothing held them back.
        assert daemon.resident() - before < 100 * 7 * MIB
    finally:
        for sleeper in sleepers:
            sleeper.close()


@pytest.mark.parametrize("kind", ["infer", "embed", "admin"])
def test_a_flood_of_pings_whose_pongs_are_not_read_is_cut_off(start: Start, kind: str) -> None:
    daemon = start(echo(embed=True))
    before = daemon.resident()
    peer = {"infer": daemon.infer, "embed": daemon.embed, "admin": daemon.admin}[kind]()
    with peer:
        last = told_off(daemon, peer, framed({"type": "ping", "nonce": 7}))[-1]
        assert isinstance(last, m.Error)
        assert last.code == "slow_consumer"
        assert daemon.resident() - before < 30 * MIB
    with daemon.infer() as next:
        assert next.generate(1)[1].stop_reason == "end"


def test_a_flood_of_bad_requests_whose_errors_are_not_read_is_cut_off(start: Start) -> None:
    daemon = start(echo())
    before = daemon.resident()
    with daemon.infer() as peer:
        frames = told_off(daemon, peer, framed({"type": "summon", "id": 1}))
        assert [frame.code for frame in frames if isinstance(frame, m.Error)][-1] == "slow_consumer"
    assert daemon.resident() - before < 30 * MIB


def test_embeddings_that_are_not_read_are_held_back_and_then_ended(start: Start) -> None:
    """An answer of 100 KB for a request of 200 bytes, over and over, by a client that does not read."""
    daemon = start(echo(embed=True), admission={**HURRY, "requests_per_connection": 100, "per_caller": 100})
    with daemon.embed() as sleeper, daemon.admin() as admin:
        sleeper.send(*(m.Embed(id=id, input=["a"] * 25, dimensions=1024) for id in range(60)))
        with daemon.embed() as other:
            other.send(m.Embed(id=1, input=["a"]))
            assert isinstance(other.end(1), m.Embeddings)
        while admin.command(m.Queue(id=1), m.QueueReport).entries:
            pass
        ends = [sleeper.end(id) for id in range(60)]
        answered = sum(isinstance(end, m.Embeddings) for end in ends)
        assert answered < 20
        assert {end.code for end in ends if isinstance(end, m.Error)} == {"slow_consumer"}


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_broken_bytes_from_a_client_that_does_not_read_raise_nothing(start: Start, isolation: str) -> None:
    daemon = start(echo(slots=2, token_delay="1ms", isolation=isolation), echo("big"))
    with daemon.infer() as peer, daemon.infer() as other:
        peer.send(peer.request(1, "w " * 100_000, model="echo"), peer.request(2, LONG, model="big"))
        other.generate(1, "the big one is running or paused", model="echo")
        send_all_that_goes(peer, b"\xff\xff\xff\xff")
        other.generate(2, "both slots are free again", model="big")
    assert daemon.queue().entries == []
    assert not internal_errors(daemon)


def test_who_half_closes_without_reading_is_forgotten(start: Start) -> None:
    daemon = start(echo(), admission={"write_timeout": "20s"})
    with daemon.infer() as sleeper, daemon.infer() as other:
        sleeper.ask(1, LONG)
        daemon.status()  # the request has been read by now
        sleeper.sock.shutdown(socket.SHUT_WR)
        other.ask(1, "has the slot")
        assert other.done(1).stop_reason == "end"
        with daemon.admin() as admin:
            admin.send(m.Subscribe(id=1))
            while admin.command(m.Status(id=2), m.StatusReport).connections > 2:  # the other, and this one
                pass
    assert not internal_errors(daemon)


def test_a_subscriber_that_does_not_read_is_told_how_many_events_it_lost(start: Start) -> None:
    daemon = start(echo())
    with daemon.admin() as watcher, daemon.infer() as noisy:
        watcher.send(m.Subscribe(id=1))
        watcher.take(m.Snapshot)
        for _ in range(20):  # each bad message is an event
            noisy.sock.sendall(framed({"type": "summon", "id": 1}) * 500)
            for _ in range(500):
                noisy.take(m.Error)
        noisy.ping()
        seen, dropped = 0, 0
        while seen + dropped < 10_000:
            event = watcher.event("refused")
            seen, dropped = seen + 1, event.dropped
        assert seen + dropped == 10_000
        assert dropped > 0
