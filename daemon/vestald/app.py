"""The daemon's life, in the order that is the promise.

Lock the directory, bind admin.sock, load every backend side by side; only when all are ready bind embed.sock
(if one can embed) and infer.sock. A stop goes the other way: unlink and stop accepting, say goaway, let admitted
work run until the deadline, cut the rest with `shutting_down`, stop the backends, give the lock back.
"""

from __future__ import annotations

import asyncio
import signal

from vestal.connection import SocketKind
from vestald.admin import AdminSession
from vestald.config import Config
from vestald.failures import BackendAbandoned, BackendFailed
from vestald.house import House
from vestald.infer import EmbedSession, InferSession
from vestald.job import Ended
from vestald.listener import Listener
from vestald.session import Session
from vestald.sockets import RuntimeDir, refuse_foreign

__all__ = ["App"]

_ADMIN_MODE = 0o600
_GRACE = 0.25  # seconds for each last step once the deadline has passed: frames, backends, connections
_SESSIONS: dict[SocketKind, type[Session]] = {
    "infer": InferSession,
    "embed": EmbedSession,
    "admin": AdminSession,
}


class App:
    """One daemon in one runtime directory. `run` returns once it has stopped as asked, or raises the `Failure`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._runtime_dir = config.runtime_dir()
        self._listeners: dict[SocketKind, Listener] = {}
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._deadline = float(config.daemon.drain_deadline)
        self.house = House(config, self.request_stop)

    async def run(self) -> None:
        """From nothing to stopped."""
        directory = RuntimeDir.open(self._runtime_dir, self._config.sockets.group)
        try:
            self._hear_signals()
            for kind in ("infer", "embed"):
                self._remove_stale(kind)
            await self._listen("admin")
            await self._live()
        finally:
            for listener in self._listeners.values():
                listener.close()
            directory.close()

    def request_stop(self, deadline: float | None, why: str) -> None:
        """Begin a graceful stop; a second request skips to the kill."""
        self.house.events.emit("stop_requested", by=why, again=self._stop.is_set())
        if self._stop.is_set():
            self._kill.set()
            return
        if deadline is not None:
            self._deadline = deadline
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

    # --- up ---------------------------------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop, None, number.name)

    def _remove_stale(self, kind: SocketKind) -> None:
        """A dead daemon's socket would make clients wait for an answer; the directory's lock says it is dead."""
        path = self._runtime_dir / f"{kind}.sock"
        refuse_foreign(path)
        path.unlink(missing_ok=True)

    async def _load(self) -> bool:
        """Load every backend; False if a stop came first. Raises `BackendFailed`."""
        if self._stop.is_set():
            return False
        self.house.machine.to("loading")
        loading = asyncio.ensure_future(self.house.supervisor.start_all(float(self._config.daemon.ready_timeout)))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                return False
            loading.result()
            return True
        finally:
            stopping.cancel()
            loading.cancel()
            await asyncio.wait({loading, stopping}, timeout=self._deadline)
            if loading.done() and not loading.cancelled():
                loading.exception()  # seen above, or made moot by the stop

    async def _open_gate(self) -> None:
        can = [unit.capabilities for unit in self.house.supervisor.units]
        if any(capabilities.embed for capabilities in can):
            await self._listen("embed")
        if any(capabilities.generate for capabilities in can):
            await self._listen("infer")
        if not self._listeners.keys() - {"admin"}:
            raise BackendFailed("no backend can generate or embed", hint="configure one that can")
        if not self._stop.is_set():
            self.house.machine.to("ready")

    async def _listen(self, kind: SocketKind) -> None:
        sockets = self._config.sockets
        mode, group = (_ADMIN_MODE, None) if kind == "admin" else (int(sockets.mode), sockets.group)
        path = self._runtime_dir / f"{kind}.sock"
        session = _SESSIONS[kind]
        self._listeners[kind] = await Listener.open(path, mode, group, lambda: session(self.house))
        self.house.sockets[kind] = path

    # --- down -------------------------------------------------------------------------------------------------

    async def _shut_down(self) -> list[str]:
        """The stop sequence; the names of the backends that had to be abandoned."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._deadline
        for kind in ("infer", "embed"):
            if listener := self._listeners.pop(kind, None):
                listener.close()
                del self.house.sockets[kind]
        self.house.say_goaway("stopping", self._deadline)
        await self._drain(ends)
        await self._cut()
        await self.house.aclose()
        late = await self._stop_backends(max(0.0, ends - loop.time()))
        await self._close_sessions(ends)
        self.house.machine.to("stopped")
        return late

    async def _drain(self, ends: float) -> None:
        """Let what is admitted and queued run until the deadline, or until somebody asks to stop again."""
        idle = asyncio.ensure_future(self.house.jobs.idle())
        kill = asyncio.ensure_future(self._kill.wait())
        timeout = max(0.0, ends - asyncio.get_running_loop().time())
        await asyncio.wait({idle, kill}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        kill.cancel()

    async def _cut(self) -> None:
        """End what still runs with `shutting_down`, and give the frames a moment to leave."""
        jobs = self.house.jobs.all()
        for job in jobs:
            job.cancel(Ended.SHUTDOWN)
        if jobs:
            self.house.events.emit("requests_cut", level="warning", count=len(jobs))
            tasks = [job.task for job in jobs if job.task is not None]
            await asyncio.wait(tasks, timeout=_GRACE)

    async def _stop_backends(self, remaining: float) -> list[str]:
        """Stop all backends; the names of those that would not. A second request to stop cuts the time short."""
        timeout = _GRACE if self._kill.is_set() else max(remaining, _GRACE)
        stopping = asyncio.ensure_future(self.house.supervisor.stop_all(timeout))
        kill = asyncio.ensure_future(self._kill.wait())
        await asyncio.wait({stopping, kill}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await asyncio.wait({stopping}, timeout=_GRACE)
        kill.cancel()
        late = stopping.result() if stopping.done() else [unit.name for unit in self.house.supervisor.units]
        if late:
            self.house.events.emit("backends_abandoned", level="error", backends=late)
        return late

    async def _close_sessions(self, ends: float) -> None:
        """Close all connections. What was answered may be read until the deadline, or until a second stop."""
        patience = _GRACE if self._kill.is_set() else max(ends - asyncio.get_running_loop().time(), _GRACE)
        closing = [asyncio.ensure_future(session.aclose(patience)) for session in self.house.sessions]
        if not closing:
            return
        closed, kill = asyncio.ensure_future(asyncio.wait(closing)), asyncio.ensure_future(self._kill.wait())
        await asyncio.wait({closed, kill}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        for task in (*closing, closed, kill):
            task.cancel()
