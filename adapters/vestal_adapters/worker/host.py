"""The daemon's side of a worker: a `Backend` whose engine runs in a supervised child process.

An adapter names its engine and its options; everything else is here. Invariants:

- One worker at a time: a dead one is reaped before the next is spawned, so two models are never in memory.
- A worker's death is one event. In one callback the backend stops being ready, says `Unavailable`, and every job
  in the worker ends with one `BackendCrashed` of its own. Saying it first is what keeps the daemon from
  dispatching the next request into the hole.
- Whatever happens to `start` or `stop`, the process is ended and reaped: by the task, or by the pidfd's callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar, Literal, cast

from vestal.backend import (
    Backend,
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EmbedResult,
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
from vestal.errors import BackendCrashed, BackendUnavailable, InternalError, VestalError
from vestal.findings import Finding
from vestal_adapters.worker.causes import Cause, explain, without_places
from vestal_adapters.worker.channel import Channel
from vestal_adapters.worker.heartbeat import until_silent
from vestal_adapters.worker.options import WorkerOptions
from vestal_adapters.worker.process import Process, describe_exit
from vestal_adapters.worker.restarts import RestartPolicy

__all__ = ["WorkerBackend"]

CHILD_MODULE = "vestal_adapters.worker.child"

State = Literal["stopped", "loading", "ready", "recovering", "failed", "stopping"]

# `loading` is the first load, which `start` waits for and which may simply fail; `recovering` is between two
# workers, pauses included; `failed` waits for an operator's stop and start.
_NEXT: dict[State, frozenset[State]] = {
    "stopped": frozenset({"loading"}),
    "loading": frozenset({"ready", "stopping", "stopped"}),
    "ready": frozenset({"recovering", "failed", "stopping"}),
    "recovering": frozenset({"recovering", "ready", "failed", "stopping"}),
    "failed": frozenset({"stopping"}),
    "stopping": frozenset({"stopping", "stopped"}),
}
_HEALTH: dict[State, Literal["ok", "loading", "unavailable", "stopped"]] = {
    "stopped": "stopped", "loading": "loading", "ready": "ok",
    "recovering": "unavailable", "failed": "unavailable", "stopping": "stopped",
}  # fmt: skip

# An exiting process closes its pipe some instructions before it can be reaped; with many threads and much memory
# or on a busy machine it takes a little longer. Blocking the loop for it, once per death, is what makes a death one
# event.
EXIT_PATIENCE = 0.2
KILL_PATIENCE = 1.0  # from SIGKILL to reaped; only a process stuck in the kernel takes longer
PING_PATIENCE = 0.2  # a step should be shorter
HANDSHAKE_PATIENCE = 30.0  # from the spawn to the first word: starting Python, on a machine that swaps
# The first load is bounded by whoever waits for `start`; a later one by what the first has shown to be enough.
RELOAD_FACTOR = 10
RELOAD_LEAST = 60.0


class WorkerBackend(Backend):
    """A backend in a worker process. Subclasses set `engine` and `Options`."""

    engine: str
    """"module:Class" of a `vestal_adapters.worker.engine.Engine`; imported in the child only."""

    causes: ClassVar[tuple[Cause, ...]] = ()
    """What the engine's last lines mean: the first that fits is told, beside how the process ended."""

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        self.options = options
        self._rules = options if isinstance(options, WorkerOptions) else WorkerOptions()
        self._state: State = "stopped"
        self._reason = "not started"
        self._report: Report = _nobody
        self._restarts = RestartPolicy()
        self._pause: float | None = None
        self._percent = 0.0
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._died = asyncio.Event()
        self._spoke = asyncio.Event()
        self._cause = ""
        self._first_load = 0.0
        self._supervisor: asyncio.Task[None] | None = None

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

    @property
    def ready(self) -> bool:
        return self._state == "ready"

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
            raise BackendUnavailable(
                f"backend {self.name!r} is {self._state}: {self._reason}",
                hint="an operator must restart it" if self._state == "failed" else "try again when it is ready",
                details={"backend": self.name, "state": self._state},
            )
        return self._channel

    async def health(self) -> Health:
        answered = await self._channel.ping(PING_PATIENCE) if self.ready and self._channel is not None else None
        running = self._process if self._process is not None and self._process.returncode is None else None
        return Health(
            state=_HEALTH[self._state],
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

    async def start(self, report: Report) -> None:
        self._go("loading", "its model is being loaded")
        self._report, self._restarts, self._died = report, RestartPolicy(), asyncio.Event()
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            await self._launch()
        except BaseException as exc:
            if self._state == "loading":
                self._go("stopped", "it could not be started")
            elif isinstance(exc, VestalError):
                raise self._stopped_while_loading() from None
            raise
        self._first_load = clock() - begun
        if self._state != "loading":  # stopped between the worker's last word and this one
            raise self._stopped_while_loading()
        self._serve()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"worker {self.name}")

    def _stopped_while_loading(self) -> BackendUnavailable:
        return BackendUnavailable(f"backend {self.name!r} was stopped while it was loading")

    async def stop(self, timeout: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout
        if self._state == "stopped":
            return
        self._go("stopping", "it was stopped")
        if self._channel is not None:
            self._channel.fail(lambda: BackendUnavailable(f"backend {self.name!r} was stopped during the request"))
        if self._supervisor is not None:
            self._supervisor.cancel()
        await self._end_worker(deadline)
        if self._supervisor is not None:
            clock = asyncio.get_running_loop().time
            await asyncio.wait((self._supervisor,), timeout=max(deadline - clock(), 0.1))
            self._supervisor = None
        if self._state == "stopping":  # of two stops at once the other has not been here
            self._go("stopped", "it was stopped")
            self._report = _nobody

    async def _end_worker(self, deadline: float) -> None:
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
            self.capabilities = await channel.loaded
            if self._cause:  # it said it was loaded, and died
                raise VestalError(self._cause)
        except BaseException:
            process.kill()
            channel.close()
            await process.wait(KILL_PATIENCE)
            await channel.closed()
            raise

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

    def _serve(self) -> None:
        self._restarts.serving(asyncio.get_running_loop().time())
        self._go("ready", "")

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
            channel.fail(lambda: self._crash(cause))

    def _diagnosis(self, process: Process, fault: str, doing: str) -> str:
        if not fault and process.collect(EXIT_PATIENCE):
            fault = describe_exit(process.returncode or 0, doing)
        known = explain(self.causes, process.stderr.lines)
        return f"the worker of backend {self.name!r} {fault or 'closed its pipe'}{known and f' ({known})'}"

    def _crash(self, cause: str) -> BackendCrashed:
        return BackendCrashed(
            cause,
            hint="the request can be sent again when the backend is ready",
            details={"backend": self.name},
        )

    def _down(self, cause: str) -> None:
        """Stop serving; the policy says whether there will be another worker."""
        policy, self._percent = self._restarts, 0.0
        self._pause = policy.died(asyncio.get_running_loop().time())
        if self._pause is None:
            cause += f"; given up after {policy.LIMIT} restarts in {policy.WINDOW:g} s, restart the backend by hand"
        self._go("recovering" if self._pause is not None else "failed", cause)
        self._tell(Unavailable(cause, recovering=self._pause is not None))
        self._died.set()

    async def _supervise(self) -> None:
        try:
            while True:
                await self._until_death()
                self._died.clear()
                if self._process is not None and self._channel is not None:
                    await self._process.ended()
                    await self._channel.closed()
                if self._pause is None:
                    return
                await asyncio.sleep(self._pause)
                await self._restart()
        finally:
            if self._state != "stopping" and self._process is not None:
                # The loop is being closed and nobody called `stop`: there is no later to reap it in.
                self._process.kill()
                self._process.collect(KILL_PATIENCE)

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
        return await channel.ping(timeout) is not None or self._state != "ready"

    async def _restart(self) -> None:
        patience = max(RELOAD_LEAST, RELOAD_FACTOR * self._first_load)
        try:
            async with asyncio.timeout(patience):
                await self._launch()
        except TimeoutError:
            self._down(f"the worker of backend {self.name!r} was started again and not loaded within {patience:.0f} s")
        except VestalError as error:
            self._down(str(error))
        except Exception as exc:  # an adapter's hook is broken: said, and tried again like any failure
            self._down(f"backend {self.name!r} could not be restarted: {type(exc).__name__}")
        else:
            self._serve()
            self._tell(Ready())

    # --- bookkeeping ------------------------------------------------------------------------------------------

    def _go(self, state: State, reason: str) -> None:
        if state not in _NEXT[self._state]:
            raise InternalError(f"backend {self.name!r} cannot go from {self._state} to {state}")
        self._state, self._reason = state, reason

    def _tell(self, event: Loading | Ready | Unavailable) -> None:
        try:
            self._report(event)
        except Exception as exc:  # the listener's bug must not stop supervision, nor be blamed on the worker
            context = {"message": f"report of backend {self.name!r} failed", "exception": exc}
            asyncio.get_running_loop().call_exception_handler(context)

    def __repr__(self) -> str:
        process = "no process" if self._process is None else repr(self._process)
        return f"<{type(self).__name__} {self.name!r} {self._state}, slots={self.capabilities.slots}, {process}>"


def _nobody(event: Loading | Ready | Unavailable) -> None:
    """Nobody listens before `start` and after `stop`."""
