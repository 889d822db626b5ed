"""Every backend's life: started side by side, watched by what they report, stopped together within a deadline.

A `Unit` is one backend with its state machine. The supervisor owns the units and is the only one who moves
their states; a backend moves itself between ready and unavailable by calling the report it was handed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from vestal.backend import Health, Loading, Ready, Unavailable
from vestal.errors import VestalError
from vestal.values import BackendState, Capabilities
from vestald.events import EventHub
from vestald.failures import BackendFailed
from vestald.lifecycle import BACKEND, Machine
from vestald.registry import Declared

__all__ = ["Supervisor", "Unit", "health_of"]

_GRACE = 0.25  # seconds beyond its timeout that a backend's `stop` is waited for
_STEP = 25  # percent of loading from one line of the log at info to the next
_LET_GO = 2.0  # seconds that an adapter may tidy up in after its call was cancelled


class Unit:
    """One configured backend and what is known of it. `percent` counts while it loads."""

    def __init__(self, declared: Declared, changed: Callable[[Unit], None]) -> None:
        self.declared = declared
        self.backend = declared.backend
        self.percent = 0.0
        self.detail = ""
        self.given_up = False  # unavailable, and not trying to come back
        self.served = False  # it has been ready once
        self.machine: Machine[BackendState] = Machine(
            f"backend {self.name}", BACKEND, "starting", lambda _before, _after: changed(self)
        )

    @property
    def name(self) -> str:
        return self.declared.table.name

    @property
    def adapter(self) -> str:
        return self.declared.table.adapter

    @property
    def aliases(self) -> Sequence[str]:
        return self.declared.keys.aliases

    @property
    def state(self) -> BackendState:
        return self.machine.state

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.capabilities

    def __repr__(self) -> str:
        percent = f" {self.percent:.0f} %" if self.state == "loading" else ""
        return f"<Unit {self.name} {self.state}{percent}>"


class Supervisor:
    """Starts, watches, restarts and stops the units. `changed(unit)` is called after every change of state."""

    def __init__(self, backends: Sequence[Declared], events: EventHub, changed: Callable[[Unit], None]) -> None:
        self._events = events
        self._notify = changed
        self.units = [Unit(declared, self._changed) for declared in backends]
        self._calls: dict[asyncio.Task[None], Unit] = {}  # every `start` and `stop` that has not returned

    @property
    def serving(self) -> list[Unit]:
        """The units that have been ready: those away for now, and those being restarted, are among them."""
        return [unit for unit in self.units if unit.served]

    @property
    def stuck(self) -> list[str]:
        """The backends in whose `start` or `stop` something still runs, cancelled or not."""
        return sorted({unit.name for unit in self._calls.values()})

    async def start_all(self, timeout: float) -> None:
        """Start all at once; return when all are ready. Raises `BackendFailed` at the first that cannot be."""
        tasks = [self._call(unit, self._start(unit)) for unit in self.units]
        try:
            async with asyncio.timeout(timeout):
                for finished in asyncio.as_completed(tasks):
                    await finished
        except TimeoutError:
            raise self._too_slow(timeout) from None
        finally:
            await _end(tasks)

    async def restart(self, unit: Unit, stop_timeout: float, ready_timeout: float) -> None:
        """Stop and start one unit. Raises `BackendFailed` if it does not stop in time, or does not come back."""
        unit.given_up = False
        unit.machine.to("stopping")
        try:
            await self._within(stop_timeout + _GRACE, unit, unit.backend.stop(stop_timeout))
        except Exception as exc:  # an adapter may raise anything; what waits for its backend must hear of it
            what = f"within {stop_timeout:g} s" if isinstance(exc, TimeoutError) else f"but raised {type(exc).__name__}"
            raise BackendFailed(f"backend {unit.name!r} did not stop {what}", hint="restart the daemon") from exc
        unit.machine.to("stopped")
        unit.machine.to("starting")
        try:
            await self._within(ready_timeout, unit, self._start(unit))
        except TimeoutError:
            failure = self._too_slow(ready_timeout)
            self._failed(unit, failure.message)
            raise failure from None

    async def stop_all(self, timeout: float) -> list[str]:
        """`backend.stop(timeout)` for all at once; the names of those that did not return in time."""
        stopping = {self._call(unit, self._stop(unit, timeout)): unit for unit in self.units}
        # A worker that has to be killed takes its whole timeout for it, and is no reason to say that it is still there.
        done, late = await asyncio.wait(stopping, timeout=timeout + _GRACE)
        for task in late:
            task.cancel()
        for task in done:
            if (fault := task.exception()) is not None:
                self._events.emit("backend_stop_failed", level="error", backend=stopping[task].name, error=repr(fault))
        return [stopping[task].name for task in late]

    def _call(self, unit: Unit, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._calls[task] = unit
        task.add_done_callback(self._returned)
        return task

    def _returned(self, task: asyncio.Task[None]) -> None:
        del self._calls[task]
        if not task.cancelled():
            task.exception()  # whoever waits for it gets it; what came too late for that is nobody's

    async def _within(self, timeout: float, unit: Unit, coroutine: Coroutine[Any, Any, None]) -> None:
        """Await it for `timeout` seconds. Raises `TimeoutError` even if the adapter swallows its cancellation."""
        task = self._call(unit, coroutine)
        try:
            await asyncio.wait({task}, timeout=timeout)
            if not task.done():
                raise TimeoutError
            task.result()
        finally:
            await _end([task])

    async def _start(self, unit: Unit) -> None:
        unit.percent, unit.detail = 0.0, ""
        try:
            await unit.backend.start(lambda progress: self._reported(unit, progress))
        except VestalError as exc:
            self._failed(unit, exc.message)
            raise BackendFailed(f"backend {unit.name!r} did not start: {exc.message}", hint=exc.hint) from exc
        except Exception as exc:
            self._failed(unit, type(exc).__name__)
            raise BackendFailed(
                f"backend {unit.name!r} did not start: {type(exc).__name__}: {exc}",
                hint=f"this is a fault in adapter {unit.adapter!r}",
            ) from exc
        unit.percent, unit.detail, unit.served = 100.0, "", True
        unit.machine.to("ready")

    def _failed(self, unit: Unit, why: str) -> None:
        unit.detail = why
        if unit.machine.may("failed"):
            unit.machine.to("failed")

    async def _stop(self, unit: Unit, timeout: float) -> None:
        if unit.machine.may("stopping"):
            unit.machine.to("stopping")
        await unit.backend.stop(timeout)
        if unit.machine.may("stopped"):
            unit.machine.to("stopped")

    def _reported(self, unit: Unit, report: Loading | Ready | Unavailable) -> None:
        if isinstance(report, Loading):
            self._progress(unit, report)
        elif isinstance(report, Unavailable):
            self._lost(unit, report)
        elif unit.machine.may("ready") and unit.state == "unavailable":
            unit.percent, unit.detail = 100.0, ""
            unit.machine.to("ready")

    def _lost(self, unit: Unit, report: Unavailable) -> None:
        unit.detail, unit.given_up = report.reason, not report.recovering
        if unit.state == "unavailable":
            self._changed(unit)  # it was trying to come back, and did not, or has given up
        elif unit.machine.may("unavailable"):
            unit.machine.to("unavailable")
        if unit.given_up:
            self._events.emit("backend_given_up", level="error", backend=unit.name, detail=report.reason)

    def _progress(self, unit: Unit, report: Loading) -> None:
        before = int(unit.percent)
        unit.percent, unit.detail = max(unit.percent, report.percent), report.detail
        if unit.state == "starting":
            unit.machine.to("loading")
        if int(unit.percent) != before and unit.state == "loading":
            self._events.emit(
                "backend_loading",
                level="debug" if int(unit.percent) // _STEP == before // _STEP else "info",
                backend=unit.name,
                percent=round(unit.percent, 1),
                detail=report.detail,
            )

    def _changed(self, unit: Unit) -> None:
        level = "warning" if unit.state in ("unavailable", "failed") else "info"
        self._events.emit("backend_state", level=level, backend=unit.name, state=unit.state, detail=unit.detail)
        self._notify(unit)

    def _too_slow(self, timeout: float) -> BackendFailed:
        late = ", ".join(f"{u.name} at {u.percent:.0f} %" for u in self.units if u.state in ("starting", "loading"))
        return BackendFailed(
            f"not ready within {timeout:g} s: {late}",
            hint="allow more with daemon.ready_timeout in the configuration",
        )


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel those that still run, and give them time to tidy up; one that takes longer is left to itself."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=_LET_GO)


async def health_of(unit: Unit) -> Health:
    """The backend's own view; an adapter that breaks its promise never to raise costs only its own answer."""
    try:
        return await unit.backend.health()
    except Exception as exc:  # the port forbids it, and a status must still be shown
        return Health(state="unavailable", detail=f"health() raised {type(exc).__name__}")
