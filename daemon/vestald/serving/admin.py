"""The admin socket: what is going on, and the commands that change it.

Only the daemon's owner and root may speak here, by the kernel's word, and each command only in the lifecycle
states that `lifecycle.ADMIN_COMMANDS` names.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from vestal import messages as m
from vestal.codec import error_frame
from vestal.errors import InvalidRequest, WireError
from vestal.values import LifecycleState
from vestald.audit.auditor import Auditor
from vestald.entrance.access import require_operator
from vestald.events import EventHub
from vestald.lifecycle import ADMIN_COMMANDS
from vestald.reloading import Reload
from vestald.serving.job import Ended, Jobs
from vestald.serving.session import Host, Session

__all__ = ["AdminHost", "AdminSession"]

_OfBackend = m.AddBackend | m.RemoveBackend | m.DrainBackend | m.UndrainBackend | m.RestartBackend
_CHANGES = m.CancelRequest | m.Drain | m.Undrain | _OfBackend | m.Reload | m.Stop
"""Commands that are audited when they are obeyed too: one that only looks may come every second, for years."""
_BACKLOG = 1000  # events kept for a subscriber that does not read


class _Roster(Protocol):
    """The operator's hand on the backends; each raises `InvalidRequest` where nothing happens."""

    def add(self, name: str) -> None: ...
    def remove(self, name: str, deadline: float | None) -> None: ...
    def restart(self, name: str, deadline: float | None) -> None: ...
    def drain(self, name: str) -> None: ...
    def undrain(self, name: str) -> None: ...


class AdminHost(Host, Protocol):
    """What the admin socket needs of the daemon."""

    events: EventHub
    audit: Auditor
    jobs: Jobs

    @property
    def roster(self) -> _Roster: ...
    @property
    def state(self) -> LifecycleState: ...
    async def status(self, id: int) -> m.StatusReport: ...
    def queue(self, id: int) -> m.QueueReport: ...
    def explain_route(self, message: m.ExplainRoute) -> m.RouteReport: ...
    def metrics_text(self) -> str: ...
    def drain(self) -> None: ...
    def undrain(self) -> None: ...
    def reload(self, by: str) -> Reload: ...
    def stop(self, deadline: float | None, why: str) -> None: ...


