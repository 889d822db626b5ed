"""Who runs when: a pure, synchronous scheduler. `now` is passed in; the caller does what it is told.

One `Scheduler` bounds what waits (`queue_depth` in all, `per_caller` per uid, tokens per uid and minute). Each
backend is a `Lane` in it, which says in which order what waits for it starts.

Invariants, after every call: a lane never runs more than its slots; the bound is never exceeded; no slot is idle
while an open lane has work (once `advance` was called); every ticket ends exactly once.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from vestal.errors import BackendUnavailable, QueueFull, WireError
from vestald.admission.lane import Lane
from vestald.admission.quota import Quotas
from vestald.admission.refusal import (
    caller_full,
    connection_full,
    not_serving,
    queue_full,
    removed,
    too_late,
    waited_out,
)
from vestald.admission.ticket import Ticket, TicketState

__all__ = ["Scheduler"]

_COMPACT_AT = 32  # deadlines of tickets that have ended, before they are cleared away
_LOOK_AHEAD = 256  # tickets that are looked at for how long a new one will wait


class Scheduler:
    """The bounded queue over all lanes.

    `weight_of(uid)` is a caller's share beside others; `quotas` may be common to several schedulers, and so may `kin`,
    which has their lanes by backend. A lane that is shut for `unavailable_timeout` seconds lets those who wait for it
    go; None: they wait until it opens.
    """

    def __init__(
        self,
        *,
        queue_depth: int,
        per_caller: int,
        weight_of: Callable[[Any], float] = lambda _uid: 1.0,
        quotas: Quotas | None = None,
        unavailable_timeout: float | None = None,
        kin: defaultdict[str, list[Lane]] | None = None,
    ) -> None:
        self.queue_depth = queue_depth
        self.per_caller = per_caller
        self.unavailable_timeout = unavailable_timeout
        self.lanes: dict[str, Lane] = {}
        self.waiting = 0
        self._weight_of = weight_of
        self._quotas = quotas or Quotas(lambda _uid: 0)
        self._kin = defaultdict[str, list[Lane]](list) if kin is None else kin
        self._per_uid: Counter[int] = Counter()
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._entries = itertools.count()  # between equal deadlines: parts of one request have its number in common

    @property
    def running(self) -> int:
        return sum(len(lane.running) for lane in self.lanes.values())

    # --- lanes ------------------------------------------------------------------------------------------------

    def open_lane(self, name: str, slots: int, one_since: float | None = None) -> None:
        """The backend serves (again), with that many slots; of what starts after `one_since`, one at a time.

        That is one in all lanes of the backend. When it ends without a verdict, who advances first has the next.
        """
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(name, slots, self._weight_of)
            lane.kin = self._kin[name]
            lane.kin.append(lane)
        lane.slots, lane.open, lane.given_up, lane.one_since = slots, True, "", one_since
        lane.away_since = lane.away_until = None

    def shut_lane(self, name: str, now: float) -> None:
        """The backend is away, or trying again after it was given up; what waits for it waits on."""
        lane = self.lanes.get(name)
        if lane is not None and (lane.open or lane.given_up):
            lane.open, lane.given_up, lane.away_since = False, "", now
            lane.away_until = None if self.unavailable_timeout is None else now + self.unavailable_timeout

    def fail_lane(self, name: str, reason: str, remedy: str = "") -> None:
        """The backend will not come back by itself; `advance` ends what waits for it. `remedy` is what can be done."""
        if lane := self.lanes.get(name):
            lane.open, lane.given_up, lane.remedy = False, reason or "it has failed", remedy

    def drop_lane(self, name: str, now: float) -> list[tuple[Ticket, WireError]]:
        """The backend is gone for good: what waits for it ends, with why; what is in its slots is on its own."""
        lane = self.lanes.get(name)
        if lane is None:
            return []
        left: list[tuple[Ticket, WireError]] = [(ticket, removed(lane)) for ticket in lane.order()]
        for ticket, _ in left:
            self.end(ticket, now)
        del self.lanes[name]
        lane.kin.remove(lane)
        return left

    def adjust(self, *, queue_depth: int, per_caller: int, unavailable_timeout: float | None) -> None:
        """Other bounds and weights from now on. What waits goes on waiting, also where a new bound is less."""
        self.queue_depth, self.per_caller, self.unavailable_timeout = queue_depth, per_caller, unavailable_timeout
        for lane in self.lanes.values():
            lane.reweigh()
            if lane.away_since is not None:
                lane.away_until = None if unavailable_timeout is None else lane.away_since + unavailable_timeout

    # --- tickets ----------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> None:
        """Let a ticket wait; `advance` says when it starts.

        Raises `QueueFull`, `QuotaExceeded`, `BackendUnavailable`; `QueueTimeout` or `DeadlineExceeded` if by the
        current estimate it would start too late. Without an estimate nobody is refused by it.
        """
        lane = self.lanes.get(ticket.lane)
        if lane is None:
            raise BackendUnavailable(f"backend {ticket.lane!r} is not serving", details={"backend": ticket.lane})
        if lane.lost(now):
            raise not_serving(lane, now)
        if lane.waiting or not lane.has_room:
            self._check_bounds(ticket, lane)
        self._quotas.check(ticket.uid, ticket.cost, now)
        ticket.state, ticket.entered = TicketState.WAITING, now
        lane.push(ticket, now)
        if (refusal := self._too_late(ticket, lane, now)) is not None:
            ticket.state = TicketState.ENDED
            lane.drop(ticket)
            raise refusal
        self._enter_queue(ticket)

    def advance(self, now: float) -> tuple[list[Ticket], list[tuple[Ticket, WireError]]]:
        """What happens now: the tickets that start, and those that are ended, each with why."""
        ended = self._expire(now) + self._abandon(now)
        started = []
        for lane in self.lanes.values():
            while lane.has_room and lane.waiting:
                ticket = lane.pop(now)
                self._leave_queue(ticket)
                ticket.state, ticket.started = TicketState.RUNNING, now
                lane.running.add(ticket)
                started.append(ticket)
        return started, ended

    def end(self, ticket: Ticket, now: float) -> None:
        """The ticket is over, from whatever state; `ticket.used` is what it really cost. Idempotent."""
        before, ticket.state = ticket.state, TicketState.ENDED
        if before is TicketState.WAITING:
            self.lanes[ticket.lane].drop(ticket)
            self._leave_queue(ticket)
            self._quotas.settle(ticket.uid, ticket.cost, 0.0, now)
        elif before is TicketState.RUNNING:
            lane = self.lanes.get(ticket.lane)
            if lane is not None and ticket in lane.running:  # it was not dropped meanwhile
                lane.settle(ticket, now)
            self._quotas.settle(ticket.uid, ticket.cost, ticket.cost if ticket.used is None else ticket.used, now)

    def next_deadline(self) -> float | None:
        """The next moment at which `advance` ends a ticket by itself."""
        while self._deadlines and not self._deadlines[0][2].waiting:
            heapq.heappop(self._deadlines)
        moments = [lane.away_until for lane in self.lanes.values() if lane.away_until is not None and lane.waiting]
        if self._deadlines:
            moments.append(self._deadlines[0][0])
        return min(moments, default=None)

    def positions(self, now: float) -> Iterator[tuple[Ticket, int, float | None]]:
        """Every waiting ticket with its position in its lane (1 is next) and the seconds until it starts."""
        for lane in self.lanes.values():
            for position, (ticket, wait) in enumerate(lane.forecast(now), start=1):
                yield ticket, position, wait

    def connection_full(self, limit: int) -> QueueFull:
        """The refusal of a request on a connection that has `limit` in flight."""
        lanes = [lane for lane in self.lanes.values() if lane.pace.mean is not None]
        quickest = min(lanes, key=lambda lane: (lane.pace.mean or 0.0) / lane.slots, default=None)
        return connection_full(quickest, limit, max(1, len(self._per_uid)))

    # --- inside -----------------------------------------------------------------------------------------------

    def _too_late(self, ticket: Ticket, lane: Lane, now: float) -> WireError | None:
        """Looks no further down the queue than its deadlines reach; what cannot be seen from there is no refusal."""
        if ticket.queue_timeout is None and ticket.timeout is None:
            return None
        longest = lane.longest_wait(now)
        if longest is None or too_late(ticket, longest, now) is None:
            return None
        for other, wait in itertools.islice(lane.forecast(now), _LOOK_AHEAD):
            if wait is None:
                return None
            refusal = too_late(ticket, wait, now)
            if refusal is not None or other is ticket:
                return refusal
        return None

    def _expire(self, now: float) -> list[tuple[Ticket, WireError]]:
        late: list[tuple[Ticket, WireError]] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            ticket = heapq.heappop(self._deadlines)[2]
            if ticket.waiting:
                self.end(ticket, now)
                late.append((ticket, waited_out(ticket, now)))
        return late

    def _abandon(self, now: float) -> list[tuple[Ticket, WireError]]:
        left: list[tuple[Ticket, WireError]] = []
        for lane in self.lanes.values():
            if lane.waiting and lane.lost(now):
                for ticket in list(lane.order()):
                    self.end(ticket, now)
                    left.append((ticket, not_serving(lane, now)))
        return left

    def _enter_queue(self, ticket: Ticket) -> None:
        self.waiting += 1
        self._per_uid[ticket.uid] += 1
        self._quotas.reserve(ticket.uid, ticket.cost)
        if (deadline := ticket.queue_deadline) is not None:
            if len(self._deadlines) > 2 * self.waiting + _COMPACT_AT:
                self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (deadline, next(self._entries), ticket))

    def _leave_queue(self, ticket: Ticket) -> None:
        self.waiting -= 1
        self._per_uid[ticket.uid] -= 1
        if not self._per_uid[ticket.uid]:
            del self._per_uid[ticket.uid]

    def _check_bounds(self, ticket: Ticket, lane: Lane) -> None:
        mine = self._per_uid.get(ticket.uid, 0)
        if self.waiting >= self.queue_depth:
            raise queue_full(lane, self.waiting, self.queue_depth)
        if mine >= self.per_caller:
            raise caller_full(lane, ticket.uid, mine, self.per_caller, len(self._per_uid))

    def __repr__(self) -> str:
        return f"<Scheduler waiting={self.waiting}/{self.queue_depth} running={self.running} lanes={len(self.lanes)}>"
