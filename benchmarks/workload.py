"""A scheduler driven by a written workload on a clock of our own: who asked when for how much, and when it started.

Pure and without chance beyond a seed: the same workload gives the same history on every machine. The plot and the
numbers of docs/admission.md are made from it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vestal.values import Priority
from vestald.admission.estimate import Spent
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket

__all__ = ["Asked", "Outcome", "play"]


@dataclass(frozen=True)
class Asked:
    """One request: seconds and tokens. `guess` is what its output is taken to be on entry; None: as was learned."""

    at: float
    uid: int
    read: float
    made: float
    priority: Priority = "normal"
    guess: float | None = None


@dataclass(frozen=True)
class Outcome:
    """When it started and ended, and when on entry it was foretold to start (None: not known, or at once)."""

    asked: Asked
    started: float
    ended: float
    foretold: float | None


def play(
    workload: Iterable[Asked],
    *,
    slots: int,
    reads: float,
    makes: float,
    weight_of: Callable[[int], float] = lambda _uid: 1.0,
) -> list[Outcome]:
    """Run it to the end on slots that read and make so many tokens a second each."""
    scheduler = Scheduler(queue_depth=10**6, per_caller=10**6, weight_of=weight_of)
    scheduler.open_lane("a", slots)
    coming = sorted(workload, key=lambda asked: asked.at, reverse=True)
    asked_by: dict[Ticket, Asked] = {}
    running: list[tuple[float, int, Ticket]] = []
    outcomes: list[Outcome] = []
    while coming or running:
        if coming and (not running or coming[-1].at <= running[0][0]):
            now, asked = coming[-1].at, coming.pop()
            ticket = _ticket(scheduler, len(asked_by), asked)
            asked_by[ticket] = asked
            scheduler.submit(ticket, now)
            ticket.promised = next(
                (now + wait for t, _, wait in scheduler.positions(now) if t is ticket and wait), None
            )
        else:
            now, _, ticket = heapq.heappop(running)
            asked = asked_by[ticket]
            ticket.used = asked.read + asked.made
            ticket.spent = Spent(asked.read, asked.read / reads, asked.made, asked.made / makes)
            scheduler.end(ticket, now)
            outcomes.append(Outcome(asked, ticket.started, now, ticket.promised))
        for started in scheduler.advance(now)[0]:
            true = asked_by[started]
            heapq.heappush(running, (now + true.read / reads + true.made / makes, started.number, started))
    return outcomes


def _ticket(scheduler: Scheduler, number: int, asked: Asked) -> Ticket:
    output = asked.guess if asked.guess is not None else scheduler.lanes["a"].pace.expected_output(None)
    return Ticket(
        number, "a", asked.uid, 0, cost=asked.read + output, output=output, priority=asked.priority, accepted=asked.at
    )
