"""Whether a server elsewhere is there: asked until it serves, asked again while it does, looked for when it is lost.

`begin` asks as long as asking again can help: a server that still loads is waited for, a wrong key is not. Later it is
asked by `health`, and at once when a request's failure makes it doubtful; once lost it is asked with growing pauses
until it is back, and the daemon is told both times. What it can do is what it said when it became ready: a server that
says something else of itself later is another one, and lost for a moment.

One question at a time. A server with one slot does one thing at a time, so there requests take turns with questions:
llama_cpp.server breaks off what it is saying when it is asked anything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Literal, TypeVar

from vestal.backend import Health, Loading, Ready, Report, Unavailable
from vestal.errors import (
    BackendCrashed,
    BackendRefused,
    BackendUnavailable,
    DeadlineExceeded,
    ModelNotFound,
    VestalError,
    WireError,
)
from vestal.values import Capabilities
from vestal_adapters.remote.http import Upstream

__all__ = ["PROBE_TIMEOUT", "Presence", "doubtful"]

T = TypeVar("T")
State = Literal["stopped", "loading", "ready", "unavailable"]

PROBE_TIMEOUT = 5.0  # seconds for each question of a probe: a status waits for it
_FRESH = 2.0  # seconds that a probe's answer is good for: many may ask for the status, and many requests may fail
_SILENCE = 30.0  # seconds of requests to which nothing comes back, until the server is asked between two of them
_BUSY = 429  # it is there, and has said enough: more questions make it worse
_LOCKED = (401, 403)
_PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)  # between two probes of a server that is away; the last stays


class Presence:
    """One server, from `begin` to `end`, and again.

    `probe` asks it what it can do and raises `VestalError` where it does not serve; `adopt` takes what it said, before
    anybody hears that it is ready.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[Upstream], Awaitable[Capabilities]],
        adopt: Callable[[Capabilities], None],
        *,
        one_at_a_time: bool,
        doubts: bool,
    ) -> None:
        self._name = name
        self._probe = probe
        self._adopt = adopt
        self._one_at_a_time = one_at_a_time
        self._doubts = doubts
        self.state: State = "stopped"
        self._detail = ""
        self._losses = 0
        self._upstream: Upstream | None = None
        self._report: Report | None = None
        self._said: Capabilities | None = None
        self._said_at = 0.0
        self._running = 0
        self._turn = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._returning: asyncio.Task[None] | None = None
        self._doubting: asyncio.Task[None] | None = None
        self._doubted_at = -_FRESH
        self._tried_at = 0.0
        """When the first of those requests began since which nothing was heard."""

    # --- from begin to end ------------------------------------------------------------------------------------

    async def begin(self, upstream: Upstream, report: Report) -> None:
        """Ask until it serves. Raises `VestalError` if that cannot come, or `end` does. It closes `upstream`."""
        self._stopping.clear()
        self._upstream, self._report, self.state = upstream, report, "loading"
        try:
            self._serves(await self._unless_stopped(self._until_served(upstream, report)))
        except BaseException:  # a cancelled start too leaves no connection behind
            await self._close()
            raise

    async def _until_served(self, upstream: Upstream, report: Report) -> Capabilities:
        attempt = 0
        while True:
            try:
                return await self._probe(upstream)
            except WireError as exc:
                if not exc.retryable:
                    raise
                self._detail = exc.message
                report(Loading(0.0, exc.message))
            await asyncio.sleep(_pause(attempt))
            attempt += 1

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result. Raises `BackendUnavailable` if `end` comes first."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() or self._stopping.is_set():
                raise BackendUnavailable(f"backend {self._name!r} was stopped while it was loading")
            return working.result()
        finally:
            await _end(working, stopping)

    async def end(self) -> None:
        """Ask no more, and break off the requests that run. Idempotent."""
        self._stopping.set()
        await self._close()

    async def _close(self) -> None:
        self.state = "stopped"
        upstream, self._upstream = self._upstream, None
        working = [task for task in (self._returning, self._doubting) if task is not None]
        self._returning = self._doubting = None
        if working:
            await _end(*working)
        if upstream is not None:
            await upstream.close()

    # --- is it still there ------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Asks the server, unless it was asked just now, or its only slot is wanted: that request has deadlines."""
        upstream = self._upstream
        if self.state == "ready" and upstream is not None and not (self._one_at_a_time and self._running):
            async with self._turn:
                if time.monotonic() - self._said_at > _FRESH:
                    await self._look(upstream)
        return Health(state="ok" if self.state == "ready" else self.state, detail=self._detail, restarts=self._losses)

    def _doubt(self, upstream: Upstream) -> None:
        """Have it asked at once whether it still serves, but not again and again while many requests fail."""
        if self._doubts and self.state == "ready" and self._doubting is None:
            self._doubting = asyncio.create_task(self._ask_again(upstream))

    async def _ask_again(self, upstream: Upstream) -> None:
        try:
            await asyncio.sleep(self._doubted_at + _FRESH - time.monotonic())
            async with self._turn:
                self._doubted_at = time.monotonic()
                await self._look(upstream)
        finally:
            self._doubting = None

    async def _look(self, upstream: Upstream) -> None:
        """Probe once; a server that does not serve is lost."""
        told = await self._told(upstream)
        if told == self._said:
            self._said_at = time.monotonic()
        elif isinstance(told, str):
            self._lost(told)
        else:
            self._lost(f"the server of backend {self._name!r} says something else of itself than before")

    async def _told(self, upstream: Upstream) -> Capabilities | str:
        """What it can do, or why it does not serve now. Takes `PROBE_TIMEOUT` at most."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return await self._probe(upstream)
        except TimeoutError:
            return f"the server of backend {self._name!r} did not answer within {PROBE_TIMEOUT:g} s"
        except Exception as exc:  # health never raises, whatever a server makes of a probe
            return exc.message if isinstance(exc, VestalError) else type(exc).__name__

    def _serves(self, said: Capabilities) -> None:
        self._adopt(said)
        self._said, self._said_at = said, time.monotonic()
        self.state, self._detail = "ready", ""

    def _lost(self, why: str) -> None:
        if self.state != "ready" or self._report is None or self._upstream is None:
            return
        self.state, self._detail = "unavailable", why
        self._losses += 1
        self._report(Unavailable(why, recovering=True))
        self._returning = asyncio.create_task(self._return(self._upstream, self._report))

    async def _return(self, upstream: Upstream, report: Report) -> None:
        """Ask until it serves again. What cannot be retried by a caller may still be put right by its operator."""
        attempt = 0
        while self.state == "unavailable":
            await asyncio.sleep(_pause(attempt))
            attempt += 1
            told = await self._told(upstream)
            if isinstance(told, str):
                self._detail = told
                continue
            self._serves(told)
            report(Ready())

    # --- requests ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def asking(self, *, in_turn: bool) -> AsyncGenerator[Upstream]:
        """The server, for one request; `in_turn` if that takes a slot. Its failure may be a reason to ask again."""
        self._running += 1  # before its turn comes: a status would wait behind it
        try:
            async with self._turn if in_turn and self._one_at_a_time else nullcontext():
                upstream = self._serving()
                if in_turn and self._one_at_a_time and self._doubts:
                    await self._check_heard(upstream)
                    upstream = self._serving()
                try:
                    yield upstream
                except WireError as exc:
                    if exc.details.get("unreachable"):
                        self._lost(exc.message)
                    elif doubtful(exc):
                        self._doubt(upstream)
                    raise
        finally:
            self._running -= 1

    async def _check_heard(self, upstream: Upstream) -> None:
        """Ask between two requests, where a status does not ask: callers may give up before any deadline is over."""
        now = time.monotonic()
        if upstream.heard_at >= self._tried_at:
            self._tried_at = now
        elif now - self._tried_at > _SILENCE:
            await self._look(upstream)

    def _serving(self) -> Upstream:
        if self.state != "ready" or self._upstream is None:
            raise BackendUnavailable(
                f"backend {self._name!r} is {self.state}{': ' * bool(self._detail)}{self._detail}",
                details={"backend": self._name},
            )
        return self._upstream

    def __repr__(self) -> str:
        return f"<Presence {self._name!r} {self.state}, {self._running} running, lost {self._losses} times>"


def doubtful(error: WireError) -> bool:
    """Whether a request's failure may mean that its server, key or model is gone, and not only that it was refused."""
    status = error.details.get("status")
    if isinstance(error, BackendRefused):
        return status is None or status in _LOCKED  # without a status its answer ended before it began
    failed = isinstance(error, (BackendCrashed, BackendUnavailable, DeadlineExceeded, ModelNotFound))
    return failed and status != _BUSY


def _pause(attempt: int) -> float:
    return _PAUSES[min(attempt, len(_PAUSES) - 1)]


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # what came too late to matter is nobody's
