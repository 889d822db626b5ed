"""Ending a request early: by frame, by leaving, by the operator; while it waits and while it runs."""

from __future__ import annotations

import socket

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import echo
from vestal import messages as m

EVENTS = ("queue_events",)
ISOLATION = pytest.mark.parametrize("isolation", ["none", "process"])


@ISOLATION
def test_a_running_request_ends_with_what_it_made(start: Start, isolation: str) -> None:
    daemon = start(echo(token_delay="5ms", isolation=isolation))
    with daemon.infer() as peer:
        peer.ask(1, "w " * 10_000)
        peer.take(m.Text)
        peer.send(m.Cancel(id=1))
        *pieces, done = peer.answer(1)
        assert isinstance(done, m.Done)
        assert (done.stop_reason, done.notices) == ("cancelled", [])
        assert done.usage.output_tokens == 1 + len(pieces)
        assert peer.generate(2, "the slot is free", max_tokens=2)[0] == "the slot"


@ISOLATION
def test_a_request_that_says_nothing_is_cancelled_too(start: Start, isolation: str) -> None:
    daemon = start(echo(fault="hang", isolation=isolation))
    with daemon.infer(features=EVENTS) as peer:
        peer.ask(1)
        peer.take(m.Started, id=1)
        peer.send(m.Cancel(id=1))
        assert peer.done(1).usage.output_tokens == 0
        assert daemon.queue().entries == []


def test_a_waiting_request_ends_without_having_started(start: Start) -> None:
    daemon = start(echo(fault="hang"))
    with daemon.infer(features=EVENTS) as peer:
        peer.send(peer.request(1), peer.request(2), peer.request(3))
        peer.take(m.Queued, id=3)
        peer.send(m.Cancel(id=2))
        *before, done = peer.answer(2)
        assert isinstance(done, m.Done)
        assert (done.stop_reason, done.backend, done.usage.output_tokens) == ("cancelled", "echo", 0)
        assert m.Started not in map(type, before)
        assert [entry.state for entry in daemon.queue().entries] == ["running", "waiting"]


def test_a_cancel_in_the_same_write_as_its_request_ends_it(start: Start) -> None:
    daemon = start(echo(fault="hang"))
    with daemon.infer() as peer:
        peer.send(peer.request(1), m.Cancel(id=1))
        (done,) = peer.answer(1)
        assert isinstance(done, m.Done)
        assert done.stop_reason == "cancelled"
        assert daemon.queue().entries == []


def test_a_cancel_of_an_id_that_is_unknown_or_has_ended_has_no_effect(start: Start) -> None:
    daemon = start(echo())
    with daemon.infer() as peer:
        peer.send(m.Cancel(id=5))
        peer.generate(1)
        peer.send(m.Cancel(id=1), m.Cancel(id=1), m.Cancel(id=2**63 - 1))
        peer.ping()
        assert not peer.untaken
        assert peer.generate(1)[1].stop_reason == "end"


def test_a_second_cancel_has_no_effect(start: Start) -> None:
    daemon = start(echo(fault="hang"))
    with daemon.infer() as peer:
        peer.send(peer.request(1))
        peer.send(m.Cancel(id=1), m.Cancel(id=1))
        assert peer.done(1).stop_reason == "cancelled"
        peer.ping()
        assert not peer.untaken


def test_a_cancel_touches_no_other_connection(start: Start) -> None:
    daemon = start(echo(fault="hang", slots=2))
    with daemon.infer() as peer, daemon.infer() as neighbour:
        peer.ask(1)
        neighbour.ask(1)
        neighbour.ping()
        peer.send(m.Cancel(id=1))
        assert peer.done(1).stop_reason == "cancelled"
        neighbour.ping()
        assert not neighbour.untaken


def test_an_unstreamed_request_that_is_cancelled_gives_the_text_it_made(start: Start) -> None:
    daemon = start(echo(token_delay="5ms"))
    with daemon.infer(1) as peer, daemon.admin() as admin:
        peer.ask(1, "w " * 10_000, stream=False)
        while not any(entry.output_tokens for entry in admin.command(m.Queue(id=1), m.QueueReport).entries):
            pass  # it says nothing to its client, so the operator's view is the only one
        peer.send(m.Cancel(id=1))
        done = peer.done(1)
        assert done.stop_reason == "cancelled"
        assert done.text is not None
        assert len(done.text.split()) == done.usage.output_tokens > 0


@pytest.mark.parametrize("leave", ["close", "half-close", "reset"])
@ISOLATION
def test_who_leaves_gives_up_what_runs_and_what_waits(start: Start, isolation: str, leave: str) -> None:
    daemon = start(echo(fault="hang", isolation=isolation))
    with daemon.infer(features=EVENTS) as leaver, daemon.infer(features=EVENTS) as other:
        leaver.send(*(leaver.request(id) for id in range(3)))
        leaver.take(m.Queued, id=2)
        other.ask(1)
        other.take(m.Queued, id=1)
        if leave == "half-close":
            leaver.sock.shutdown(socket.SHUT_WR)
        elif leave == "reset":
            leaver.sock.shutdown(socket.SHUT_RDWR)
        else:
            leaver.close()
        other.take(m.Started, id=1)
        assert [entry.state for entry in daemon.queue().entries] == ["running"]


def test_who_leaves_in_the_middle_of_a_stream_frees_the_slot(start: Start) -> None:
    daemon = start(echo(token_delay="2ms"))
    with daemon.infer() as other:
        for _ in range(5):
            with daemon.infer() as leaver:
                leaver.ask(1, "w " * 100_000)
                leaver.take(m.Text)
        assert other.generate(1, "next")[0] == "next"


def test_the_operator_ends_any_request_and_the_client_is_told_who_did(start: Start) -> None:
    daemon = start(echo(fault="hang"))
    with daemon.infer(features=EVENTS) as peer, daemon.admin() as admin:
        peer.send(peer.request(1), peer.request(2))
        peer.take(m.Queued, id=2)
        running, waiting = admin.command(m.Queue(id=1), m.QueueReport).entries
        for id, entry in ((2, waiting), (1, running)):
            admin.command(m.CancelRequest(id=2, request=entry.request), m.Acknowledged)
            done = peer.done(id)
            assert done.stop_reason == "cancelled"
            assert [notice.code for notice in done.notices] == ["cancelled_by_operator"]
        while admin.command(m.Queue(id=1), m.QueueReport).entries:
            pass  # the client was told at once; the backend may take a moment to let go
        error = admin.command(m.CancelRequest(id=3, request=running.request), m.Error)
        assert (error.code, (error.details or {})["field"]) == ("invalid_request", "request")
