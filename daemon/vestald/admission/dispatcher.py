"""The scheduler's shell: it owns the clock, one timer, and a future per waiting ticket.

`slot` is the only way to a backend. Whatever ends the `with` block — the end of the stream, an error, a cancel
while waiting — gives the place back and lets the next one start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from vestal.errors import VestalError
from vestald.admission.estimate import Pace
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket

__all__ = ["Dispatcher", "PositionWatcher"]

PositionWatcher = Callable[[int, int, int | None], None]
"""(position, depth, eta_ms): called when a waiting ticket's position is first known and whenever it changes."""

# Requests that wait, up to which every change of position is told in the turn after it. A change moves all who wait
# behind it, so beyond that changes are told together, as seldom as keeps it to so many positions a second.
_AT_ONCE = 128
_TOLD_PER_SECOND = 10_000


class Dispatcher:
    """Runs one `Scheduler` on the event loop."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._now = time.monotonic  # uvloop's own clock ticks in whole milliseconds
        self._futures: dict[Ticket, asyncio.Future[None]] = {}
        self._watchers: dict[Ticket, tuple[PositionWatcher, list[int]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._announcing = False
        self._announced = -1.0
        self._moved = asyncio.Event()
        self.decided: Callable[[Ticket], None] | None = None  # told of each ticket that was let in: it runs, or waits
        self.beside: Dispatcher | None = None  # whose lanes lead to the same backends

    @asynccontextmanager
    async def slot(self, ticket: Ticket, watcher: PositionWatcher | None = None) -> AsyncIterator[Ticket]:
        """Wait for a slot of the ticket's lane and hold it. Set `ticket.used` to the tokens it really cost.

        Raises at once whatever `Scheduler.submit` raises, and `QueueTimeout` or `BackendUnavailable` while it waits.
        """
        self.scheduler.submit(ticket, self._now())
        future = self._futures[ticket] = self._loop.create_future()
        if watcher is not None:
            self._watchers[ticket] = (watcher, [0])
        try:
            self._advance()
            if self.decided is not None:
                self.decided(ticket)
            await future
            yield ticket
        finally:
            self._futures.pop(ticket, None)
            self._watchers.pop(ticket, None)
            self.scheduler.end(ticket, self._now())
            self._pass_turn(ticket)
            self._advance()

    def pace(self, name: str) -> Pace:
        """What the lane's requests have cost lately."""
        lane = self.scheduler.lanes.get(name)
        return Pace() if lane is None else lane.pace

    def adjust(self, *, queue_depth: int, per_caller: int, unavailable_timeout: float | None) -> None:
        """Other bounds and weights from now on."""
        self.scheduler.adjust(queue_depth=queue_depth, per_caller=per_caller, unavailable_timeout=unavailable_timeout)
        self._advance()

    def open_lane(self, name: str, slots: int, one_since: float | None = None) -> None:
        """The backend serves (again), with that many slots; of what starts after `one_since`, one at a time."""
        self.scheduler.open_lane(name, slots, one_since)
        self._advance()

    def shut_lane(self, name: str) -> None:
        """The backend is away; what waits for it waits on."""
        self.scheduler.shut_lane(name, self._now())
        self._advance()

    def fail_lane(self, name: str, reason: str, remedy: str = "") -> None:
        """The backend will not come back by itself: `backend_unavailable` for what waits for it, and what comes."""
        self.scheduler.fail_lane(name, reason, remedy)
        self._advance()

    def drop_lane(self, name: str) -> None:
        """The backend is gone for good: `backend_unavailable` for what waits for it."""
        for ticket, error in self.scheduler.drop_lane(name, self._now()):
            self._reject(ticket, error)
        self._advance()

    async def idle(self, name: str, *, waiting: bool) -> None:
        """Return when nothing is in a lane's slots, and with `waiting` nothing waits for one either."""
        while (lane := self.scheduler.lanes.get(name)) and (lane.running or (waiting and lane.waiting)):
            self._moved.clear()
            await self._moved.wait()

    def _pass_turn(self, ticket: Ticket) -> None:
        """Where one may run in all lanes of a backend, the other has the next turn: else it might never have one."""
        lane = self.scheduler.lanes.get(ticket.lane)
        if self.beside is not None and lane is not None and lane.one_since is not None:
            self.beside._advance()

    def _advance(self) -> None:
        self._moved.set()
        now = self._now()
        started, ended = self.scheduler.advance(now)
        for ticket in started:
            future = self._futures.get(ticket)
            if future is not None and not future.done():
                future.set_result(None)
        for ticket, error in ended:
            self._reject(ticket, error)
        self._set_timer()
        if self._watchers and not self._announcing:
            self._announcing = True
            self._announce_soon(now)

    def _reject(self, ticket: Ticket, error: VestalError) -> None:
        future = self._futures.get(ticket)
        if future is not None and not future.done():
            future.set_exception(error)

    def _set_timer(self) -> None:
        deadline = self.scheduler.next_deadline()
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, deadline
        if deadline is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - self._now()), self._ring)

    def _ring(self) -> None:
        self._timer = self._timer_at = None
        self._advance()

    def _announce_soon(self, now: float) -> None:
        waiting = self.scheduler.waiting
        delay = 0.0 if waiting <= _AT_ONCE else self._announced + waiting / _TOLD_PER_SECOND - now
        if delay > 0:
            self._loop.call_later(delay, self._announce)
        else:
            self._loop.call_soon(self._announce)

    def _announce(self) -> None:
        self._announcing = False
        self._announced = now = self._now()
        for ticket, position, wait in self.scheduler.positions(now):
            entry = self._watchers.get(ticket)
            if entry is not None and entry[1][0] != position:
                entry[1][0] = position
                if wait is not None and ticket.promised is None:
                    ticket.promised = now + wait
                entry[0](position, self.scheduler.waiting, None if wait is None else round(1000 * wait))

    def __repr__(self) -> str:
        return f"<Dispatcher {self.scheduler!r}>"
