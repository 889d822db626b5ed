"""A backend whose engine is a server elsewhere: ready means that the server was asked, and serves the model.

`start` asks until it is so, as long as asking again can help: a server that still loads is waited for, a wrong key
is not. Later it is asked again by `health`, and whenever a request's failure makes it `doubtful`; once lost it is asked
with growing pauses until it is back, and the daemon is told both times. What it can do is what it said when it became
ready: a server that says something else of itself later is another one, and lost for a moment.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any, ClassVar, TypeVar

from msgspec.structs import replace

from vestal.backend import (
    Backend,
    BackendOptions,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Health,
    Loading,
    Ready,
    Report,
    TokenEvent,
    TokenEventV2,
    ToolUseEvent,
    Unavailable,
)
from vestal.errors import (
    BackendCrashed,
    BackendRefused,
    BackendUnavailable,
    DeadlineExceeded,
    ModelNotFound,
    Unsupported,
    VestalError,
    WireError,
)
from vestal.values import Capabilities
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.key import Key, as_bearer
from vestal_adapters.remote.options import RemoteOptions
from vestal_adapters.remote.requests import NOT_CALLED, forces_a_call
from vestal_adapters.remote.sse import Event
from vestal_adapters.remote.streamed import StreamedAnswer

__all__ = ["PROBE_TIMEOUT", "RemoteBackend", "doubtful", "if_there"]

T = TypeVar("T")

PROBE_TIMEOUT = 5.0  # seconds for each question of a probe: a status waits for it
_FRESH = 2.0  # seconds that a probe's answer is good for: many may ask for the status, and many requests may fail
_BUSY = 429  # it is there, and has said enough: more questions make it worse
_LOCKED = (401, 403)
_ABSENT = (404, 405, 501)  # a page that this server does not have
_PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)  # between two probes of a server that is away; the last stays


class RemoteBackend(Backend):
    """Subclasses say how to probe, and what to ask."""

    Options: ClassVar[type[BackendOptions]] = RemoteOptions
    doubts: ClassVar[bool] = True
    """Whether a request's failure is a reason to ask again."""

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        if not isinstance(options, RemoteOptions):
            raise TypeError(f"backend {name!r}: expected RemoteOptions, got {type(options).__name__}")
        self.remote = options
        self._upstream: Upstream | None = None
        self._report: Report | None = None
        self._state: str = "stopped"
        self._detail = ""
        self._losses = 0
        self._probed_at = 0.0
        self._running = 0
        self._turn = asyncio.Lock()
        """One question at a time. A server with one slot does one thing at a time, so there requests take turns with
        questions: llama_cpp.server breaks off what it is saying, or answers nothing else.
        """
        self._stopping = asyncio.Event()
        self._returning: asyncio.Task[None] | None = None
        self._doubting: asyncio.Task[None] | None = None
        self._doubted_at = -_FRESH

    def headers(self, key: Key | None) -> dict[str, str]:
        """What every request carries beside its body."""
        return as_bearer(key)

    @abstractmethod
    async def probe(self, upstream: Upstream) -> Capabilities:
        """Ask whether the server serves the model, and what it can do. Raises `VestalError` saying why not.

        What costs the operator money is for the first time only, while `loading`.
        """

    @property
    def ready(self) -> bool:
        return self._state == "ready"

    @property
    def loading(self) -> bool:
        return self._state == "loading"

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self, report: Report) -> None:
        self._stopping.clear()
        self._report, self._state = report, "loading"
        try:
            self._upstream = Upstream(self.name, self.remote, self.headers)
            self.capabilities = await self._unless_stopped(self._until_served(self._upstream, report))
            self._state, self._detail, self._probed_at = "ready", "", time.monotonic()
        except BaseException:
            await self._close()
            raise

    async def _until_served(self, upstream: Upstream, report: Report) -> Capabilities:
        attempt = 0
        while True:
            try:
                return await self.probe(upstream)
            except WireError as exc:
                if not exc.retryable:
                    raise
                self._detail = exc.message
                report(Loading(0.0, exc.message))
            await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result. Raises `BackendUnavailable` if `stop` comes first."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() or self._stopping.is_set():
                raise BackendUnavailable(f"backend {self.name!r} was stopped while it was loading")
            return working.result()
        finally:
            await _end(working, stopping)

    async def stop(self, timeout: float) -> None:
        self._stopping.set()
        await self._close()

    async def _close(self) -> None:
        self._state = "stopped"
        upstream, self._upstream = self._upstream, None
        working = [task for task in (self._returning, self._doubting) if task is not None]
        self._returning = self._doubting = None
        if working:
            await _end(*working)
        if upstream is not None:
            await upstream.close()

    # --- is it still there ------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Asks the server, unless it was asked just now, or its only slot is taken: that request has deadlines."""
        upstream = self._upstream
        if self._state == "ready" and upstream is not None and not (self._one_at_a_time and self._running):
            async with self._turn:
                if time.monotonic() - self._probed_at > _FRESH:
                    await self._look(upstream)
        state: Any = {"ready": "ok"}.get(self._state, self._state)
        return Health(state=state, detail=self._detail, restarts=self._losses)

    def _doubt(self, upstream: Upstream) -> None:
        """Have it asked at once whether it still serves, but not again and again while many requests fail."""
        if self.doubts and self._state == "ready" and self._doubting is None:
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
        if told == self.capabilities:
            self._probed_at = time.monotonic()
        elif isinstance(told, str):
            self._lost(told)
        else:
            self._lost(f"the server of backend {self.name!r} says something else of itself than before")

    async def _told(self, upstream: Upstream) -> Capabilities | str:
        """What it can do, or why it does not serve now. Takes `PROBE_TIMEOUT` at most."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return await self.probe(upstream)
        except TimeoutError:
            return f"the server of backend {self.name!r} did not answer within {PROBE_TIMEOUT:g} s"
        except Exception as exc:  # health never raises, whatever a server makes of a probe
            return exc.message if isinstance(exc, VestalError) else type(exc).__name__

    def _lost(self, why: str) -> None:
        if self._state != "ready" or self._report is None or self._upstream is None:
            return
        self._state, self._detail = "unavailable", why
        self._losses += 1
        self._report(Unavailable(why, recovering=True))
        self._returning = asyncio.create_task(self._return(self._upstream, self._report))

    async def _return(self, upstream: Upstream, report: Report) -> None:
        """Ask until it serves again. What cannot be retried by a caller may still be put right by its operator."""
        attempt = 0
        while self._state == "unavailable":
            await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1
            told = await self._told(upstream)
            if isinstance(told, str):
                self._detail = told
                continue
            self.capabilities = told
            self._state, self._detail, self._probed_at = "ready", "", time.monotonic()
            report(Ready())

    @asynccontextmanager
    async def asking(self, *, in_turn: bool = True) -> AsyncGenerator[Upstream]:
        """The server, for one request. If nobody is there any more, the daemon hears of it; if in doubt, it asks."""
        async with self._turn if in_turn and self._one_at_a_time else nullcontext():
            upstream = self._serving()
            self._running += 1
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

    @property
    def _one_at_a_time(self) -> bool:
        return self.remote.slots == 1

    def _serving(self) -> Upstream:
        if self._state != "ready" or self._upstream is None:
            raise BackendUnavailable(
                f"backend {self.name!r} is {self._state}{': ' * bool(self._detail)}{self._detail}",
                details={"backend": self.name},
            )
        return self._upstream

    # --- requests ---------------------------------------------------------------------------------------------

    @abstractmethod
    def asked(
        self, upstream: Upstream, request: GenerateRequest | GenerateRequestV2
    ) -> tuple[AsyncGenerator[Event], StreamedAnswer]:
        """What comes for a request, and what makes sense of it. Raises `WireError` for what cannot be asked."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        return self._stream(request)  # type: ignore[return-value]  # v1 answers hold no event of v2

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        return self._stream(request)

    async def _stream(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        """The events of one answer; a stream that ends before its answer does is an error."""
        if not self.capabilities.generate:
            raise Unsupported(f"backend {self.name!r} does not generate", details={"option": "generate"})
        async with self.asking() as upstream:
            pieces, answer = self.asked(upstream, request)
            must_call = forces_a_call(request)
            async with aclosing(pieces):
                async for piece in pieces:
                    for event in answer.feed(piece.data):
                        must_call &= not isinstance(event, ToolUseEvent)
                        yield _without_a_call(event) if must_call and isinstance(event, EndEvent) else event
                    if answer.ended:
                        return
            raise answer.cut_off()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._state}, slots={self.capabilities.slots}>"


def _without_a_call(end: EndEvent) -> EndEvent:
    """The end of an answer in which a call had to be; one that was cut off, or refused, may have had a reason."""
    ended = end.stop_reason in ("end", "stop_sequence")
    return replace(end, notices=[*end.notices, NOT_CALLED]) if ended else end


def doubtful(error: WireError) -> bool:
    """Whether a request's failure may mean that its server, key or model is gone, and not only that it was refused."""
    status = error.details.get("status")
    if isinstance(error, BackendRefused):
        return status is None or status in _LOCKED  # without a status its answer ended before it began
    failed = isinstance(error, (BackendCrashed, BackendUnavailable, DeadlineExceeded, ModelNotFound))
    return failed and status != _BUSY


async def if_there(asking: Awaitable[T], absent: T) -> T:
    """What a page says that not every server with this API has."""
    try:
        return await asking
    except WireError as exc:
        if exc.details.get("status") in _ABSENT:
            return absent
        raise


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # what came too late to matter is nobody's
