"""The echo backend, in the daemon's own process or in a worker, as `isolation` says.

`EchoBackend` is what the daemon sees; it hands everything to one of two backends that play the same scripts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from vestal.backend import (
    Backend,
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Health,
    Loading,
    Report,
    TextEvent,
    TokenEvent,
    TokenEventV2,
)
from vestal.errors import BackendUnavailable, VestalError, WireError
from vestal_adapters.echo.engine import LOADING_STEPS
from vestal_adapters.echo.options import EchoOptions
from vestal_adapters.echo.script import capabilities_of, count_words, script_of
from vestal_adapters.echo.vectors import embedded
from vestal_adapters.worker.host import WorkerBackend

__all__ = ["EchoBackend"]

BURST = 512  # tokens without a pause between two looks at the event loop: well under a millisecond


class EchoBackend(Backend):
    """Answers with the last user message, one token per word. See `EchoOptions` for what can go wrong with it."""

    Options: ClassVar[type[BackendOptions]] = EchoOptions

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        if not isinstance(options, EchoOptions):
            raise TypeError(f"backend {name!r}: expected EchoOptions, got {type(options).__name__}")
        self.capabilities = capabilities_of(options)
        isolated = options.isolation == "process"
        self._runs_in: Backend = _Worker(name, options) if isolated else _InProcess(name, options)

    @property
    def ready(self) -> bool:
        return self._runs_in.ready

    async def start(self, report: Report) -> None:
        await self._runs_in.start(report)

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        return self._runs_in.generate(request)

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        return self._runs_in.generate_v2(request)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        return await self._runs_in.embed(request)

    async def count(self, request: CountRequest) -> int:
        return await self._runs_in.count(request)

    async def health(self) -> Health:
        return await self._runs_in.health()

    async def stop(self, timeout: float) -> None:
        await self._runs_in.stop(timeout)

    def __repr__(self) -> str:
        return f"<EchoBackend {self._runs_in!r}>"


class _Worker(WorkerBackend):
    Options = EchoOptions
    engine = "vestal_adapters.echo.engine:EchoEngine"


class _InProcess(Backend):
    Options = EchoOptions

    def __init__(self, name: str, options: EchoOptions) -> None:
        super().__init__(name, options)
        self._options = options
        self._fault = options.requested_fault
        self._delay = options.token_seconds
        self._state: str = "stopped"
        self._stopping = asyncio.Event()
        self.capabilities = capabilities_of(options)

    @property
    def ready(self) -> bool:
        return self._state == "ready"

    async def start(self, report: Report) -> None:
        self._state, self._stopping = "loading", asyncio.Event()
        try:
            await self._load(report)
        except BaseException:
            self._state = "stopped"
            raise
        self._state = "ready"

    async def _load(self, report: Report) -> None:
        for step in range(LOADING_STEPS if self._options.ready_seconds else 0):
            report(Loading(100 * step / LOADING_STEPS, "waiting, as ready_delay says"))
            try:
                await asyncio.wait_for(self._stopping.wait(), self._options.ready_seconds / LOADING_STEPS)
            except TimeoutError:
                continue
            raise BackendUnavailable(f"backend {self.name!r} was stopped while it was loading")
        if self._fault.kind == "start":
            raise VestalError("the echo backend was asked to fail: fault = 'start'", hint="leave `fault` out")

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        return self._play(request)

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        return self._play(request) if self._options.v2 else super().generate_v2(request)

    async def _play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TextEvent | EndEvent]:
        self._check_ready()
        script = script_of(request, self._fault)
        if self._delay:
            for piece in script.pieces:
                await asyncio.sleep(self._delay)
                yield TextEvent(piece)
        else:
            for start in range(0, len(script.pieces), BURST):
                if start:
                    await asyncio.sleep(0)
                for piece in script.pieces[start : start + BURST]:
                    yield TextEvent(piece)
        if isinstance(script.end, WireError):
            raise script.end
        if script.end is None:
            await _for_ever()
        else:
            yield script.end

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        self._check_ready()
        return embedded(request) if self._options.embed else await super().embed(request)

    async def count(self, request: CountRequest) -> int:
        self._check_ready()
        return count_words(request)

    def _check_ready(self) -> None:
        if self._state != "ready":
            raise BackendUnavailable(f"backend {self.name!r} is {self._state}", details={"backend": self.name})

    async def health(self) -> Health:
        if self._state == "ready":
            return Health(state="ok")
        return Health(state="loading" if self._state == "loading" else "stopped")

    async def stop(self, timeout: float) -> None:
        self._state = "stopped"
        self._stopping.set()
        if self._fault.kind == "ignore_stop":
            await _for_ever()


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
