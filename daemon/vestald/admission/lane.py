"""One backend's slots and what waits for them, in the order in which it would start.

The classes `interactive > normal > batch` are served in that order, each fair by tokens between callers; one that
has waited `AGEING` seconds without being served gets the next slot, so none starves. While the backend is away the
lane is shut: what waits for it waits on until `away_until`, or until the backend is given up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator

from vestal.values import Priority
from vestald.admission.estimate import Pace
from vestald.admission.fairness import FairNode, Fifo
from vestald.admission.ticket import Ticket

__all__ = ["AGEING", "CLASSES", "Lane"]

AGEING = 10.0  # seconds
CLASSES: tuple[Priority, ...] = ("interactive", "normal", "batch")


class _Class:
    """One priority class of a lane, and when it was last served or began to wait."""

    def __init__(self, weight_of: Callable[[Hashable], float]) -> None:
        self.queue: FairNode[Ticket] = FairNode(lambda: FairNode(Fifo), weight_of)
        self.since = 0.0


class Lane:
    """Slots, the tickets that run in them, and the tickets that wait."""

    def __init__(self, name: str, slots: int, weight_of: Callable[[Hashable], float] = lambda _uid: 1.0) -> None:
        self.name = name
        self.kin: list[Lane] = [self]  # all that lead to the same backend: one request of any shows whether it serves
        self.slots = slots
        self.open = True
        self.one_since: float | None = None  # of all that start after this moment one may run, to see whether it can
        self.given_up = ""  # why it will not open again by itself
        self.remedy = ""  # what there is to do about that
        self.away_since: float | None = None
        self.away_until: float | None = None  # when those who wait for it are told to go
        self.running: set[Ticket] = set()
        self.pace = Pace()
        self.waiting = 0
        self._cost = self._output = 0.0  # tokens of all that wait
        self._classes = {priority: _Class(weight_of) for priority in CLASSES}

    def waiting_in(self, priority: Priority) -> int:
        return self._classes[priority].queue.live

    @property
    def has_room(self) -> bool:
        return self.open and len(self.running) < self.slots and not self.trying

    @property
    def trying(self) -> bool:
        """Whether the one that may run, runs, here or in a lane beside this one."""
        if self.one_since is None:
            return False
        return any(ticket.started >= self.one_since for lane in self.kin for ticket in lane.running)

    def reweigh(self) -> None:
        """`weight_of` answers differently from now on."""
        for cls in self._classes.values():
            cls.queue.reweigh()

    def lost(self, now: float) -> bool:
        """Whether it is no use to wait for it."""
        return bool(self.given_up) or (self.away_until is not None and now >= self.away_until)

    def push(self, ticket: Ticket, now: float) -> None:
        cls = self._classes[ticket.priority]
        if not cls.queue.live:
            cls.since = now
        cls.queue.push(ticket, ticket.keys)
        self._count(ticket, 1)

    def pop(self, now: float) -> Ticket:
        cls = self._next_class(now)
        cls.since = now
        ticket = cls.queue.pop()
        self._count(ticket, -1)
        return ticket

    def drop(self, ticket: Ticket) -> None:
        self._classes[ticket.priority].queue.drop(ticket.keys)
        self._count(ticket, -1)
        self._close_accounts()

    def settle(self, ticket: Ticket, now: float) -> None:
        """A ticket has left its slot."""
        self.running.discard(ticket)
        self.pace.learn(now - ticket.started, ticket.spent)
        used = ticket.cost if ticket.used is None else ticket.used
        self._classes[ticket.priority].queue.settle(ticket.keys, ticket.cost, used)
        self._close_accounts()

    def order(self) -> Iterator[Ticket]:
        """What waits, in the order it would start if nothing else came and no class aged."""
        for cls in self._classes.values():
            yield from cls.queue.order()

    def forecast(self, now: float) -> Iterator[tuple[Ticket, float | None]]:
        """`order` with the seconds until each starts: None while nothing is known, or the backend is away."""
        free = self._until_free(now) if self.open else None
        for ticket in self.order():
            if free is None:
                yield ticket, None
                continue
            yield ticket, free[0]
            heapq.heapreplace(free, free[0] + (self.pace.service(ticket.cost, ticket.output) or 0.0))

    def longest_wait(self, now: float) -> float | None:
        """Seconds after which the last of the queue has started, whatever the order: slots idle only when it is empty.

        None as in `forecast`. Costs the same however many wait.
        """
        free = self._until_free(now) if self.open else None
        if free is None:
            return None
        return (sum(free) + (self.pace.service(self._cost, self._output, self.waiting) or 0.0)) / self.slots

    def _count(self, ticket: Ticket, sign: int) -> None:
        self.waiting += sign
        self._cost += sign * ticket.cost
        self._output += sign * ticket.output

    def _until_free(self, now: float) -> list[float] | None:
        """Seconds until each slot is free, as a heap."""
        left = [0.0] * (self.slots - len(self.running))
        for ticket in self.running:
            service = self.pace.service(ticket.cost, ticket.output)
            if service is None:
                return None
            left.append(max(0.0, ticket.started + service - now))
        if self.pace.mean is None:
            return None
        return sorted(left)[-self.slots :]  # a sorted list is a heap; more may run than slots, after a restart

    def _next_class(self, now: float) -> _Class:
        backlogged = [cls for cls in self._classes.values() if cls.queue.live]
        aged = [cls for cls in backlogged if now - cls.since >= AGEING]
        return min(aged, key=lambda cls: cls.since) if aged else backlogged[0]

    def _close_accounts(self) -> None:
        """The end of a busy period closes all accounts."""
        if not self.running and not self.waiting:
            self._cost = self._output = 0.0  # rounding does not add up
            for cls in self._classes.values():
                cls.queue.forget()

    def __repr__(self) -> str:
        gate = "open" if self.open else "shut"
        return f"<Lane {self.name} {gate} running={len(self.running)}/{self.slots} waiting={self.waiting}>"