class AdminSession(Session):
    kind = "admin"
    host: AdminHost

    def __init__(self, host: AdminHost) -> None:
        super().__init__(host)
        self._watches: list[asyncio.Task[None]] = []

    def handle(self, message: m.AnyMessage) -> None:
        command = str(message.__struct_config__.tag)
        id = message.id  # type: ignore[union-attr]  # every admin command has an id
        assert id is not None
        code = "ok"
        try:
            require_operator(self.peer, command)  # as at the connect; a second look costs nothing
            self._check_state(command)
            self._obey(message, id)
        except WireError as error:
            code = error.code
            self.send(error_frame(error, id))
        if code != "ok" or isinstance(message, _CHANGES):
            self.host.audit.commanded(self, command, code, **_facts(message))

    def disconnected(self) -> None:
        for watch in self._watches:
            watch.cancel()

    def _check_state(self, command: str) -> None:
        legal = ADMIN_COMMANDS[command]
        if self.host.state not in legal:
            raise InvalidRequest(
                f"{command} is not possible while the daemon is {self.host.state}",
                hint=f"it is possible while it is {' or '.join(sorted(legal))}",
                details={"field": "type", "state": self.host.state, "legal": sorted(legal)},
            )

    def _obey(self, message: m.AnyMessage, id: int) -> None:
        if isinstance(message, m.Status | m.Backends):
            self.spawn(self._report(message))
        elif isinstance(message, m.Subscribe):
            self._watches.append(self.spawn(self._watch(id)))
        elif isinstance(message, m.Queue):
            self.send(self.host.queue(id))
        elif isinstance(message, m.ExplainRoute):
            self.send(self.host.explain_route(message))
        elif isinstance(message, m.Metrics):
            self.send(m.MetricsReport(id=id, text=self.host.metrics_text()))
        elif isinstance(message, m.CancelRequest):
            self._cancel_request(message)
        elif isinstance(message, m.Reload):
            self.send(_reloaded(id, self.host.reload(f"admin uid {self.peer.uid} pid {self.peer.pid}")))
        elif isinstance(message, _OfBackend):
            self._acknowledge(id, self._of_backend(message))
        else:
            self._change(message, id)

    def _change(self, message: m.AnyMessage, id: int) -> None:
        if isinstance(message, m.Drain):
            self.host.drain()
        elif isinstance(message, m.Undrain):
            self.host.undrain()
        elif isinstance(message, m.Stop):
            self.host.stop(_seconds(message.deadline_ms), f"admin uid {self.peer.uid} pid {self.peer.pid}")
        self._acknowledge(id)

    def _of_backend(self, message: _OfBackend) -> str:
        """Do it, or begin to; what is happening."""
        roster, name = self.host.roster, message.backend
        if isinstance(message, m.AddBackend):
            roster.add(name)
            return f"backend {name} starts"
        if isinstance(message, m.RemoveBackend):
            roster.remove(name, _seconds(message.deadline_ms))
            return f"backend {name} takes no new requests, and goes"
        if isinstance(message, m.RestartBackend):
            roster.restart(name, _seconds(message.deadline_ms))
            return f"backend {name} restarts"
        if isinstance(message, m.DrainBackend):
            roster.drain(name)
            return f"backend {name} takes no new requests"
        roster.undrain(name)
        return f"backend {name} takes requests"

    def _acknowledge(self, id: int, detail: str = "") -> None:
        self.send(m.Acknowledged(id=id, state=self.host.state, detail=detail))

    def _cancel_request(self, message: m.CancelRequest) -> None:
        job = self.host.jobs.get(message.request)
        if job is None:
            raise InvalidRequest(
                f"no request #{message.request} waits or runs",
                hint="`queue` lists those that do",
                details={"field": "request"},
            )
        job.cancel(Ended.OPERATOR)
        self._acknowledge(message.id, f"request #{message.request} is cancelled")

    async def _report(self, message: m.Status | m.Backends) -> None:
        status = await self.host.status(message.id)
        if self.alive:
            self.send(
                m.BackendsReport(id=message.id, backends=status.backends) if isinstance(message, m.Backends) else status
            )

    async def _watch(self, id: int) -> None:
        """A snapshot, then every event. Subscribed before the picture is taken: nothing in between is lost."""
        backlog = _Backlog()
        unsubscribe = self.host.events.subscribe(backlog.add)
        try:
            self.send(m.Snapshot(id=id, seq=self.host.events.seq, status=await self.host.status(id)))
            while True:
                for seq, kind, facts in await backlog.take():
                    if self.congested:
                        await self.room()
                    self.send(m.Event(id=id, seq=seq, kind=kind, data=facts, dropped=backlog.dropped))
        except WireError as error:
            if self.alive:
                self.send(error_frame(error, id))
        finally:
            unsubscribe()


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _reloaded(id: int, done: Reload) -> m.Reloaded:
    applied, kept = (
        [m.OptionChange(key=change.key, before=change.before, after=change.after) for change in changes]
        for changes in (done.applied, done.kept)
    )
    file = str(done.config.source).encode("utf-8", "backslashreplace").decode() if done.config.source else None
    return m.Reloaded(id=id, file=file, applied=applied, restart_to_apply=kept, warnings=list(done.config.warnings))


def _facts(message: m.AnyMessage) -> dict[str, Any]:
    """What a command is about: numbers, and a backend's name."""
    names = ("request", "backend", "deadline_ms")
    return {name: value for name in names if (value := getattr(message, name, None)) is not None}


class _Backlog:
    """Events between the hub and one subscriber; the oldest are dropped, and counted, when it does not keep up."""

    def __init__(self) -> None:
        self.dropped = 0
        self._events: deque[tuple[int, str, dict[str, Any]]] = deque()
        self._some = asyncio.Event()

    def add(self, seq: int, kind: str, facts: dict[str, Any]) -> None:
        if len(self._events) >= _BACKLOG:
            self._events.popleft()
            self.dropped += 1
        self._events.append((seq, kind, facts))
        self._some.set()

    async def take(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Everything that waits, when there is something."""
        await self._some.wait()
        self._some.clear()
        taken = list(self._events)
        self._events.clear()
        return taken
