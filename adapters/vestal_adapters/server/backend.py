"""The `server` adapter: an inference server that the daemon runs, and speaks to as the `openai` adapter does.

The server's life is that of a worker (`worker.supervision`), and its requests are an `OpenAIBackend`'s, one for each
start. That one's view of whether the server is there is not told on: if it cannot be reached while its process lives,
the process is of no use, and is replaced.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import ClassVar, cast

from msgspec.structs import replace

from vestal.backend import (
    BackendOptions,
    EmbedRequest,
    EmbedResult,
    GenerateRequest,
    GenerateRequestV2,
    Health,
    Loading,
    Ready,
    TokenEvent,
    TokenEventV2,
    Unavailable,
)
from vestal.durations import parse_duration
from vestal.errors import BackendCrashed, BackendRefused, BackendUnavailable, VestalError, WireError
from vestal.findings import Finding, failed, ok
from vestal.models.names import to_path
from vestal.models.store import Located
from vestal.values import Capabilities
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions
from vestal_adapters.remote.presence import PROBE_TIMEOUT
from vestal_adapters.server.arguments import shown_command
from vestal_adapters.server.command import found_binary, found_model, free_port, plan_of
from vestal_adapters.server.home import Home
from vestal_adapters.server.options import ServerOptions
from vestal_adapters.server.output import Output, RotatedLog
from vestal_adapters.server.port import strangers
from vestal_adapters.server.process import ServerProcess
from vestal_adapters.server.running import HEALTH_PAGE, Running
from vestal_adapters.worker.causes import without_places
from vestal_adapters.worker.heartbeat import until_silent
from vestal_adapters.worker.supervision import EXIT_PATIENCE, HEALTH, KILL_PATIENCE, Supervised

__all__ = ["ServerBackend"]

PING_PATIENCE = 0.5  # seconds that a status waits for a server's answer
# A process that ends frees its model after it has closed its connections: a second for every few gigabytes.
LAST_BREATH = 5.0
LOOK_AGAIN = 0.1  # seconds between two looks for a server that is being started


class _Inner(OpenAIBackend):
    """Asks for us. Whether the server is still there is for its heartbeat to find out, which knows when it is busy."""

    doubts = False


class ServerBackend(Supervised):
    """One model in one server of our own."""

    Options: ClassVar[type[BackendOptions]] = ServerOptions
    kind = "server"

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        if not isinstance(options, ServerOptions):
            raise TypeError(f"backend {name!r}: expected ServerOptions, got {type(options).__name__}")
        self.options = options
        self.causes = options.known.causes  # type: ignore[misc]  # one table per profile, not per class
        self._log: RotatedLog | None = None
        self._running: Running | None = None
        self._waits_for = ""

    @classmethod
    def examine(cls, options: BackendOptions, *, running: bool, thorough: bool) -> list[Finding]:
        """The program and the model."""
        chosen = cast("ServerOptions", options)
        findings: list[Finding] = []
        for what, find in (("program", found_binary), ("model", found_model)):
            try:
                found = find(chosen)
            except VestalError as exc:
                findings.append(failed(what, exc))
            else:
                if found is not None:
                    findings.append(ok(what, str(found.path if isinstance(found, Located) else found)))
        return findings

    # --- serving ----------------------------------------------------------------------------------------------

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        return cast("AsyncIterator[TokenEvent]", self._stream(lambda inner: inner.generate(request)))

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        return self._stream(lambda inner: inner.generate_v2(request))

    async def _stream(
        self, ask: Callable[[OpenAIBackend], AsyncIterator[TokenEvent] | AsyncIterator[TokenEventV2]]
    ) -> AsyncIterator[TokenEventV2]:
        async with (
            self._asking() as (running, inner),
            aclosing(cast("AsyncGenerator[TokenEventV2]", ask(inner))) as events,
        ):
            async for event in events:
                running.heard()
                yield event

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        async with self._asking() as (running, inner):
            vectors = await inner.embed(request)
            running.heard()
            return vectors

    @asynccontextmanager
    async def _asking(self) -> AsyncGenerator[tuple[Running, OpenAIBackend]]:
        running, inner = self._serving()
        await self._check_alive(running, parse_duration(inner.remote.first_byte_timeout))
        running.requests += 1
        running.asked()
        try:
            yield running, inner
        except WireError as exc:
            if "status" in exc.details:
                running.heard()
            raise await self._meant(running, exc) from None
        finally:
            running.requests -= 1

    async def _check_alive(self, running: Running, longest_prompt: float) -> None:
        """The heartbeat of a server that answers nothing while it is busy, and always is: between two requests.

        While others run it may be silent as long as over any prompt.
        """
        patience = self.options.heartbeat_seconds
        silence = patience if running.requests == 0 else max(patience, longest_prompt)
        if self.options.known.answers_while_busy or running.silent < silence:
            return
        if not await running.answers_in_all(patience) and running is self._running:
            self._lost(f"gave no answer for {patience:g} s")
        if running.why is not None:
            raise running.why()

    def _serving(self) -> tuple[Running, OpenAIBackend]:
        running = self._running
        if self._state != "ready" or running is None or running.inner is None:
            raise self._unready()
        return running, running.inner

    async def _meant(self, running: Running, error: WireError) -> WireError:
        """What a request's error is when the server's end is behind it: its connections end a moment before it does."""
        # Refused is among them: an answer that closing its connection ends looks whole, and empty.
        cut = isinstance(error, (BackendCrashed, BackendRefused, BackendUnavailable)) and "status" not in error.details
        if cut and running.why is None:
            broke_off = isinstance(error, BackendCrashed) and error.retryable
            await running.process.wait(LAST_BREATH if broke_off else EXIT_PATIENCE)
        return error if running.why is None else running.why()

    async def health(self) -> Health:
        running = self._running if self.ready else None
        process = self._process
        return Health(
            state=HEALTH[self._state],
            detail=self._reason if running is None else await self._detail(running),
            pid=None if process is None or process.returncode is not None else process.pid,
            restarts=self._restarts.deaths,
            sandbox=() if running is None else running.confinement.layers,
            unsandboxed=() if running is None else running.confinement.missing,
        )

    async def _detail(self, running: Running) -> str:
        said = [running.command]
        if running.requests == 0 or self.options.known.answers_while_busy:
            answered = await running.ping(PING_PATIENCE)
            said.append("it did not answer" if answered is None else f"it answered in {answered * 1000:.1f} ms")
        if self.options.integrity == "path" and self.options.model is not None:
            said.append('its model file is not verified: integrity = "path"')
        if self._log is not None and self._log.fault:
            said.append(self._log.fault)
        return "; ".join(said)

    # --- start and stop ---------------------------------------------------------------------------------------

    async def _launch(self) -> None:
        self._waits_for = ""
        options, model = self.options, found_model(self.options)
        binary = found_binary(options)
        if options.log_file is not None and self._log is None:
            self._log = RotatedLog(to_path(options.log_file))
        home, key = Home(), secrets.token_urlsafe(32)
        at = home.socket if options.on_socket else free_port()
        try:
            plan = plan_of(self.name, options, binary, model, home.path, at, key)
            process = ServerProcess(Output(self._log), self._ended)
        except OSError as exc:
            home.close()
            raise VestalError(f"backend {self.name!r} could not start a process: {exc.strerror}") from exc
        except BaseException:  # whatever it was, the directory of a process that is not there goes
            home.close()
            raise
        self._process = process
        running = self._running = Running(home, process, shown_command([binary.name, *plan.arguments]))
        try:
            async with asyncio.timeout(options.ready_seconds):
                confinement = await process.begin(plan)
                if confinement is None:
                    await process.wait(EXIT_PATIENCE)
                    raise self._stillborn(process)
                running.confinement = confinement
                said = await self._until_served(running, at, key)
                if process.returncode is not None:  # it served, and died
                    raise self._stillborn(process)
                self.capabilities = said if model is None else replace(said, model=model.name)
        except TimeoutError:
            await self._bury(running)
            raise self._late(running) from None
        except BaseException:  # a cancelled start too leaves no process behind
            await self._bury(running)
            raise

    async def _until_served(self, running: Running, at: Path | int, key: str) -> Capabilities:
        """Ask until it serves, or has ended. Raises `VestalError`."""
        with running.home.holding(key) as file:
            options = self._inner_options(at, file)
            running.inner = inner = _Inner(self.name, options)
            running.asking = Upstream(self.name, options)
            starting = asyncio.create_task(self._come_up(running, inner, running.asking, at))
            ending = asyncio.create_task(running.process.ended())
            try:
                await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
                if running.process.returncode is not None:
                    raise self._stillborn(running.process)
                await starting
            finally:
                starting.cancel()
                ending.cancel()
                await asyncio.wait((starting, ending))
                if not starting.cancelled():
                    starting.exception()  # what came too late to matter is nobody's
        return inner.capabilities

    async def _come_up(self, running: Running, inner: OpenAIBackend, asking: Upstream, at: Path | int) -> None:
        """Look for it often, as it is near and somebody waits; then have it probed as any server is."""
        while (why := await self._missing(asking, at)) is not None:
            if why != self._waits_for:
                self._heard(running, Loading(0.0, why))
            await asyncio.sleep(LOOK_AGAIN)
        await inner.start(lambda event: self._heard(running, event))

    async def _missing(self, asking: Upstream, at: Path | int) -> str | None:
        """Why it is not there yet; a page that it does not have is an answer too."""
        # The table is as long as the machine has connections.
        if isinstance(at, int) and (why := await asyncio.to_thread(strangers, at)) is not None:
            return why  # the question has the key in it
        try:
            await asking.alive(HEALTH_PAGE, timeout=PROBE_TIMEOUT)
        except WireError as exc:
            return exc.message if exc.retryable else None
        return None

    def _inner_options(self, at: Path | int, key_file: Path) -> OpenAIOptions:
        options = self.options
        # One that answers while it is busy has a heartbeat over each prompt; of the others silence alone can tell.
        patience = "30m" if options.known.answers_while_busy else "5m"
        return OpenAIOptions(
            preset=options.preset or "llamacpp",
            model=None if options.profile == "custom" else self.name,
            base_url="http://127.0.0.1/v1" if isinstance(at, Path) else f"http://127.0.0.1:{at}/v1",
            unix_socket=str(at) if isinstance(at, Path) else None,
            api_key_file=str(key_file),
            kind=options.kind,
            embedding_batch=options.embedding_batch,
            slots=options.running,
            first_byte_timeout=patience,
            context_length=options.context_length,
            tools=options.tools,
            vision=options.vision,
            thinking=options.thinking,
        )

    def _stillborn(self, process: ServerProcess) -> VestalError:
        last = process.stderr.lines[-1:]  # nobody's text is in a server that has not served
        hint = f"its last words: {shown_command([without_places(last[0])])}" if last else None
        return VestalError(self._diagnosis(process, "", "while loading the model"), hint=hint)

    def _late(self, running: Running) -> VestalError:
        return VestalError(
            f"the server of backend {self.name!r} did not serve within {self.options.ready_seconds:g} s of its start"
            f"{self._waits_for and f': {self._waits_for}'}",
            hint="allow more with ready_timeout, or see what it prints with log_file",
        )

    async def _end(self, deadline: float) -> None:
        """Close its connections, then ask twice and kill: each within its part of what is left until `deadline`."""
        running = self._running
        if running is None:
            return
        clock = asyncio.get_running_loop().time
        process = running.process
        if running.inner is not None:
            await running.inner.stop(max(deadline - clock(), 0.1))
        for ask in (process.interrupt, process.terminate):
            if process.returncode is None and deadline > clock():
                ask()
                await process.wait((deadline - clock()) * 0.5)
        process.kill()
        await process.wait(max(deadline - clock(), 0.1))
        await running.let_go()
        if self._log is not None:
            self._log.close()
            self._log = None

    async def _bury(self, running: Running) -> None:
        running.process.kill()
        await running.process.wait(KILL_PATIENCE)
        await running.let_go()

    # --- what the server does by itself -----------------------------------------------------------------------

    def _heard(self, running: Running, event: Loading | Ready | Unavailable) -> None:
        """What the inner backend reports."""
        if isinstance(event, Loading):
            self._waits_for = event.detail
            if self._state == "loading":
                self._tell(event)
        elif isinstance(event, Unavailable) and running is self._running:
            running.process.collect(EXIT_PATIENCE)  # it may be about to end, and is then told of in its own words
            self._lost("runs, and cannot be reached")

    def _ended(self) -> None:
        """The process was reaped."""
        if self._state == "ready" and self._process is not None:
            self._fall(self._diagnosis(self._process, "", ""))

    def _lost(self, fault: str) -> None:
        """The process is of no use any more."""
        if self._state == "ready" and self._process is not None:
            self._fall(self._diagnosis(self._process, fault, ""))
            self._process.kill()  # no SIGINT before: it has nothing to save, and a stopped one would not hear it

    def _fall(self, cause: str) -> None:
        self._down(cause)
        self._abandon(lambda: self._crash(cause))

    def _abandon(self, error: Callable[[], WireError]) -> None:
        if self._running is not None and self._running.why is None:
            self._running.why = error

    async def _buried(self) -> None:
        await super()._buried()
        if self._running is not None:
            await self._running.let_go()

    async def _until_death(self) -> None:
        patience = self.options.heartbeat_seconds
        if await until_silent(self._died, patience, self._answers):
            self._lost(f"gave no answer for {patience:g} s")

    async def _answers(self, timeout: float) -> bool:
        running = self._running
        if running is None or self._state != "ready":
            return True  # it is being ended, or has been: nothing to ask
        if running.requests and not self.options.known.answers_while_busy:
            return True  # its requests have deadlines of their own, and the next one asks
        return await running.ping(timeout) is not None or self._state != "ready"
