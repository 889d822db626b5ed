"""Thousands of random histories keep every invariant, and a scheduler that breaks one is caught by them.

`VESTAL_SIMULATIONS=100000` plays as many more; a violation names the seed that plays it again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from tests.daemon.simulation import Scenario, Simulation, Violation
from vestald.admission import lane
from vestald.admission import scheduler as admission
from vestald.admission.fairness import FairNode, Fifo
from vestald.admission.lane import Lane
from vestald.admission.quota import Quotas
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket

_CRASHES = (IndexError, KeyError, StopIteration)  # of a broken scheduler, before the books could say so
PARTS = 8
EACH = max(1, int(os.environ.get("VESTAL_SIMULATIONS", "2000")) // PARTS)
HAPPENS = (
    *("taken", "completed", "cancelled", "died", "returned", "aged"),
    *("queue_full", "quota_exceeded", "queue_timeout", "deadline_exceeded", "backend_unavailable"),
    *("queue_timeout while waiting", "backend_unavailable while waiting"),
)


@pytest.mark.timeout(60 + EACH)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_history_breaks_an_invariant(part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part * EACH, (part + 1) * EACH):
        seen += Simulation(Scenario.of(seed)).run()
    assert EACH < 200 or all(seen[what] > 10 for what in HAPPENS), seen


def test_a_seed_plays_the_same_history_again() -> None:
    assert Simulation(Scenario.of(7)).run() == Simulation(Scenario.of(7)).run()


Break = Callable[[pytest.MonkeyPatch], Any]
BROKEN: dict[str, Break] = {
    "a lane runs one too many": lambda m: m.setattr(
        Lane, "has_room", property(lambda self: self.open and len(self.running) <= self.slots)
    ),
    "a slot is kept idle": lambda m: m.setattr(
        Lane, "has_room", property(lambda self: self.open and len(self.running) < max(1, self.slots - 1))
    ),
    "a shut lane starts work": lambda m: m.setattr(
        Lane, "has_room", property(lambda self: len(self.running) < self.slots)
    ),
    "first come, first served": lambda m: m.setattr(Ticket, "keys", property(lambda _self: (0, 0))),
    "weights do not count": lambda m: m.setattr(
        admission, "Lane", lambda name, slots, _weight_of: Lane(name, slots, lambda _uid: 1.0)
    ),
    "who was idle has saved up": lambda m: m.setattr(
        FairNode, "virtual_time", property(lambda _self: 0.0, lambda _self, _value: None), raising=False
    ),
    "the last comes first": lambda m: m.setattr(Fifo, "push", _push_in_front),
    "no class ages": lambda m: m.setattr(lane, "AGEING", inf),
    "deadlines are not kept": lambda m: m.setattr(Scheduler, "_expire", lambda _self, _now: []),
    "nobody is let go": lambda m: m.setattr(Scheduler, "_abandon", lambda _self, _now: []),
    "a place is not given back": lambda m: m.setattr(Scheduler, "_leave_queue", lambda _self, _ticket: None),
    "the bounds are not checked": lambda m: m.setattr(Scheduler, "_check_bounds", lambda _self, _ticket, _lane: None),
    "the quota is not checked": lambda m: m.setattr(Quotas, "check", lambda *_: None),
    "tokens used are not counted": lambda m: m.setattr(Quotas, "settle", lambda *_: None),
    "an ended ticket stays queued": lambda m: m.setattr(Lane, "drop", lambda _self, _ticket: None),
}


def _push_in_front(self: Fifo[Ticket], item: Ticket, _keys: object) -> None:
    self._items.appendleft(item)
    self.live += 1


@pytest.mark.parametrize("how", BROKEN)
def test_a_scheduler_that_breaks_an_invariant_is_caught(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    BROKEN[how](monkeypatch)
    with pytest.raises((Violation, *_CRASHES)):
        for seed in range(200):
            Simulation(Scenario.of(seed)).run()
