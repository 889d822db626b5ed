"""Callers are kernel identities: what one user does to the queue, the connections and the cache, and what others feel.

A backend with the fault `hang` runs a request until it is cancelled, so the tests decide when a slot is free.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import Peer
from tests.e2e.users import connected_as, needs_root, open_to_all
from vestal import messages as m

pytestmark = needs_root

ANN, BOB, CID = 12345, 12346, 12347
EVENTS = ("queue_events",)


def infer_as(daemon: Daemon, uid: int) -> Peer:
    return Peer(connected_as(daemon.path("infer"), uid), "infer", (2,), features=EVENTS)


def order_of(daemon: Daemon) -> list[int]:
    """The uids in the order in which their requests would start."""
    waiting = [entry for entry in daemon.queue().entries if entry.position is not None]
    return [entry.uid for entry in sorted(waiting, key=lambda entry: entry.position or 0)]


def test_one_who_queues_hundreds_delays_anothers_first_by_no_more_than_what_runs(start: Start) -> None:
    daemon = open_to_all(
        start(
            echo(fault="hang", slots=2),
            admission={"queue_depth": 1000, "per_caller": 500, "requests_per_connection": 500},
        )
    )
    with infer_as(daemon, ANN) as ann, infer_as(daemon, BOB) as bob:
        ann.send(*(ann.request(id) for id in range(400)))
        ann.ping()
        bob.ask(0)
        assert bob.take(m.Queued, id=0).position == 1
        ann.send(m.Cancel(id=0))
        assert bob.take(m.Started, id=0).id == 0


def test_users_take_turns_however_many_connections_each_has(start: Start) -> None:
    daemon = open_to_all(start(echo(fault="hang", slots=1), admission={"queue_depth": 64}))
    with (
        infer_as(daemon, CID) as cid,
        infer_as(daemon, ANN) as ann,
        infer_as(daemon, ANN) as ann_again,
        infer_as(daemon, BOB) as bob,
    ):
        cid.ask(0)
        cid.take(m.Started, id=0)
        for peer in (ann, ann_again, bob):
            peer.send(peer.request(0), peer.request(1))
        for peer in (ann, ann_again, bob):
            peer.ping()
        assert sorted(order_of(daemon)[:4]) == [ANN, ANN, BOB, BOB]
        assert order_of(daemon)[4:] == [ANN, ANN]


def test_a_users_share_of_the_queue_is_its_own(start: Start) -> None:
    daemon = open_to_all(start(echo(fault="hang", slots=1), admission={"queue_depth": 64, "per_caller": 2}))
    with infer_as(daemon, ANN) as ann, infer_as(daemon, BOB) as bob:
        ann.send(*(ann.request(id) for id in range(4)))
        assert ann.error(3).details == {"depth": 2, "limit": 2, "bound": "per_caller"}
        bob.ask(0)
        assert bob.take(m.Queued, id=0).depth == 3


def test_weights_are_those_of_the_kernels_uid(start: Start) -> None:
    daemon = open_to_all(start(echo(fault="hang", slots=1), **{"admission.weights": {str(BOB): 3.0}}))
    with infer_as(daemon, CID) as cid, infer_as(daemon, ANN) as ann, infer_as(daemon, BOB) as bob:
        cid.ask(0)
        cid.take(m.Started, id=0)
        ann.send(*(ann.request(id, max_tokens=10) for id in range(3)))
        bob.send(*(bob.request(id, max_tokens=10) for id in range(9)))
        ann.ping()
        bob.ping()
        assert order_of(daemon)[:8].count(BOB) == 6


def test_the_class_interactive_is_for_whom_the_operator_names(start: Start) -> None:
    daemon = open_to_all(start(echo(slots=1), admission={"interactive": [ANN]}))
    with infer_as(daemon, ANN) as ann, infer_as(daemon, BOB) as bob:
        assert ann.generate(1, priority="interactive")[1].stop_reason == "end"
        bob.ask(1, priority="interactive")
        error = bob.error(1)
        assert (error.code, error.retryable) == ("not_authorized", False)
        assert error.details == {"rule": "admission.interactive", "uid": BOB}
        for priority in ("normal", "batch"):
            assert bob.generate(2, priority=priority)[1].stop_reason == "end"


def test_a_bound_on_connections_is_each_users_own(start: Start) -> None:
    daemon = open_to_all(start(echo(), sockets={"connections_per_uid": 2}))
    with infer_as(daemon, ANN), infer_as(daemon, ANN):
        with infer_as(daemon, ANN) as third:
            assert isinstance(third.welcome, m.Error)
            assert third.welcome.details == {"bound": "connections_per_uid", "limit": 2, "current": 2}
        with infer_as(daemon, BOB) as bob:
            assert bob.generate(1, "still here")[0] == "still here"


@pytest.mark.model
@pytest.mark.timeout(240)
def test_what_one_user_has_had_computed_serves_no_other(start: Start, model_home: Path) -> None:
    chat = {"name": "chat", "adapter": "llamacpp", "model": "smollm2-135m", "slots": 2, "context_length": 512}
    daemon = open_to_all(start(chat, environ={**os.environ, "VESTAL_HOME": str(model_home)}))
    prompt = "The lighthouse keeper climbs the tower every night and lights the lamp. " * 8
    with infer_as(daemon, ANN) as ann, infer_as(daemon, BOB) as bob:
        first = ann.generate(1, prompt, max_tokens=2, temperature=0)[1].usage
        other = bob.generate(1, prompt, max_tokens=2, temperature=0)[1].usage
        again = ann.generate(2, prompt, max_tokens=2, temperature=0)[1].usage
    assert (first.cached_tokens, other.cached_tokens) == (0, 0)
    assert again.cached_tokens >= first.input_tokens - 1
