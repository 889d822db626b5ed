"""A backend whose engine is a server elsewhere: ready means that the server was asked, and serves the model.

`start` asks until it is so, as long as asking again can help: a server that still loads is waited for, a wrong key
is not. Later it is asked again by `health`, and after a request found nobody there; once lost it is asked with
growing pauses until it is back, and the daemon is told both times. What it can do is what it said at the start.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar, TypeVar

from vestal.backend import (
    Backend,
    BackendOptions,
    GenerateRequest,
    GenerateRequestV2,
    Health,
    Loading,
    Ready,
    Report,
    TokenEvent,
    TokenEventV2,
    Unavailable,
)
from vestal.errors import BackendUnavailable, Unsupported, VestalError, WireError
from vestal.values import Capabilities
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.key import Key, as_bearer
from vestal_adapters.remote.options import RemoteOptions
from vestal_adapters.remote.sse import Event
from vestal_adapters.remote.streamed import StreamedAnswer

__all__ = ["PROBE_TIMEOUT", "RemoteBackend", "if_there"]

T = TypeVar("T")

PROBE_TIMEOUT = 5.0  # seconds for each question of a probe: a status waits for it
_FRESH = 2.0  # seconds that a probe's answer is good for: many may ask for the status
_ABSENT = (404, 405, 501)  # a page that this server does not have
_PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)  # between two probes of a server that is away; the last stays


class RemoteBackend(Backend):
    """Subclasses say how to probe, and what to ask."""

    Options: ClassVar[type[BackendOptions]] = RemoteOptions

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
        self._probing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._returning: asyncio.Task[None] | None = None

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
        returning, self._returning = self._returning, None
        if returning is not None:
            await _end(returning)
        if upstream is not None:
            await upstream.close()

    # --- is it still there ------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Asks the server, unless it was asked just now."""
        upstream = self._upstream
        if self._state == "ready" and upstream is not None:
            async with self._probing:
                if time.monotonic() - self._probed_at > _FRESH:
                    await self._look(upstream)
        state: Any = {"ready": "ok"}.get(self._state, self._state)
        return Health(state=state, detail=self._detail, restarts=self._losses)

    async def _look(self, upstream: Upstream) -> None:
        """Probe once; a server that does not serve is lost."""
        if (fault := await self._fault(upstream)) is None:
            self._probed_at = time.monotonic()
        else:
            self._lost(fault)

    async def _fault(self, upstream: Upstream) -> str | None:
        """Why it does not serve now, `None` if it does. Takes `PROBE_TIMEOUT` at most."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self.probe(upstream)
        except TimeoutError:
            return f"the server of backend {self.name!r} did not answer within {PROBE_TIMEOUT:g} s"
        except Exception as exc:  # health never raises, whatever a server makes of a probe
            return exc.message if isinstance(exc, VestalError) else type(exc).__name__
        return None

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
            if (fault := await self._fault(upstream)) is not None:
                self._detail = fault
                continue
            self._state, self._detail, self._probed_at = "ready", "", time.monotonic()
            report(Ready())

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[Upstream]:
        """The server, for one request. If nobody is there any more, the daemon hears of it."""
        upstream = self._upstream
        if self._state != "ready" or upstream is None:
            raise BackendUnavailable(
                f"backend {self.name!r} is {self._state}{': ' * bool(self._detail)}{self._detail}",
                details={"backend": self.name},
            )
        try:
            yield upstream
        except BackendUnavailable as exc:
            if exc.details.get("unreachable"):
                self._lost(exc.message)
            raise

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
            async with aclosing(pieces):
                async for piece in pieces:
                    for event in answer.feed(piece.data):
                        yield event
                    if answer.ended:
                        return
            raise answer.cut_off()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._state}, slots={self.capabilities.slots}>"


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
