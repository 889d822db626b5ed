"""The daemon's life, in the order that is the promise.

Lock the directory, bind admin.sock, load every backend side by side; only when those that are required are ready bind
embed.sock (if one can embed) and infer.sock. A stop goes the other way: unlink and stop accepting, say goaway, let
admitted work run until the deadline, cut the rest with `shutting_down`, stop the backends, give the lock back.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from vestal.connection import SocketKind
from vestal.errors import InvalidRequest
from vestald.audit.journal import Journal
from vestald.audit.log import AuditLog
from vestald.config import Config, Sources
from vestald.entrance.doors import Doors
from vestald.entrance.listener import Listener
from vestald.entrance.sockets import RuntimeDir, refuse_foreign
from vestald.failures import BackendAbandoned
from vestald.house import House
from vestald.metrics.endpoint import Endpoint
from vestald.metrics.textfile import Textfile
from vestald.patience import wait_awake
from vestald.reports import SERVER
from vestald.serving.admin import AdminSession
from vestald.serving.infer import EmbedSession, InferSession
from vestald.serving.job import Ended
from vestald.serving.session import Session
from vestald.systemd import ServiceManager

__all__ = ["App"]

_ADMIN_MODE = 0o600
_STDERR = 2
_STOPS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOPS, signal.SIGHUP)
_GRACE = 0.2  # seconds for each last step once the deadline has passed: frames, backends, connections
_TURNS = 3  # of the loop until whoever had connected is let in: one polls, one accepts, one to spare
_LAST_LINES = 2.0  # seconds the disk has for what the audit log has not written yet
_SESSIONS: dict[SocketKind, type[Session]] = {
    "infer": InferSession,
    "embed": EmbedSession,
    "admin": AdminSession,
}


class App:
    """One daemon in one runtime directory. `run` returns once it has stopped as asked, or raises the `Failure`.

    `sources` is what the configuration came from, to be read again when somebody asks for a reload.
    """

    def __init__(self, config: Config, sources: Sources | None = None) -> None:
        self._config = config
        self._runtime_dir = config.runtime_dir()
        self._admin: Listener | None = None
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._deadline = float(config.daemon.drain_deadline)
        self._ends: float | None = None  # the moment on the loop's clock that the deadline is over
        self.house = House(config, self.request_stop, sources)
        self.house.on_idle = self._nobody_is_here
        self._doors = Doors(self._bind, self.house.sockets, self.house.socket_faults, self.house.events)
        self._leaving: asyncio.Task[None] | None = None
        self._textfile: Textfile | None = None
        self._endpoint = Endpoint(self.house.metrics_text)
        self._scraped: Listener | None = None
        self._manager = ServiceManager()
        self.house.events.subscribe(self._manager.event)

    async def run(self) -> None:
        """From nothing to stopped."""
        directory = RuntimeDir.open(self._runtime_dir, self._config.sockets.group)
        try:
            self._open_audit()
            self._hear_signals()
            self._manager.watch()
            for kind in ("infer", "embed"):
                self._remove_stale(kind)
            house = self.house
            house.events.emit(
                "limits",
                descriptors=house.descriptors,
                connections=house.places.in_all,
                connections_per_uid=house.places.per_uid,
            )
            self._admin = await self._bind("admin")
            house.sockets["admin"] = self._admin.path
            await self._publish_metrics()
            await self._live()
        finally:
            self.house.digest.close()
            await self._withdraw_metrics()
            self._doors.close()
            if self._admin is not None:
                self._admin.close()
            await self.house.audit.aclose(_LAST_LINES)
            self._manager.close()
            directory.close()

    def request_stop(self, deadline: float | None, why: str) -> None:
        """Begin a graceful stop; a second request skips to the kill."""
        self.house.events.emit("stop_requested", by=why, again=self._stop.is_set())
        if self._stop.is_set():
            self._kill.set()
            return
        self._deadline = float(self.house.config.daemon.drain_deadline) if deadline is None else deadline
        self._manager.stopping(self._deadline)
        self._ends = asyncio.get_running_loop().time() + self._deadline
        if self.house.machine.may("stopping"):
            self.house.machine.to("stopping")
        self._stop.set()

    async def _live(self) -> None:
        failure: Exception | None = None
        try:
            if await self._load():
                await self._open_gate()
                await self._stop.wait()
        except Exception as exc:  # whatever it is, it is raised again once all that was started has been stopped
            failure = exc
            if self.house.machine.may("failed"):
                self.house.machine.to("failed")
        late = await self._shut_down()
        if failure is not None:
            raise failure
        if late:
            raise BackendAbandoned(
                f"did not stop within {self._deadline:g} s and was left behind: backend {', '.join(late)}",
                hint="allow more with daemon.drain_deadline; if that does not help, it is a fault in the adapter",
            )

    def _open_audit(self) -> None:
        """Begin the audit log. Raises `BadConfiguration` or `AlreadyRunning`: nothing is done without it unasked."""
        audit, place = self._config.audit, self._config.audit_dir()
        if audit.enabled:
            log = AuditLog(Journal.open(place, audit.max_bytes, audit.files))
            source = str(self._config.source or "")
            self.house.audit.begin(log, str(place), server=SERVER, runtime_dir=str(self._runtime_dir), config=source)

    async def _publish_metrics(self) -> None:
        """As the configuration asks for. From the start to the end: loading is what one wants to watch."""
        wanted = self._config.metrics
        if (file := self._config.metrics_file()) is not None:
            self._textfile = Textfile(file, float(wanted.interval), self.house.metrics_text, self.house.events)
            self._textfile.begin()
        if wanted.socket:
            path = self._runtime_dir / "metrics.sock"
            self._scraped = await Listener.open(path, _ADMIN_MODE, None, self._endpoint)

    async def _withdraw_metrics(self) -> None:
        if self._scraped is not None:
            self._scraped.close()
            self._endpoint.close()
        if self._textfile is not None:
            await self._textfile.aclose()

    # --- up ---------------------------------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOPS:
            loop.add_signal_handler(number, self.request_stop, None, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, os.isatty(_STDERR))
        # Whoever started it may have held them back, and have let the kernel take the exit codes of children.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _hang_up(self, at_terminal: bool) -> None:
        """Reload; but when the terminal it was started at has gone, nobody is left who would stop it."""
        if at_terminal and not os.isatty(_STDERR):
            self.request_stop(None, "SIGHUP: the terminal is gone")
            return
        with suppress(InvalidRequest):  # the log says what is wrong
            self.house.reload("SIGHUP")

    def _remove_stale(self, kind: SocketKind) -> None:
        """A dead daemon's socket would make clients wait for an answer; the directory's lock says it is dead."""
        path = self._runtime_dir / f"{kind}.sock"
        refuse_foreign(path)
        path.unlink(missing_ok=True)

    async def _load(self) -> bool:
        """Load what the gate waits for; False if a stop came first. Raises `BackendFailed`."""
        if self._stop.is_set():
            return False
        self.house.machine.to("loading")
        loading = asyncio.ensure_future(self.house.roster.gather())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stop.is_set():
            loading.cancel()
            loading.add_done_callback(_seen)
            await self._until_killed({loading}, max(self._remaining, _GRACE))
            return False
        loading.result()
        return True

    async def _open_gate(self) -> None:
        """Bind what there is work for; from then on what comes and goes opens and shuts."""
        roster = self.house.roster
        roster.moved = lambda: None if self._stop.is_set() else self._doors.follow(roster.doors())
        await self._doors.settle(roster.doors())
        if not self._stop.is_set():
            self.house.machine.to("ready")

    async def _bind(self, kind: SocketKind) -> Listener:
        sockets = self._config.sockets
        mode, group = (_ADMIN_MODE, None) if kind == "admin" else (int(sockets.mode), sockets.group)
        path = self._runtime_dir / f"{kind}.sock"
        session = _SESSIONS[kind]
        return await Listener.open(path, mode, group, lambda: session(self.house))

    # --- down -------------------------------------------------------------------------------------------------

    def _nobody_is_here(self, why: str) -> None:
        self._leaving = asyncio.ensure_future(self._leave(why))

    async def _leave(self, why: str) -> None:
        """Stop, unless somebody comes while the names are taken away: whoever could connect is served."""
        self._doors.hide()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        if not self.house.sessions and not self._stop.is_set():
            self.request_stop(None, why)
        if not self._stop.is_set():
            await self._doors.show()

    async def _shut_down(self) -> list[str]:
        """The stop sequence; the names of the backends that had to be abandoned."""
        if self._ends is None:
            self._ends = asyncio.get_running_loop().time() + self._deadline
        self._doors.close()
        self.house.say_goaway("stopping", self._deadline)
        await self._drain()
        await self._cut()
        await self.house.aclose(self._patience / 2)
        late = self._abandon({*await self._stop_backends(), *self.house.supervisor.stuck})
        await self._close_sessions()
        late |= self._abandon({name for job in self.house.jobs.all() for name in job.backends} - late)
        self.house.machine.to("stopped")
        return sorted(late)

    def _abandon(self, backends: set[str]) -> set[str]:
        """Say which backends are left behind: to subscribers too, as long as there are any."""
        if backends:
            self.house.events.emit("backends_abandoned", level="error", backends=sorted(backends))
        return backends

    @property
    def _remaining(self) -> float:
        """Seconds until the deadline; 0 once it is over."""
        assert self._ends is not None
        return max(0.0, self._ends - asyncio.get_running_loop().time())

    @property
    def _patience(self) -> float:
        """Seconds for the next step of the stop: what is left, but a last step's worth in any case."""
        return _GRACE if self._kill.is_set() else max(self._remaining, _GRACE)

    async def _until_killed(self, what: Iterable[asyncio.Future[Any]], timeout: float | None = None) -> None:
        """Wait for all of `what`, but no longer than `timeout` or until somebody asks to stop again."""
        done, kill = asyncio.ensure_future(asyncio.wait(what)), asyncio.ensure_future(self._kill.wait())
        await asyncio.wait({done, kill}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        kill.cancel()

    async def _drain(self) -> None:
        """Let what is admitted and queued run until the deadline, or until somebody asks to stop again."""
        idle = asyncio.ensure_future(self.house.jobs.idle())
        await self._until_killed({idle}, self._remaining)
        idle.cancel()

    async def _cut(self) -> None:
        """End what still runs with `shutting_down`, and give the frames a moment to leave."""
        jobs = self.house.jobs.all()
        for job in jobs:
            job.cancel(Ended.SHUTDOWN)
        if jobs:
            backends = sorted({name for job in jobs for name in job.backends})
            self.house.events.emit("requests_cut", level="warning", count=len(jobs), backends=backends)
            tasks = [job.task for job in jobs if job.task is not None]
            _, late = await asyncio.wait(tasks, timeout=_GRACE)
            for task in late:  # a stream that does not close: a second cancel ends the wait for it
                task.cancel()

    async def _stop_backends(self) -> list[str]:
        """Stop all backends; the names of those that would not. A second request to stop cuts the time short."""
        stopping = asyncio.ensure_future(self.house.supervisor.stop_all(self._patience))
        await self._until_killed({stopping})
        if not stopping.done():
            await wait_awake({stopping}, 2.5 * _GRACE)  # begun after the kill, it takes 2.25
        return stopping.result() if stopping.done() else self.house.supervisor.stuck

    async def _close_sessions(self) -> None:
        """Close all connections. What was answered may be read until the deadline, or until a second stop."""
        patience = self._patience
        closing = {asyncio.ensure_future(session.aclose(patience)) for session in self.house.sessions}
        if closing:
            await self._until_killed(closing, patience)
            for task in closing:
                task.cancel()


def _seen(task: asyncio.Future[None]) -> None:
    """A load that a stop has made moot: how it ended is nobody's business."""
    if not task.cancelled():
        task.exception()
