"""What admission costs with 10,000 requests waiting from 100 callers, against 10 waiting: enter, leave, start, end."""

from __future__ import annotations

import time
from random import Random

from benchmarks.report import Row
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket

__all__ = ["run"]

_ROUNDS = 7
_TURNS = 4000
_SLOTS = 4


class _Queue:
    """A scheduler that is kept at one depth: for each that starts another comes."""

    def __init__(self, depth: int, callers: int) -> None:
        self._random = Random(depth)
        self._callers = callers
        self._number = 0
        self._now = 0.0
        self.scheduler = Scheduler(queue_depth=2 * depth, per_caller=2 * depth)
        self.scheduler.open_lane("a", _SLOTS)
        self._running: list[Ticket] = []
        for _ in range(depth + _SLOTS):
            self._enter()

    def _enter(self) -> Ticket:
        self._number += 1
        uid, cost = self._random.randrange(self._callers), self._random.uniform(10, 500)
        ticket = Ticket(self._number, "a", uid, uid % 3, cost=cost, accepted=self._now, queue_timeout=1e6)
        self.scheduler.submit(ticket, self._now)
        self._running += self.scheduler.advance(self._now)[0]
        return ticket

    def turn(self) -> None:
        """Two requests come; one of them is cancelled while it waits; one ends and the next starts."""
        self._now += 0.01
        self._enter()
        self.scheduler.end(self._enter(), self._now)
        ended = self._running.pop(0)
        ended.used = 0.8 * ended.cost
        self.scheduler.end(ended, self._now)
        self._running += self.scheduler.advance(self._now)[0]

    def cost(self) -> float:
        """Microseconds of this thread's time a request, half of a turn's: other programs do not count."""
        started = time.thread_time()
        for _ in range(_TURNS):
            self.turn()
        return 1e6 * (time.thread_time() - started) / _TURNS / 2


def run() -> list[Row]:
    """One row: the deep queue against the shallow one, in turn in one run."""
    deep, shallow = _Queue(10_000, 100), _Queue(10, 10)
    pairs = [(deep.cost(), shallow.cost()) for _ in range(_ROUNDS)]
    return [Row.of("admission, 10,000 waiting from 100 callers", "µs", pairs, "10 waiting", target="≤ 3, < 20 µs")]
