"""Rounds: every backend that serves is asked whether it is well, again and again, beside what it tells by itself.

An adapter is to report when it loses its engine. One that does not notice, or forgets to say so, is found out here:
what says that it is not well is unavailable, and what waits for it waits, until it says that it is well again. What
else is to be tried again and again, as a socket that could not be bound, is tried after each round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vestald.backends.supervisor import HEALTH_PATIENCE, Supervisor, health_of
from vestald.backends.unit import Unit

__all__ = ["Rounds"]


class Rounds:
    """A round every `interval` seconds, none if that is 0; each asks all side by side, for `patience` seconds.

    `then` is called after each.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        interval: Callable[[], float],
        patience: float = HEALTH_PATIENCE,
        *,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._supervisor = supervisor
        self._interval = interval
        self._patience = patience
        self._then = then
        self._adjusted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Go, until `aclose`. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._go(), name="rounds")

    def adjust(self) -> None:
        """`interval` is another from now on."""
        self._adjusted.set()

    async def _go(self) -> None:
        while True:
            self._adjusted.clear()
            try:
                async with asyncio.timeout(self._interval() or None):
                    await self._adjusted.wait()
            except TimeoutError:
                await self.once()

    async def once(self) -> None:
        """One round."""
        serving = [unit for unit in self._supervisor.units if unit.state == "ready" or unit.doubted]
        await asyncio.gather(*(self._ask(unit) for unit in serving))
        self._then()

    async def _ask(self, unit: Unit) -> None:
        before = unit.changes
        health = await health_of(unit, self._patience)
        if unit.changes == before:  # else the answer is about what it was
            self._supervisor.judged(unit, health)

    async def aclose(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def __repr__(self) -> str:
        return f"<Rounds every {self._interval():g} s>"
