"""How backends come: those the daemon waits for, and those that join when they come.

The gate opens when every `required` backend is ready, and one of any kind can take requests. All start side by side.
A required one that fails ends the daemon, before the gate; one that is not required is started again, with growing
pauses and for ever, and holds up nobody. An operator's start of a required one is tried once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain, repeat

from vestal.errors import VestalError
from vestald.backends.supervisor import Supervisor
from vestald.backends.unit import Unit
from vestald.events import EventHub
from vestald.failures import BackendFailed

__all__ = ["PAUSES", "Starts", "in_words"]

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds between two starts of a backend that is not required; the last stays."""

_RELEASE = 2.0  # seconds that what a failed start has left behind may take to go


class Starts:
    """Every start that is under way. `patience` is how many seconds one may take."""

    def __init__(self, supervisor: Supervisor, events: EventHub, patience: Callable[[], float]) -> None:
        self._supervisor = supervisor
        self._events = events
        self._patience = patience
        self._tasks: dict[Unit, asyncio.Task[None]] = {}
        self._awaited: frozenset[Unit] = frozenset()
        self._moved = asyncio.Event()

    def saw(self, unit: Unit) -> None:
        """A unit has changed its state."""
        self._moved.set()

    def holds_gate(self, unit: Unit) -> bool:
        """Whether the daemon waits for it before it serves anybody."""
        return unit in self._awaited and not unit.served

    def under_way(self, unit: Unit) -> bool:
        return unit in self._tasks

    async def gate(self) -> None:
        """Start all; return when the required ones are ready, and one can take requests. Raises `BackendFailed`."""
        units = self._supervisor.units
        self._awaited = frozenset(unit for unit in units if unit.required)
        for unit in units:
            if not unit.required:
                self.begin(unit)
        await self._supervisor.start_all((unit for unit in units if unit.required), self._patience())
        self._awaited = frozenset()
        while not self._one_can_serve():
            self._moved.clear()
            await self._moved.wait()

    def _one_can_serve(self) -> bool:
        """Raises `BackendFailed` if there is none that ever will."""
        units = self._supervisor.units
        served = [unit for unit in units if unit.served]
        able = [unit for unit in served if unit.capabilities.generate or unit.capabilities.embed]
        if any(unit.here for unit in able):
            return True
        if units == served and units and not able:
            raise BackendFailed("no backend can generate or embed", hint="configure one that can")
        return False

    def begin(self, unit: Unit) -> None:
        """Start it in the background: once if it is required, else until it is ready."""
        task = self._tasks[unit] = asyncio.create_task(self._start(unit), name=f"start of backend {unit.name}")
        task.add_done_callback(lambda _: self._tasks.pop(unit, None))

    def withdraw(self, unit: Unit) -> None:
        """What `begin` began moves no state any more, and ends. Idempotent."""
        task = self._tasks.get(unit)
        if task is not None and not task.cancelling():  # a second cancel would end its wait for the adapter
            task.cancel()

    async def call_off(self, unit: Unit) -> None:
        """End what `begin` began. Idempotent."""
        self.withdraw(unit)
        if (task := self._tasks.get(unit)) is not None:
            await asyncio.wait({task})

    async def _start(self, unit: Unit) -> None:
        try:
            await self._until_ready(unit)
        except Exception as fault:  # a fault of ours too must be told: somebody waits for this start
            why = in_words(fault)
            self._supervisor.failed(unit, why)
            self._events.emit("backend_start_failed", level="error", backend=unit.name, error=why)

    async def _until_ready(self, unit: Unit) -> None:
        """Raises `BackendFailed` if it is required, and not ready at once."""
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            try:
                await self._supervisor.start(unit, self._patience())
                return
            except BackendFailed:
                if unit.required:
                    raise
            unit.retrying = True
            await self._supervisor.release(unit, _RELEASE)
            await asyncio.sleep(pause)
            await self._supervisor.returned(unit)

    async def aclose(self, timeout: float) -> None:
        """End all, or leave them after `timeout` seconds. Idempotent."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    def __repr__(self) -> str:
        return f"<Starts {', '.join(unit.name for unit in self._tasks) or 'none'}>"


def in_words(fault: Exception) -> str:
    """What an event says of it, with what to do next; what is no error of ours by name is a fault of ours."""
    if isinstance(fault, VestalError):
        return str(fault)
    return f"{type(fault).__name__}: {fault} (this is a fault in vestald; its backend may be in no known state)"
