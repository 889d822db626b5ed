"""Who runs when: a pure, synchronous scheduler. `now` is passed in; the caller does what it is told.

One `Scheduler` bounds what waits (`queue_depth` in all, `per_caller` per uid). Each backend is a lane in it with
a number of slots; a lane may be shut while its backend is away, and what waits for it then waits on. Within a
lane the classes `interactive > normal > batch` are served in that order, each fair by tokens between callers; a
class that has waited `ageing` seconds without being served gets the next slot, so none starves.

Invariants, after every call: a lane never runs more than its slots; the bound is never exceeded; no slot is idle
while an open lane has work (once `advance` was called); every ticket ends exactly once.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterator
from enum import Enum

from vestal.errors import BackendUnavailable, QueueFull
from vestal.values import Priority
from vestald.fairness import FairNode, Fifo

__all__ = ["AGEING", "Lane", "Scheduler", "Ticket", "TicketState", "not_serving"]

AGEING = 10.0  # seconds
_CLASSES: tuple[Priority, ...] = ("interactive", "normal", "batch")
_SMOOTHING = 0.2  # weight of the newest observation in a lane's mean service time
_COMPACT_AT = 32  # deadlines of tickets that have ended, before they are cleared away
_UNKNOWN_SERVICE = 1.0  # seconds a job is taken to last until one has been seen


class TicketState(Enum):
    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Ticket:
    """One request's place: who asks, for which lane, how many tokens it is taken to cost. Times are seconds."""

    def __init__(
        self,
        number: int,
        lane: str,
        uid: int,
        connection: Hashable,
        *,
        cost: float = 1.0,
        priority: Priority = "normal",
        queue_deadline: float | None = None,
    ) -> None:
        self.number = number
        self.lane = lane
        self.uid = uid
        self.connection = connection
        self.cost = cost
        self.priority: Priority = priority
        self.queue_deadline = queue_deadline
        self.state = TicketState.NEW
        self.entered = 0.0
        self.started = 0.0
        self.used: float | None = None  # tokens it really cost, once known

    @property
    def waiting(self) -> bool:
        return self.state is TicketState.WAITING

    @property
    def keys(self) -> tuple[Hashable, Hashable]:
        """The path in the tree of shares."""
        return (self.uid, self.connection)

    def __repr__(self) -> str:
        return f"<Ticket #{self.number} {self.state.value} lane={self.lane} uid={self.uid} {self.priority}>"


class _Class:
    """One priority class of a lane, and when it was last served or began to wait."""

    def __init__(self) -> None:
        self.queue: FairNode[Ticket] = FairNode(lambda: FairNode(Fifo))
        self.since = 0.0


class Lane:
    """One backend's slots and what waits for them."""

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.slots = slots
        self.open = True
        self.given_up = ""  # why it will not open again by itself
        self.running: set[Ticket] = set()
        self.mean_service: float | None = None  # seconds a job holds its slot
        self._classes = {priority: _Class() for priority in _CLASSES}

    @property
    def waiting(self) -> int:
        return sum(cls.queue.live for cls in self._classes.values())

    @property
    def has_room(self) -> bool:
        return self.open and len(self.running) < self.slots

    def push(self, ticket: Ticket, now: float) -> None:
        cls = self._classes[ticket.priority]
        if not cls.queue.live:
            cls.since = now
        cls.queue.push(ticket, ticket.keys)

    def pop(self, now: float) -> Ticket:
        cls = self._next_class(now)
        cls.since = now
        return cls.queue.pop()

    def drop(self, ticket: Ticket) -> None:
        self._classes[ticket.priority].queue.drop(ticket.keys)

    def settle(self, ticket: Ticket, now: float) -> None:
        """A ticket has left its slot."""
        self.running.discard(ticket)
        service = now - ticket.started
        known = self.mean_service
        self.mean_service = service if known is None else known + _SMOOTHING * (service - known)
        queue = self._classes[ticket.priority].queue
        if ticket.used is not None:
            queue.correct(ticket.keys, ticket.used - ticket.cost)
        if not self.running and not self.waiting:
            for cls in self._classes.values():
                cls.queue.forget()

    def order(self) -> Iterator[Ticket]:
        """What waits, in the order it would start if nothing else came."""
        for cls in self._classes.values():
            yield from cls.queue.order()

    def eta(self, position: int) -> float | None:
        """Seconds until the `position`-th waiting ticket starts, from the observed service time."""
        return None if self.mean_service is None else self.mean_service * position / self.slots

    def _next_class(self, now: float) -> _Class:
        backlogged = [cls for cls in self._classes.values() if cls.queue.live]
        aged = [cls for cls in backlogged if now - cls.since >= AGEING]
        return min(aged, key=lambda cls: cls.since) if aged else backlogged[0]

    def __repr__(self) -> str:
        gate = "open" if self.open else "shut"
        return f"<Lane {self.name} {gate} running={len(self.running)}/{self.slots} waiting={self.waiting}>"


