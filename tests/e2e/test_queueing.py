"""Many requests at once: who waits, who runs, who is refused, and what each is told meanwhile.

A backend with the fault `hang` runs a request until it is cancelled, so the tests decide when a slot is free.
"""

from __future__ import annotations

import os

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import TERMINAL, Peer
from vestal import messages as m
from vestal.values import MessageV2

EVENTS = ("queue_events",)


def hanging(start: Start, slots: int = 1, **admission: int) -> Daemon:
    return start(echo(fault="hang", slots=slots), admission=admission or {"queue_depth": 64})


def states(daemon: Daemon) -> list[tuple[str, int | None]]:
    return [(entry.state, entry.position) for entry in daemon.queue().entries]


def test_many_requests_on_one_connection_each_get_their_own_answer(shared: Daemon) -> None:
    with shared.infer() as peer:
        texts = {id: f"request {id} says {'word ' * (id % 7)}end" for id in range(50)}
        peer.send(*(peer.request(id, text) for id, text in texts.items()))
        for id in reversed(texts):  # taken in another order than they come
            *pieces, done = peer.answer(id)
            assert "".join(piece.delta for piece in pieces if isinstance(piece, m.Text)) == texts[id]
            assert isinstance(done, m.Done)
        assert peer.untaken == type(peer.untaken)()


def test_an_id_is_free_again_after_its_terminal_frame(shared: Daemon) -> None:
    with shared.infer() as peer:
        for turn in range(20):
            assert peer.generate(5, f"turn {turn}")[0] == f"turn {turn}"


def test_running_requests_are_interleaved(start: Start) -> None:
    daemon = start(echo(token_delay="5ms", slots=2))
    with daemon.infer() as peer:
        peer.send(peer.request(1, "a " * 20), peer.request(2, "b " * 20))
        order = [peer.first(lambda frame: isinstance(frame, m.Text)).id for _ in range(20)]  # type: ignore[union-attr]
    assert {1, 2} == set(order[:4])


def test_no_more_run_than_there_are_slots_and_the_rest_start_in_order(start: Start) -> None:
    daemon = hanging(start, slots=3)
    with daemon.infer(features=EVENTS) as peer:
        peer.send(*(peer.request(id) for id in range(10)))
        for id in range(3):
            peer.take(m.Started, id=id)
        waiting = {frame.id: frame.position for frame in (peer.take(m.Queued) for _ in range(7))}
        assert waiting == {id: id - 2 for id in range(3, 10)}
        for running in range(7):
            assert states(daemon) == [("running", None)] * 3 + [("waiting", place) for place in range(1, 8 - running)]
            peer.send(m.Cancel(id=running))
            assert peer.done(running).stop_reason == "cancelled"
            assert peer.take(m.Started).id == running + 3


def test_a_request_that_starts_at_once_is_not_told_of_a_queue(start: Start) -> None:
    daemon = hanging(start)
    with daemon.infer(features=EVENTS) as peer:
        peer.ask(1)
        started = peer.take(m.Started)
        assert (started.id, started.backend, started.model) == (1, "echo", "echo")
        peer.ping()
        assert not peer.untaken


def test_positions_and_depth_are_told_on_entry_and_on_every_change(start: Start) -> None:
    daemon = hanging(start)
    with daemon.infer(features=EVENTS) as peer:
        peer.send(*(peer.request(id) for id in range(1, 5)))
        seen = [peer.take(m.Queued) for _ in range(3)]
        assert [(frame.id, frame.position, frame.depth) for frame in seen] == [(2, 1, 3), (3, 2, 3), (4, 3, 3)]
        peer.send(m.Cancel(id=2))
        assert peer.done(2).stop_reason == "cancelled"
        seen = [peer.take(m.Queued) for _ in range(2)]
        assert [(frame.id, frame.position, frame.depth) for frame in seen] == [(3, 1, 2), (4, 2, 2)]
        peer.send(m.Cancel(id=1))
        peer.take(m.Started, id=3)
        moved = peer.take(m.Queued)
        assert (moved.id, moved.position, moved.depth) == (4, 1, 1)
        assert moved.eta_ms is not None  # a request has run, so there is a rate


def test_without_the_feature_nothing_is_said_of_the_queue(start: Start) -> None:
    daemon = hanging(start)
    with daemon.infer() as peer:
        peer.send(*(peer.request(id) for id in range(3)))
        peer.ping()
        assert not peer.untaken


def test_a_full_queue_is_said_at_once_with_the_numbers(start: Start) -> None:
    daemon = hanging(start, queue_depth=2, per_caller=8)
    with daemon.infer() as peer:
        peer.send(*(peer.request(id) for id in range(4)))
        error = peer.error(3)
        assert (error.code, error.retryable) == ("queue_full", True)
        assert error.details == {"depth": 2, "limit": 2, "bound": "queue_depth"}
        assert error.retry_after_ms is not None
        assert error.retry_after_ms > 0
        peer.send(m.Cancel(id=1))
        assert peer.done(1).stop_reason == "cancelled"
        peer.ask(4)  # there is room again
        peer.ping()
        assert len(states(daemon)) == 3


def test_a_callers_share_of_the_queue_is_bounded(start: Start) -> None:
    daemon = hanging(start, queue_depth=8, per_caller=2)
    with daemon.infer() as one, daemon.infer() as other:
        one.send(one.request(0), one.request(1))
        one.ping()
        other.send(other.request(0), other.request(1))  # the same uid
        error = other.error(1)
        assert error.code == "queue_full"
        assert error.details == {"depth": 2, "limit": 2, "bound": "per_caller"}


