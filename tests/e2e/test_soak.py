"""Hundreds of requests under every kind of disturbance at once: each ends in exactly one terminal frame.

`Peer` runs the engine's tables on what it gets, so a second terminal frame for an id, or a frame after one, raises.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import TERMINAL
from vestal import messages as m

BACKENDS = ("plain", "slow", "before", "after", "hang", "crash", "worker")
CONNECTIONS, REQUESTS = 10, 32


def serve(start: Start) -> Daemon:
    return start(
        echo("plain", slots=2),
        echo("slow", slots=3, token_delay="1ms"),
        echo("before", fault="before"),
        echo("after", fault="after:3"),
        echo("hang", fault="hang", slots=2),
        echo("crash", fault="crash:4", isolation="process", slots=2),
        echo("worker", isolation="process", slots=4, token_delay="1ms"),
        admission={"queue_depth": 200, "per_caller": 200, "requests_per_connection": 20},
        daemon={"drain_deadline": "1s"},
    )


class Client(threading.Thread):
    """One connection that asks, cancels and leaves off at random, and keeps the book on how each request ended."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.peer = daemon.infer(1 + seed % 2, features=("queue_events",) if seed % 3 else ())
        self.asked: list[int] = []
        self.ended: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            with self.peer:
                self._work()
        except BaseException as fault:
            self.fault = fault

    def _work(self) -> None:
        for id in range(REQUESTS):
            messages: list[m.AnyMessage] = [self._request(id)]
            if self.random.random() < 0.2:
                messages.append(m.Cancel(id=id))
            if self.random.random() < 0.3:
                messages.append(m.Cancel(id=self.random.randrange(id + 1)))
            self.asked.append(id)
            self.peer.send(*messages)
            if self.random.random() < 0.5:
                self._settle(self.random.choice(self.asked))
        # What hangs would hang for ever: everything that is left is cancelled, in a random order.
        left = list(self.peer.conn.requests)
        self.random.shuffle(left)
        self.peer.send(*(m.Cancel(id=id) for id in left))
        self._drain()

    def _request(self, id: int) -> m.AnyMessage:
        chance = self.random.random()
        options: dict[str, Any] = {}
        if chance < 0.2:
            options["timeout_ms"] = self.random.choice([1, 5, 20])
        elif chance < 0.4:
            options["queue_timeout_ms"] = self.random.choice([1, 5, 20])
        options["stream"] = self.random.random() < 0.7
        options["priority"] = self.random.choice(["interactive", "normal", "batch"])
        return self.peer.request(id, "word " * self.random.randrange(12), model=self.random.choice(BACKENDS), **options)

    def _settle(self, id: int) -> None:
        """Wait for one request, if it can end by itself."""
        if id in self.peer.conn.requests and self.random.random() < 0.5:
            self.peer.send(m.Cancel(id=id))
            while id in self.peer.conn.requests:
                self._note(self.peer.first(lambda frame: isinstance(frame, TERMINAL)))

    def _drain(self) -> None:
        while sum(self.ended.values()) < len(self.asked):
            self._note(self.peer.first(lambda frame: isinstance(frame, TERMINAL)))
        self.peer.ping()
        assert not [frame for frame in self.peer.untaken if isinstance(frame, TERMINAL)]

    def _note(self, frame: m.AnyMessage) -> None:
        assert isinstance(frame, m.Done | m.Error)
        assert frame.id is not None, frame
        self.ended[frame.id] += 1
        self.outcomes[frame.code if isinstance(frame, m.Error) else frame.stop_reason] += 1


@pytest.mark.parametrize("seed", [1, 2])
def test_every_request_ends_exactly_once_whatever_happens_to_it(start: Start, seed: int) -> None:
    daemon = serve(start)
    clients = [Client(daemon, 100 * seed + number) for number in range(CONNECTIONS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    for client in clients:
        if client.fault is not None:
            raise client.fault
        assert client.ended == Counter(client.asked)
    outcomes = sum((client.outcomes for client in clients), Counter[str]())
    assert outcomes.total() == CONNECTIONS * REQUESTS
    assert {"end", "cancelled", "backend_refused"} <= outcomes.keys(), outcomes
    assert not outcomes.keys() & {"internal", "slow_consumer", "invalid_request"}, outcomes
    status = daemon.status()
    assert (status.running, status.waiting) == (0, 0)
    assert daemon.queue().entries == []


@pytest.mark.parametrize("seed", [3, 4])
def test_every_request_ends_exactly_once_when_the_daemon_stops_in_the_middle(start: Start, seed: int) -> None:
    """What was asked before the stop ends in a frame: its own, or `shutting_down`; then the connection closes."""
    daemon, dice = serve(start), random.Random(seed)
    peers = [daemon.infer() for _ in range(CONNECTIONS)]
    try:
        for peer in peers:
            peer.send(
                *(peer.request(id, "word " * dice.randrange(30), model=dice.choice(BACKENDS)) for id in range(16)),
                *(m.Cancel(id=dice.randrange(16)) for _ in range(2)),
            )
            peer.ping()
        daemon.signal(signal.SIGTERM)
        for peer in peers:
            frames = peer.rest()
            ended = Counter(frame.id for frame in frames if isinstance(frame, m.Done | m.Error))
            assert ended == Counter(range(16))
            assert [frame.reason for frame in frames if isinstance(frame, m.Goaway)] == ["stopping"]
            codes = {frame.code for frame in frames if isinstance(frame, m.Error)}
            assert codes <= {"shutting_down", "backend_refused", "backend_crashed", "backend_unavailable"}, codes
        assert daemon.wait() == 0
    finally:
        for peer in peers:
            peer.close()


def test_workers_that_are_killed_over_and_over_cost_what_ran_in_them_and_nothing_else(start: Start) -> None:
    daemon = start(echo("fragile", isolation="process", slots=2, token_delay="2ms"), echo("sound"))
    with daemon.infer() as peer, daemon.infer() as bystander:
        for turn in range(4):
            first = 10 * turn
            running, waiting = range(first, first + 2), range(first + 2, first + 6)
            peer.send(
                *(peer.request(id, "w " * 10_000, model="fragile") for id in running),
                *(peer.request(id, "w " * 20, model="fragile") for id in waiting),
            )
            for id in running:
                peer.take(m.Text, id=id)
            pid = daemon.backend("fragile").pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert [peer.error(id).code for id in running] == ["backend_crashed"] * 2
            assert [peer.done(id).stop_reason for id in waiting] == ["end"] * 4
            assert bystander.generate(turn, "unmoved", model="sound")[0] == "unmoved"
    assert daemon.backend("fragile").restarts == 4