class Scheduler:
    """The bounded queue over all lanes."""

    def __init__(self, *, queue_depth: int, per_caller: int) -> None:
        self.queue_depth = queue_depth
        self.per_caller = per_caller
        self.lanes: dict[str, Lane] = {}
        self.waiting = 0
        self._per_uid: Counter[int] = Counter()
        self._deadlines: list[tuple[float, int, Ticket]] = []

    @property
    def running(self) -> int:
        return sum(len(lane.running) for lane in self.lanes.values())

    def add_lane(self, name: str, slots: int) -> Lane:
        """A lane for a backend that has become ready."""
        lane = self.lanes[name] = Lane(name, slots)
        return lane

    def submit(self, ticket: Ticket, now: float) -> None:
        """Let a ticket wait; `advance` says when it starts. Raises `QueueFull` or `BackendUnavailable`."""
        lane = self.lanes.get(ticket.lane)
        if lane is None:
            raise BackendUnavailable(f"backend {ticket.lane!r} is not serving", details={"backend": ticket.lane})
        if lane.given_up:
            raise not_serving(lane)
        if lane.waiting or not lane.has_room:
            self._check_bounds(ticket, lane)
        ticket.state, ticket.entered = TicketState.WAITING, now
        lane.push(ticket, now)
        self.waiting += 1
        self._per_uid[ticket.uid] += 1
        if ticket.queue_deadline is not None:
            if len(self._deadlines) > 2 * self.waiting + _COMPACT_AT:
                self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (ticket.queue_deadline, ticket.number, ticket))

    def advance(self, now: float) -> tuple[list[Ticket], list[Ticket]]:
        """What happens now: the tickets that start, and those whose queue deadline has come and that are ended."""
        late = self._expire(now)
        started = []
        for lane in self.lanes.values():
            while lane.has_room and lane.waiting:
                ticket = lane.pop(now)
                self._leave_queue(ticket)
                ticket.state, ticket.started = TicketState.RUNNING, now
                lane.running.add(ticket)
                started.append(ticket)
        return started, late

    def end(self, ticket: Ticket, now: float) -> None:
        """The ticket is over, from whatever state; `ticket.used` is what it really cost. Idempotent."""
        lane = self.lanes.get(ticket.lane)
        before, ticket.state = ticket.state, TicketState.ENDED
        if lane is None:
            return
        if before is TicketState.WAITING:
            lane.drop(ticket)
            self._leave_queue(ticket)
        elif before is TicketState.RUNNING:
            lane.settle(ticket, now)

    def next_deadline(self) -> float | None:
        """The next moment at which `advance` ends a ticket by itself."""
        while self._deadlines and not self._deadlines[0][2].waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def positions(self) -> Iterator[tuple[Ticket, int, float | None]]:
        """Every waiting ticket with its position in its lane (1 is next) and its ETA in seconds."""
        for lane in self.lanes.values():
            for position, ticket in enumerate(lane.order(), start=1):
                yield ticket, position, lane.eta(position)

    def _expire(self, now: float) -> list[Ticket]:
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            ticket = heapq.heappop(self._deadlines)[2]
            if ticket.waiting:
                self.end(ticket, now)
                late.append(ticket)
        return late

    def _leave_queue(self, ticket: Ticket) -> None:
        self.waiting -= 1
        self._per_uid[ticket.uid] -= 1
        if not self._per_uid[ticket.uid]:
            del self._per_uid[ticket.uid]

    def _check_bounds(self, ticket: Ticket, lane: Lane) -> None:
        mine = self._per_uid.get(ticket.uid, 0)
        if self.waiting >= self.queue_depth:
            raise self._full("the queue is full", self.waiting, self.queue_depth, "queue_depth", lane)
        if mine >= self.per_caller:
            raise self._full(f"uid {ticket.uid} has its share of the queue", mine, self.per_caller, "per_caller", lane)

    def _full(self, what: str, depth: int, limit: int, bound: str, lane: Lane) -> QueueFull:
        service = lane.mean_service if lane.mean_service is not None else _UNKNOWN_SERVICE
        return QueueFull(
            f"{what}: {depth} waiting, the limit is {limit}",
            hint=f"retry after retry_after_ms, or raise admission.{bound}",
            details={"depth": depth, "limit": limit, "bound": bound},
            retry_after_ms=max(1, round(1000 * service / lane.slots)),
        )

    def __repr__(self) -> str:
        return f"<Scheduler waiting={self.waiting}/{self.queue_depth} running={self.running} lanes={len(self.lanes)}>"


def not_serving(lane: Lane) -> BackendUnavailable:
    """What is said of a lane that was given up, to those who wait for it and to those who come."""
    return BackendUnavailable(
        f"backend {lane.name!r} is not serving: {lane.given_up}",
        hint=f"an operator can restart it: vestal restart {lane.name}",
        details={"backend": lane.name},
    )
