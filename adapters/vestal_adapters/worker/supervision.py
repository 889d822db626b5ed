"""A backend that lives in a process of its own: started, missed when it dies, started again, given up, stopped.

What kind of process it is, and how it is spoken to, is for the subclass: `worker.host` has a pipe to an engine,
`server.backend` an HTTP server. Invariants:

- One process at a time: a dead one is reaped before the next is spawned, so two models are never in memory.
- A death is one event. In one callback the backend stops being ready, says `Unavailable`, and everything that ran in
  the process ends with one `BackendCrashed` of its own. Saying it first is what keeps the daemon from dispatching
  the next request into the hole.
- Whatever happens to `start` or `stop`, the process is ended and reaped: by the task, or by the pidfd's callback.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from vestal.backend import Backend, BackendOptions, Loading, Ready, Report, Unavailable
from vestal.errors import BackendCrashed, BackendUnavailable, InternalError, VestalError, WireError
from vestal_adapters.worker.causes import Cause, explain
from vestal_adapters.worker.process import Process, describe_exit
from vestal_adapters.worker.restarts import RestartPolicy

__all__ = ["HEALTH", "KILL_PATIENCE", "Supervised"]

State = Literal["stopped", "loading", "ready", "recovering", "failed", "stopping"]

# `loading` is the first load, which `start` waits for and which may simply fail; `recovering` is between two
# processes, pauses included; `failed` waits for an operator's stop and start.
_NEXT: dict[State, frozenset[State]] = {
    "stopped": frozenset({"loading"}),
    "loading": frozenset({"ready", "stopping", "stopped"}),
    "ready": frozenset({"recovering", "failed", "stopping"}),
    "recovering": frozenset({"recovering", "ready", "failed", "stopping"}),
    "failed": frozenset({"stopping"}),
    "stopping": frozenset({"stopping", "stopped"}),
}
HEALTH: dict[State, Literal["ok", "loading", "unavailable", "stopped"]] = {
    "stopped": "stopped", "loading": "loading", "ready": "ok",
    "recovering": "unavailable", "failed": "unavailable", "stopping": "stopped",
}  # fmt: skip

# An exiting process closes its pipe some instructions before it can be reaped; with many threads and much memory
# or on a busy machine it takes a little longer. Blocking the loop for it, once per death, is what makes a death one
# event.
EXIT_PATIENCE = 0.2
KILL_PATIENCE = 1.0  # from SIGKILL to reaped; only a process stuck in the kernel takes longer
# The first load is bounded by whoever waits for `start`; a later one by what the first has shown to be enough.
RELOAD_FACTOR = 10
RELOAD_LEAST = 60.0


class Supervised(Backend):
    """Subclasses launch a process into `_process`, end it, and say what else there is to it."""

    kind: ClassVar[str] = "worker"
    """What the process is called in messages."""

    causes: ClassVar[tuple[Cause, ...]] = ()
    """What the last lines of the process mean: the first that fits is told, beside how it ended."""

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        self._state: State = "stopped"
        self._reason = "not started"
        self._report: Report = _nobody
        self._restarts = RestartPolicy()
        self._pause: float | None = None
        self._percent = 0.0
        self._process: Process | None = None
        self._died = asyncio.Event()
        self._cause = ""
        self._first_load = 0.0
        self._supervisor: asyncio.Task[None] | None = None

    # --- what is the subclass's -------------------------------------------------------------------------------

    @abstractmethod
    async def _launch(self) -> None:
        """Spawn the process and wait until it serves; raises `VestalError`, leaving no process behind."""

    @abstractmethod
    async def _end(self, deadline: float) -> None:
        """Ask, insist, kill: each within its part of what is left until `deadline`."""

    @abstractmethod
    def _abandon(self, error: Callable[[], WireError]) -> None:
        """End all that runs in the process, each with an error of its own."""

    @abstractmethod
    async def _until_death(self) -> None:
        """Return when `_died` is set; find out a process that is there and does not answer."""

    async def _buried(self) -> None:
        """Return when nothing is left of a process that died."""
        if self._process is not None:
            await self._process.ended()

    # --- start and stop ---------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self._state == "ready"

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
        if self._state != "loading":  # stopped between the process's last word and this one
            raise self._stopped_while_loading()
        self._serve()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"{self.kind} {self.name}")

    def _stopped_while_loading(self) -> BackendUnavailable:
        return BackendUnavailable(f"backend {self.name!r} was stopped while it was loading")

    async def stop(self, timeout: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout
        if self._state == "stopped":
            return
        self._go("stopping", "it was stopped")
        self._abandon(lambda: BackendUnavailable(f"backend {self.name!r} was stopped during the request"))
        if self._supervisor is not None:
            self._supervisor.cancel()
        await self._end(deadline)
        if self._supervisor is not None:
            clock = asyncio.get_running_loop().time
            await asyncio.wait((self._supervisor,), timeout=max(deadline - clock(), 0.1))
            self._supervisor = None
        if self._state == "stopping":  # of two stops at once the other has not been here
            self._go("stopped", "it was stopped")
            self._report = _nobody

    def _serve(self) -> None:
        self._restarts.serving(asyncio.get_running_loop().time())
        self._go("ready", "")

    # --- death and return -------------------------------------------------------------------------------------

    def _diagnosis(self, process: Process, fault: str, doing: str) -> str:
        if not fault and process.collect(EXIT_PATIENCE):
            fault = describe_exit(process.returncode or 0, doing)
        known = explain(self.causes, process.stderr.lines)
        return f"the {self.kind} of backend {self.name!r} {fault or 'closed its pipe'}{known and f' ({known})'}"

    def _crash(self, cause: str) -> BackendCrashed:
        return BackendCrashed(
            cause,
            hint="the request can be sent again when the backend is ready",
            details={"backend": self.name},
        )

    def _down(self, cause: str) -> None:
        """Stop serving; the policy says whether there will be another process."""
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
                await self._buried()
                if self._pause is None:
                    return
                await asyncio.sleep(self._pause)
                await self._restart()
        finally:
            if self._state != "stopping" and self._process is not None:
                # The loop is being closed and nobody called `stop`: there is no later to reap it in.
                self._process.kill()
                self._process.collect(KILL_PATIENCE)

    async def _restart(self) -> None:
        patience = max(RELOAD_LEAST, RELOAD_FACTOR * self._first_load)
        try:
            async with asyncio.timeout(patience):
                await self._launch()
        except TimeoutError:
            self._down(
                f"the {self.kind} of backend {self.name!r} was started again and not loaded within {patience:.0f} s"
            )
        except VestalError as error:
            self._down(str(error))
        except Exception as exc:  # an adapter's hook is broken: said, and tried again like any failure
            self._down(f"backend {self.name!r} could not be restarted: {type(exc).__name__}")
        else:
            self._serve()
            self._tell(Ready(renewed=True))

    def _unready(self) -> BackendUnavailable:
        return BackendUnavailable(
            f"backend {self.name!r} is {self._state}: {self._reason}",
            hint="an operator must restart it" if self._state == "failed" else "try again when it is ready",
            details={"backend": self.name, "state": self._state},
        )

    # --- bookkeeping ------------------------------------------------------------------------------------------

    def _go(self, state: State, reason: str) -> None:
        if state not in _NEXT[self._state]:
            raise InternalError(f"backend {self.name!r} cannot go from {self._state} to {state}")
        self._state, self._reason = state, reason

    def _tell(self, event: Loading | Ready | Unavailable) -> None:
        try:
            self._report(event)
        except Exception as exc:  # the listener's bug must not stop supervision, nor be blamed on the process
            context = {"message": f"report of backend {self.name!r} failed", "exception": exc}
            asyncio.get_running_loop().call_exception_handler(context)

    def __repr__(self) -> str:
        process = "no process" if self._process is None else repr(self._process)
        return f"<{type(self).__name__} {self.name!r} {self._state}, slots={self.capabilities.slots}, {process}>"


def _nobody(event: Loading | Ready | Unavailable) -> None:
    """Nobody listens before `start` and after `stop`."""
