"""The scheduler's shell: it owns the clock, one timer, and a future per waiting ticket.

`slot` is the only way to a backend. Whatever ends the `with` block — the end of the stream, an error, a cancel
while waiting — gives the place back and lets the next one start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from vestal.errors import QueueTimeout, VestalError
from vestald.admission import Scheduler, Ticket, not_serving

__all__ = ["Dispatcher", "PositionWatcher"]

PositionWatcher = Callable[[int, int, int | None], None]
"""(position, depth, eta_ms): called when a waiting ticket's position is first known and whenever it changes."""


class Dispatcher:
    """Runs one `Scheduler` on the event loop."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._now = time.monotonic  # uvloop's own clock ticks in whole milliseconds
        self._futures: dict[Ticket, asyncio.Future[None]] = {}
        self._watchers: dict[Ticket, tuple[PositionWatcher, list[int]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._announcing = False

    @asynccontextmanager
    async def slot(self, ticket: Ticket, watcher: PositionWatcher | None = None) -> AsyncIterator[Ticket]:
        """Wait for a slot of the ticket's lane and hold it. Set `ticket.used` to the tokens it really cost.

        Raises `QueueFull` at once, `QueueTimeout` at the ticket's queue deadline, `BackendUnavailable`.
        """
        self.scheduler.submit(ticket, self._now())
        future = self._futures[ticket] = self._loop.create_future()
        if watcher is not None:
            self._watchers[ticket] = (watcher, [0])
        try:
            self._advance()
            await future
            yield ticket
        finally:
            self._futures.pop(ticket, None)
            self._watchers.pop(ticket, None)
            self.scheduler.end(ticket, self._now())
            self._advance()

    def open_lane(self, name: str, slots: int) -> None:
        """The backend serves (again), with that many slots."""
        lane = self.scheduler.lanes.get(name) or self.scheduler.add_lane(name, slots)
        lane.slots, lane.open, lane.given_up = slots, True, ""
        self._advance()

    def shut_lane(self, name: str) -> None:
        """The backend is away; what waits for it waits on."""
        if lane := self.scheduler.lanes.get(name):
            lane.open, lane.given_up = False, ""

    def fail_lane(self, name: str, reason: str) -> None:
        """The backend will not come back by itself: `backend_unavailable` for what waits for it, and what comes."""
        if lane := self.scheduler.lanes.get(name):
            lane.open, lane.given_up = False, reason or "it has failed"
            for ticket in list(lane.order()):
                self._reject(ticket, not_serving(lane))

    def _advance(self) -> None:
        now = self._now()
        started, late = self.scheduler.advance(now)
        for ticket in started:
            future = self._futures.get(ticket)
            if future is not None and not future.done():
                future.set_result(None)
        for ticket in late:
            waited = round(1000 * (now - ticket.entered))
            self._reject(
                ticket,
                QueueTimeout(
                    f"waited {waited} ms for a slot of backend {ticket.lane!r}, as long as queue_timeout_ms allows",
                    hint="retry later, or allow a longer queue_timeout_ms",
                    details={"waited_ms": waited},
                ),
            )
        self._set_timer()
        if self._watchers and not self._announcing:
            self._announcing = True
            self._loop.call_soon(self._announce)

    def _reject(self, ticket: Ticket, error: VestalError) -> None:
        future = self._futures.get(ticket)
        if future is not None and not future.done():
            future.set_exception(error)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.scheduler.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - self._now()), self._advance)

    def _announce(self) -> None:
        self._announcing = False
        for ticket, position, eta in self.scheduler.positions():
            entry = self._watchers.get(ticket)
            if entry is not None and entry[1][0] != position:
                entry[1][0] = position
                entry[0](position, self.scheduler.waiting, None if eta is None else round(1000 * eta))

    def __repr__(self) -> str:
        return f"<Dispatcher {self.scheduler!r}>"