def test_requests_in_flight_on_a_connection_are_bounded(start: Start) -> None:
    daemon = hanging(start, requests_per_connection=3, queue_depth=64)
    with daemon.infer() as peer, daemon.infer() as other:
        peer.send(*(peer.request(id) for id in range(5)))
        for id in (3, 4):
            error = peer.error(id)
            assert error.code == "queue_full"
            assert error.details == {"depth": 3, "limit": 3, "bound": "requests_per_connection"}
        peer.send(m.CountV2(id=9, messages=_hello(peer)))
        assert peer.error(9).code == "queue_full"
        other.ask(1)  # another connection has its own
        other.ping()
        assert len(states(daemon)) == 4
        peer.send(m.Cancel(id=2))
        assert peer.done(2).stop_reason == "cancelled"
        peer.ask(5)
        peer.ping()
        assert len(states(daemon)) == 4


def test_a_request_that_waits_too_long_is_told_so_and_never_started(start: Start) -> None:
    daemon = hanging(start)
    with daemon.infer(features=EVENTS) as peer:
        peer.send(peer.request(1), peer.request(2, queue_timeout_ms=50))
        *before, error = peer.answer(2)
        assert [type(frame) for frame in before] == [m.Queued]
        assert isinstance(error, m.Error)
        assert (error.code, error.retryable) == ("queue_timeout", True)
        assert (error.details or {})["waited_ms"] >= 50
        assert states(daemon) == [("running", None)]


def test_a_queue_timeout_does_not_count_once_it_runs(start: Start) -> None:
    daemon = start(echo(token_delay="20ms"))
    with daemon.infer() as peer:
        assert peer.generate(1, "a b c d e f", queue_timeout_ms=40)[1].stop_reason == "end"


def test_a_deadline_counts_while_waiting_and_while_running(start: Start) -> None:
    daemon = hanging(start)
    with daemon.infer() as peer:
        peer.send(peer.request(1, timeout_ms=60), peer.request(2, timeout_ms=30), peer.request(3))
        for id, timeout in ((2, 30), (1, 60)):
            error = peer.error(id)
            assert error.code == "deadline_exceeded"
            assert error.details == {"timeout_ms": timeout, "output_tokens": 0}
        peer.ping()
        assert states(daemon) == [("running", None)]  # the slot went on to the third


def test_a_deadline_in_the_middle_of_an_answer_ends_it_with_the_tokens_made(start: Start) -> None:
    daemon = start(echo(token_delay="10ms"))
    with daemon.infer() as peer:
        peer.ask(1, "w " * 10_000, timeout_ms=100)
        *pieces, error = peer.answer(1)
        assert isinstance(error, m.Error)
        assert error.code == "deadline_exceeded"
        assert error.details == {"timeout_ms": 100, "output_tokens": len(pieces)}


def test_a_higher_class_goes_first(start: Start) -> None:
    daemon = hanging(start)
    with daemon.infer(features=EVENTS) as peer:
        peer.ask(0)
        for id, priority in enumerate(("batch", "normal", "interactive"), start=1):
            peer.ask(id, priority=priority)
        peer.ping()
        assert [entry.priority for entry in daemon.queue().entries] == ["normal", "batch", "normal", "interactive"]
        for running, then in ((0, 3), (3, 2), (2, 1)):
            peer.send(m.Cancel(id=running))
            assert peer.take(m.Started, id=then).id == then


def test_backends_have_slots_of_their_own(start: Start) -> None:
    daemon = start(echo("stuck", fault="hang"), echo("free"))
    with daemon.infer() as peer:
        peer.send(peer.request(1, model="stuck"), peer.request(2, model="stuck"))
        assert peer.generate(3, "passes by", model="free")[0] == "passes by"


def test_the_queue_report_says_who_and_never_what(start: Start) -> None:
    daemon = start(echo(token_delay="20ms"))
    with daemon.infer(client="editor/1.4") as peer:
        peer.send(peer.request(7, "secret words " * 500), peer.request(8, "secret"))
        peer.take(m.Text)
        report = daemon.queue()
    first, second = report.entries
    assert (report.depth, report.limit) == (1, 64)
    assert (first.state, first.backend, first.client, first.position) == ("running", "echo", "editor/1.4", None)
    assert (second.state, second.position, second.output_tokens) == ("waiting", 1, 0)
    assert first.request != second.request
    assert first.output_tokens >= 1
    assert first.age_ms >= 20
    assert (first.uid, first.pid) == (os.getuid(), os.getpid())
    assert "secret" not in repr(report)


def test_every_request_of_a_burst_ends_once(start: Start) -> None:
    daemon = start(
        echo(slots=4, token_delay="1ms"),
        admission={"queue_depth": 20, "per_caller": 20, "requests_per_connection": 200},
    )
    with daemon.infer(features=EVENTS) as peer:
        peer.send(*(peer.request(id, "a b c") for id in range(100)))
        ends = [peer.end(id) for id in range(100)]
        codes = [end.code if isinstance(end, m.Error) else end.stop_reason for end in ends]  # type: ignore[union-attr]
        assert set(codes) == {"end", "queue_full"}
        assert codes.count("end") == 24  # what runs, and what waits
        assert all(isinstance(end, TERMINAL) for end in ends)
        assert not peer.untaken


def _hello(peer: Peer) -> list[MessageV2]:
    request = peer.request(0)
    assert isinstance(request, m.GenerateV2)
    return request.messages
