"""Every backend's life: started, watched by what it reports and by what it says when asked, stopped within a deadline.

The supervisor owns the units and is the only one who moves their states; a backend moves itself between ready and
unavailable by calling the report it was handed. Which units there are, and when one starts and stops, is for others to
say (`starting`, `roster`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

from vestal.backend import Backend, Health, Loading, Ready, Unavailable
from vestal.errors import VestalError
from vestald.backends.registry import Declared
from vestald.backends.unit import Unit
from vestald.events import EventHub
from vestald.failures import BackendFailed
from vestald.patience import wait_awake

__all__ = ["HEALTH_PATIENCE", "Supervisor", "health_of"]

HEALTH_PATIENCE = 10.0
"""Seconds that a backend may take to say how it is; a remote one asks its server meanwhile."""

_GRACE = 0.25  # seconds beyond its timeout that a backend's `stop` is waited for
_STEP = 25  # percent of loading from one line of the log at info to the next
_LET_GO = 2.0  # seconds that an adapter may tidy up in after its call was cancelled


class Supervisor:
    """Starts, watches and stops the units. `changed(unit)` is called after every change of state."""

    def __init__(self, backends: Sequence[Declared], events: EventHub, changed: Callable[[Unit], None]) -> None:
        self._events = events
        self._notify = changed
        self.units = [Unit(declared, self._changed) for declared in backends]
        self._calls: dict[asyncio.Task[None], Backend] = {}  # every `start` and `stop` that has not returned

    @property
    def serving(self) -> list[Unit]:
        """The units that have been ready: those away for now, and those being restarted, are among them."""
        return [unit for unit in self.units if unit.served]

    @property
    def stuck(self) -> list[str]:
        """The backends in whose `start` or `stop` something still runs, cancelled or not."""
        return sorted({backend.name for backend in self._calls.values()})

    def add(self, declared: Declared, index: int) -> Unit:
        """One more unit, which has not been started."""
        unit = Unit(declared, self._changed)
        self.units.insert(index, unit)
        return unit

    def forget(self, unit: Unit) -> None:
        self.units.remove(unit)

    def arrange(self, names: Sequence[str]) -> None:
        """The units in this order; `names` has each of them."""
        self.units.sort(key=lambda unit: names.index(unit.name))

    async def start_all(self, units: Iterable[Unit], timeout: float) -> None:
        """Start them at once; return when all are ready. Raises `BackendFailed` at the first that cannot be."""
        units = list(units)
        tasks = [self._call(unit, self._start(unit)) for unit in units]
        try:
            async with asyncio.timeout(timeout):
                for finished in asyncio.as_completed(tasks):
                    await finished
        except TimeoutError:
            raise _too_slow(units, timeout) from None
        finally:
            await _end(tasks)

    async def start(self, unit: Unit, timeout: float) -> None:
        """Start one that has failed, was stopped, or is new. Raises `BackendFailed` if it is not ready in time."""
        unit.given_up = unit.doubted = unit.stuck = False
        unit.machine.to("starting")
        try:
            await self._within(timeout, unit, self._start(unit))
        except TimeoutError:
            failure = _too_slow([unit], timeout)
            self.failed(unit, failure.message)
            raise failure from None

    async def release(self, unit: Unit, timeout: float) -> None:
        """Let go of what a failed start has left behind. What goes wrong then, the next start or stop will tell."""
        with suppress(Exception):
            await self._within(timeout + _GRACE, unit, unit.backend.stop(timeout))

    async def returned(self, unit: Unit) -> None:
        """Return when no earlier `start` or `stop` of its backend runs: an adapter may have swallowed its end."""
        while calls := [task for task, backend in self._calls.items() if backend is unit.backend]:
            await asyncio.wait(calls)

    async def stop(self, unit: Unit, timeout: float) -> None:
        """Stop one. Raises `BackendFailed` if it does not stop in time; it is then given up, and in no known state."""
        if unit.state == "stopped":
            return
        unit.doubted = unit.stuck = False
        unit.machine.to("stopping")
        try:
            await self._within(timeout + _GRACE, unit, unit.backend.stop(timeout))
        except Exception as exc:  # an adapter may raise anything; what waits for its backend must hear of it
            what = f"within {timeout:g} s" if isinstance(exc, TimeoutError) else f"but raised {type(exc).__name__}"
            failure = BackendFailed(f"backend {unit.name!r} did not stop {what}", hint="restart the daemon")
            unit.detail, unit.given_up, unit.stuck = failure.message, True, True
            self._changed(unit)
            raise failure from exc
        unit.machine.to("stopped")

    async def stop_all(self, timeout: float) -> list[str]:
        """`backend.stop(timeout)` for all at once; the names of those that did not return in time."""
        if not self.units:
            return []
        stopping = {self._call(unit, self._stop(unit, timeout)): unit for unit in self.units}
        # A worker that has to be killed takes its whole timeout for it, and is no reason to say that it is still there.
        done, late = await wait_awake(stopping, timeout + _GRACE)
        for task in late:
            task.cancel()
        for task in done:
            if (fault := task.exception()) is not None:
                self._events.emit("backend_stop_failed", level="error", backend=stopping[task].name, error=repr(fault))
        return [stopping[task].name for task in late]

    def _call(self, unit: Unit, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._calls[task] = unit.backend
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
        backend, unit.percent = unit.backend, 0.0
        if not unit.retrying:  # why the last try failed stays to be seen
            unit.detail = ""
        try:
            await backend.start(lambda report: self._reported(unit, backend, report))
        except VestalError as exc:
            self._failed(unit, exc.message, backend)
            raise BackendFailed(f"backend {unit.name!r} did not start: {exc.message}", hint=exc.hint) from exc
        except Exception as exc:
            self._failed(unit, type(exc).__name__, backend)
            raise BackendFailed(
                f"backend {unit.name!r} did not start: {type(exc).__name__}: {exc}",
                hint=f"this is a fault in adapter {unit.adapter!r}",
            ) from exc
        if unit.backend is backend and unit.machine.may("ready"):  # else it comes too late
            unit.serves()
            unit.machine.to("ready")

    def failed(self, unit: Unit, why: str) -> None:
        """A start of it has come to nothing."""
        self._failed(unit, why, unit.backend)

    def _failed(self, unit: Unit, why: str, backend: Backend) -> None:
        if unit.backend is backend and unit.machine.may("failed"):
            unit.detail = why
            unit.machine.to("failed")

    async def _stop(self, unit: Unit, timeout: float) -> None:
        if unit.machine.may("stopping"):
            unit.machine.to("stopping")
        await unit.backend.stop(timeout)
        if unit.machine.may("stopped"):
            unit.machine.to("stopped")

    def judged(self, unit: Unit, health: Health) -> None:
        """What a backend says when it is asked counts too, until it reports something itself."""
        if health.state == "ok":
            if unit.doubted:
                self._back(unit, Ready())
        elif unit.state == "ready":
            unit.doubted, unit.detail = True, health.detail or f"its health is {health.state}"
            unit.machine.to("unavailable")

    def _reported(self, unit: Unit, backend: Backend, report: Loading | Ready | Unavailable) -> None:
        if unit.backend is not backend:
            return  # another one has taken its place
        if isinstance(report, Loading):
            self._progress(unit, report)
        elif isinstance(report, Unavailable):
            self._lost(unit, report)
        elif unit.state == "unavailable":
            self._back(unit, report)

    def _back(self, unit: Unit, report: Ready) -> None:
        unit.percent, unit.detail, unit.doubted, unit.given_up = 100.0, "", False, False
        unit.life += report.renewed
        unit.machine.to("ready")

    def _lost(self, unit: Unit, report: Unavailable) -> None:
        unit.detail, unit.given_up, unit.doubted = report.reason, not report.recovering, False
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
            minor = unit.retrying or int(unit.percent) // _STEP == before // _STEP
            self._events.emit(
                "backend_loading",
                level="debug" if minor else "info",
                backend=unit.name,
                percent=round(unit.percent, 1),
                detail=report.detail,
            )

    def _changed(self, unit: Unit) -> None:
        unit.changes += 1
        if _is_news(unit):
            level = "warning" if unit.state in ("unavailable", "failed") else "info"
            self._events.emit("backend_state", level=level, backend=unit.name, state=unit.state, detail=unit.detail)
        if unit.state == "failed":
            unit.told = unit.detail
        self._notify(unit)


def _is_news(unit: Unit) -> bool:
    """Whether a change of state is told: of starts that are tried again and again, only another reason to fail."""
    if not unit.retrying:
        return True
    return unit.detail != unit.told if unit.state == "failed" else unit.state not in ("starting", "loading")


def _too_slow(units: Sequence[Unit], timeout: float) -> BackendFailed:
    late = [unit for unit in units if unit.state in ("starting", "loading")]
    told = (f"{unit.name} at {unit.percent:.0f} %{f' ({unit.detail})' * bool(unit.detail)}" for unit in late)
    return BackendFailed(
        f"not ready within {timeout:g} s: {', '.join(told)}",
        hint="allow more with daemon.ready_timeout in the configuration",
    )


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel those that still run, and give them time to tidy up; one that takes longer is left to itself."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=_LET_GO)


async def health_of(unit: Unit, patience: float = HEALTH_PATIENCE) -> Health:
    """The backend's own view; an adapter that breaks its promise never to raise costs only its own answer.

    Whoever asks while it is being asked hears the same. One that does not answer is not asked again until it has.
    """
    asking = unit.asking
    if asking is None or asking.done():
        asking = unit.asking = asyncio.ensure_future(unit.backend.health())
    await asyncio.wait({asking}, timeout=patience)
    if not asking.done() or asking.cancelled():
        asking.cancel()
        return Health(state="unavailable", detail=f"it did not say within {patience:g} s how it is")
    if (fault := asking.exception()) is not None:  # the port forbids it, and a status must still be shown
        return Health(state="unavailable", detail=f"health() raised {type(fault).__name__}")
    return asking.result()
