"""The daemon's side of a worker: a `Backend` whose engine runs in a supervised child process, behind a pipe.

An adapter names its engine and its options; the pipe is here, and the process's life in `supervision`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

from msgspec import structs

from vestal.backend import (
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EmbedResult,
    GenerateRequest,
    GenerateRequestV2,
    Health,
    Loading,
    TokenEvent,
    TokenEventV2,
)
from vestal.errors import VestalError, WireError
from vestal.findings import Finding
from vestal.values import Capabilities
from vestal_adapters.worker.causes import without_places
from vestal_adapters.worker.channel import Channel
from vestal_adapters.worker.heartbeat import until_silent
from vestal_adapters.worker.options import WorkerOptions
from vestal_adapters.worker.process import Process
from vestal_adapters.worker.supervision import HEALTH, KILL_PATIENCE, Supervised

__all__ = ["WorkerBackend"]

CHILD_MODULE = "vestal_adapters.worker.child"

PING_PATIENCE = 0.2  # a step should be shorter
HANDSHAKE_PATIENCE = 30.0  # from the spawn to the first word: starting Python, on a machine that swaps


class WorkerBackend(Supervised):
    """A backend in a worker process. Subclasses set `engine` and `Options`."""

    engine: str
    """"module:Class" of a `vestal_adapters.worker.engine.Engine`; imported in the child only."""

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        self.options = options
        self._rules = options if isinstance(options, WorkerOptions) else WorkerOptions()
        self._channel: Channel | None = None
        self._spoke = asyncio.Event()

    @classmethod
    def examine(cls, options: BackendOptions, *, running: bool, thorough: bool) -> list[Finding]:
        """The sandbox."""
        from vestal_adapters.worker.examination import examine_sandbox

        return [examine_sandbox(options if isinstance(options, WorkerOptions) else WorkerOptions())]

    def engine_options(self) -> BackendOptions:
        """What the child's engine is made from; asked for at every start of a worker. May raise `VestalError`."""
        return self.options

    def environment(self) -> dict[str, str]:
        """Environment variables of the child, beside the few it inherits."""
        return {}

    # --- serving ----------------------------------------------------------------------------------------------

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        return cast("AsyncIterator[TokenEvent]", self._run(request))  # the stream lets v1 events through only

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        if self.ready and not self.capabilities.v2:
            return super().generate_v2(request)
        return self._run(request)

    async def _run(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        channel = self._serving()
        stream = channel.submit(request)
        events = stream.events
        try:
            while True:
                while events:
                    yield events.popleft()
                if stream.ended:
                    break
                await stream.arrival()
        finally:
            channel.release(stream)
        if stream.error is not None:
            raise stream.error

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        channel = self._serving()
        return await (channel.embed(request) if self.capabilities.embed else super().embed(request))

    async def count(self, request: CountRequest) -> int:
        channel = self._serving()
        return await (channel.count(request) if self.capabilities.count else super().count(request))

    def _serving(self) -> Channel:
        if self._state != "ready" or self._channel is None:
            raise self._unready()
        return self._channel

    async def health(self) -> Health:
        answered = await self._channel.ping(PING_PATIENCE) if self.ready and self._channel is not None else None
        running = self._process if self._process is not None and self._process.returncode is None else None
        return Health(
            state=HEALTH[self._state],
            detail=self._detail(answered),
            pid=None if running is None else running.pid,
            restarts=self._restarts.deaths,
            sandbox=self._channel.confinement.layers if self.ready and self._channel is not None else (),
            unsandboxed=self._channel.confinement.missing if self.ready and self._channel is not None else (),
        )

    def _detail(self, answered: float | None) -> str:
        if not self.ready:
            loading = f", {self._percent:.0f} % loaded" if self._percent else ""
            return f"{self._reason}{loading}"
        if answered is None:
            return "busy: its worker did not answer between two steps"
        return f"its worker answered in {answered * 1000:.1f} ms"

    # --- start and stop ---------------------------------------------------------------------------------------

    async def _end(self, deadline: float) -> None:
        """Ask, insist, kill: each within its part of what is left until `deadline`."""
        process, channel = self._process, self._channel
        if process is None or channel is None:
            return
        clock = asyncio.get_running_loop().time
        if channel.loaded.done() and deadline > clock():  # while loading it does not listen
            channel.ask_to_stop()
            await process.wait((deadline - clock()) * 0.6)
        if process.returncode is None and deadline > clock():
            process.terminate()
            await process.wait((deadline - clock()) * 0.5)
        process.kill()
        await process.wait(max(deadline - clock(), 0.1))
        channel.close()
        await channel.closed()

    async def _launch(self) -> None:
        """Spawn a worker and load its model; raises `VestalError`, leaving no process behind."""
        self._percent, self._cause, self._spoke = 0.0, "", asyncio.Event()
        options = self.engine_options()
        try:
            process = Process([CHILD_MODULE], self.environment())
        except OSError as exc:
            raise VestalError(f"backend {self.name!r} could not start a worker process: {exc.strerror}") from exc
        channel = Channel(self._on_progress, self._on_lost)
        self._process, self._channel = process, channel
        try:
            await channel.connect(process.channel)
            if not channel.loaded.done():  # else it has died already, and there is its cause
                channel.configure(self.engine, options, self._rules.sandbox, self._rules.memory_limit)
            await self._handshake(channel)
            self.capabilities = self._judged(await channel.loaded, options)
            if self._cause:  # it said it was loaded, and died
                raise VestalError(self._cause)
        except BaseException:
            process.kill()
            channel.close()
            await process.wait(KILL_PATIENCE)
            await channel.closed()
            raise

    def _judged(self, claimed: Capabilities, options: BackendOptions) -> Capabilities:
        """Requests go where their model is, so whose they are is not the worker's to say, where this side knows it."""
        meant = getattr(options, "model", claimed.model)
        if not claimed.model:
            return structs.replace(claimed, model=meant)
        if claimed.model != meant:
            raise VestalError(
                f"the worker of backend {self.name!r} says that it serves {claimed.model[:64]!r}, and was to serve"
                f" {meant!r}",
                hint="its model's file has taken it over, or there is a bug in its engine",
            )
        return claimed

    async def _handshake(self, channel: Channel) -> None:
        """Wait for the worker's first word, or its end."""
        spoke = asyncio.create_task(self._spoke.wait())
        try:
            await asyncio.wait((spoke, channel.loaded), timeout=HANDSHAKE_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            spoke.cancel()
        if not self._spoke.is_set() and not channel.loaded.done():
            raise VestalError(
                f"the worker of backend {self.name!r} said nothing for {HANDSHAKE_PATIENCE:g} s after it was started",
                hint="the machine is overloaded, or something holds the process: see what it waits for",
            )

    # --- what the worker does by itself -----------------------------------------------------------------------

    def _on_progress(self, percent: float, detail: str) -> None:
        self._spoke.set()
        self._percent = max(self._percent, percent)
        if self._state == "loading" and (percent or detail):  # the very first says no more than that it is there
            self._tell(Loading(self._percent, detail))

    def _on_lost(self, fault: str) -> None:
        """The pipe is gone: the worker died, or said what it must not say."""
        process, channel = self._process, self._channel
        if process is None or channel is None:
            return
        loading = not channel.loaded.done()
        self._cause = cause = self._diagnosis(process, fault, "while loading the model" if loading else "")
        process.kill()
        if loading:
            last = process.stderr.lines[-1:]  # nobody's text is in a worker that has not loaded
            hint = f"its last words: {without_places(last[0])}" if last else None
            channel.loaded.set_exception(VestalError(cause, hint=hint))
        elif self._state == "ready":
            self._down(cause)
            self._abandon(lambda: self._crash(cause))

    def _abandon(self, error: Callable[[], WireError]) -> None:
        if self._channel is not None:
            self._channel.fail(error)

    async def _buried(self) -> None:
        await super()._buried()
        if self._channel is not None:
            await self._channel.closed()

    async def _until_death(self) -> None:
        channel, patience = self._channel, self._rules.heartbeat_seconds
        if await until_silent(self._died, patience, self._answers) and channel is not None:
            # No SIGTERM before: it has nothing to save, and a stopped process would not hear it.
            self._on_lost(f"gave no answer for {patience:g} s; if its steps take that long, raise `heartbeat`")
            channel.close()

    async def _answers(self, timeout: float) -> bool:
        channel = self._channel
        if channel is None or self._state != "ready":
            return True  # it is being ended, or has been: nothing to ask
        # A worker that has much to read first comes to the question late; as long as it says anything, it is alive.
        left = timeout
        while await channel.ping(left) is None and self._state == "ready":
            left = channel.heard + timeout - time.monotonic()
            if left <= 0:
                return False
        return True
