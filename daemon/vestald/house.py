"""What the sessions share: the backends, the two queues, the jobs, the counters, and the daemon's state.

The house answers questions and counts; it opens no socket and starts nothing. `app` takes it through its life.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vestal import messages as m
from vestal.connection import SocketKind
from vestal.errors import ERROR_CLASSES, InvalidRequest, NotAuthorized, ShuttingDown, WireError
from vestal.negotiation import Offer
from vestal.values import LifecycleState, Priority, Usage
from vestald import logs
from vestald.admission.dispatcher import Dispatcher
from vestald.admission.lane import Lane
from vestald.admission.quota import Quotas
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket
from vestald.audit.auditor import Auditor
from vestald.backends.registry import build_backends
from vestald.backends.supervisor import Supervisor
from vestald.backends.unit import Unit
from vestald.config import Config, Sources
from vestald.digest import Digest
from vestald.entrance.access import require_operator
from vestald.entrance.descriptors import TURNED_AWAY, connections_for, raise_limit
from vestald.entrance.places import Places
from vestald.events import EventHub
from vestald.failures import BadConfiguration
from vestald.idleness import IdleExit
from vestald.lifecycle import DAEMON, Machine
from vestald.metrics import Meter, Metrics, readings
from vestald.reloading import Change, Reload, prepared, refused
from vestald.reports import offer_of, queue_report, status_report
from vestald.roster import Roster
from vestald.routing.asking import ask_of
from vestald.routing.board import Board
from vestald.rules import Rules
from vestald.serving.job import Job, Jobs
from vestald.serving.session import Session

__all__ = ["House", "StopRequest"]

StopRequest = Callable[[float | None, str], None]
"""(deadline in seconds or None for the configured one, who asked)."""

_MOST_TOLD = 50  # changes of a reload


class House:
    """The host of every session. `on_stop` is what `app` does about a stop."""

    def __init__(self, config: Config, on_stop: StopRequest, sources: Sources | None = None) -> None:
        self._sources = sources
        self._adopt(config, Rules.of(config))
        self.events = EventHub()
        self.machine: Machine[LifecycleState] = Machine("daemon", DAEMON, "starting", self._state_changed)
        self.jobs = Jobs()
        self.metrics = Metrics(lambda: readings(self))
        self.sessions: set[Session] = set()
        self._turned_away: set[Session] = set()
        self.sockets: dict[str, Path] = {}
        self.socket_faults: dict[str, str] = {}
        self.generating, self.embedding = (Dispatcher(scheduler) for scheduler in self._schedulers())
        self.generating.beside, self.embedding.beside = self.embedding, self.generating
        self.routes = Board(self, lambda: self.supervisor.units, config.router)
        backends = build_backends(config)
        self.config = msgspec.structs.replace(config, backends=tuple(backend.table for backend in backends))
        self.supervisor = Supervisor(backends, self.events, self._unit_changed)
        self.roster = Roster(self, self.supervisor, sources)
        self.descriptors = raise_limit()
        in_all = connections_for(self.descriptors, len(self.supervisor.units))
        self.places = Places(in_all, config.sockets.connections_per_uid)
        self.audit = Auditor()
        self.generating.decided = self.embedding.decided = self._decided
        self.events.subscribe(self.audit.event)
        self.digest = Digest(self.events)
        self.events.subscribe(self.digest.event)
        self._farewell: tuple[str, int] | None = None  # the goaway for those who come while it drains
        self._on_stop = on_stop
        self.on_idle: Callable[[str], None] = lambda why: on_stop(None, why)
        self._idle_exit = IdleExit(config.daemon.idle_exit, self._nobody_is_here)
        self._now = time.monotonic
        self.since = self._now()

    # --- for every session ------------------------------------------------------------------------------------

    def offer(self, kind: SocketKind, session: str) -> Offer:
        """What a hello on `kind` is offered now. Version 2 of infer is there while a backend speaks it."""
        return offer_of(self, kind, session)

    @property
    def patient(self) -> bool:
        """Whether there are descriptors to spare for one who is turned away."""
        return len(self._turned_away) <= TURNED_AWAY

    def opened(self, session: Session) -> None:
        """Take it in. Raises `NotAuthorized` if it may not come in, `QueueFull` if there is no place for it."""
        self._turned_away.add(session)
        if session.kind == "admin":
            require_operator(session.peer, "connect")
        else:
            self.access[session.kind].check(session.peer)
            self.places.enter(session.peer.uid)
        self._turned_away.remove(session)
        self.sessions.add(session)
        self._crowd_changed()

    def greeted(self, session: Session) -> None:
        """The handshake is done; who comes while the daemon drains is told at once."""
        self.audit.greeted(session)
        self._say_farewell(session)

    def _say_farewell(self, session: Session) -> None:
        if self._farewell is not None:
            session.goaway(*self._farewell)

    def closed(self, session: Session) -> None:
        if session in self.sessions and session.kind != "admin":
            self.places.leave(session.peer.uid, self._now())
        self.audit.closed(session)
        self.sessions.discard(session)
        self._turned_away.discard(session)
        self._crowd_changed()

    def _nobody_is_here(self, why: str) -> None:
        self.on_idle(why)

    def _crowd_changed(self) -> None:
        self._idle_exit.saw(len(self.sessions), ready=self.machine.state == "ready")

    def paused(self) -> None:
        """A client has left so much unread that whoever makes its answers waits."""
        self.metrics.outbox_pauses.inc()

    def refused(self, session: Session, error: WireError) -> None:
        """A message was answered by an error that opened no request."""
        self.metrics.refusals.labels(code=error.code).inc()
        self.audit.refused(session, error)
        peer = session.peer
        self.events.emit("refused", level="debug", socket=session.kind, uid=peer.uid, pid=peer.pid, code=error.code)

    # --- for requests -----------------------------------------------------------------------------------------

    def refuse_new_work(self) -> None:
        """Raise `ShuttingDown` once the daemon drains or stops.

        While it loads no socket takes requests, but for the moment between the gate's two binds; every backend
        is ready by then, and whoever could connect must be served.
        """
        if self.machine.state not in ("loading", "ready"):
            raise ShuttingDown(
                f"the daemon is {self.machine.state} and takes no new requests",
                hint="finish what runs and connect again later",
                details={"state": self.machine.state},
            )

    def check_class(self, uid: int, priority: Priority) -> None:
        """Raise `NotAuthorized` if the class is not for that user."""
        if priority == "interactive" and not self.rules.interactive(uid):
            raise NotAuthorized(
                f"uid {uid} may not ask for priority interactive: it is not in admission.interactive",
                hint="leave priority out, or ask with normal or batch; the daemon's operator decides who may",
                details={"rule": "admission.interactive", "uid": uid},
            )

    def meter(self, backend: str) -> Meter:
        """What measures the answers of a backend."""
        return self.metrics.meter(backend)

    def _decided(self, ticket: Ticket) -> None:
        self.metrics.decided(ticket)
        if (job := self.jobs.get(ticket.number)) is not None:
            waiting = self.generating.scheduler.waiting + self.embedding.scheduler.waiting
            self.audit.decided(job, ticket, waiting)

    def ended(self, job: Job, outcome: str, usage: Usage) -> None:
        """Count a request's end."""
        self.audit.ended(job, outcome, usage)
        self.metrics.ended(job, outcome, usage, self._now())
        if outcome in ERROR_CLASSES:
            self._failed(job, outcome)

    def _failed(self, job: Job, code: str) -> None:
        peer = job.owner.peer
        self.events.emit(
            "request_failed",
            level="debug",
            request=job.number,
            backend=job.backend,
            uid=peer.uid,
            pid=peer.pid,
            code=code,
        )

    # --- for operators ----------------------------------------------------------------------------------------

    @property
    def state(self) -> LifecycleState:
        return self.machine.state

    def explain_route(self, message: m.ExplainRoute) -> m.RouteReport:
        closed: WireError | None = None
        try:
            self.refuse_new_work()
        except ShuttingDown as error:
            closed = error
        return self.routes.explain(message.id, ask_of(message), closed)

    async def status(self, id: int) -> m.StatusReport:
        return await status_report(self, id)

    def queue(self, id: int) -> m.QueueReport:
        return queue_report(self, id)

    def metrics_text(self) -> str:
        return self.metrics.text()

    def drain(self) -> None:
        """Take no new requests, and tell every connection; what is admitted runs on."""
        self.machine.to("draining")
        self.say_goaway("draining", self.config.daemon.drain_deadline)

    def undrain(self) -> None:
        self.machine.to("ready")
        self._farewell = None

    def stop(self, deadline: float | None, why: str) -> None:
        self._on_stop(deadline, why)

    def say_goaway(self, reason: str, deadline: float) -> None:
        """One `goaway` to every connection: now, or after its handshake."""
        self._farewell = (reason, round(1000 * deadline))
        for session in self.sessions:
            self._say_farewell(session)

    async def aclose(self, timeout: float) -> None:
        """End what the house itself started, or leave it after `timeout` seconds. Idempotent."""
        await self.roster.aclose(timeout)

    # --- the configuration ------------------------------------------------------------------------------------

    def reload(self, by: str) -> Reload:
        """Read the configuration again; what may change holds from now on. Raises `InvalidRequest`: nothing did.

        It reads a small file and asks for names as the start does, within this turn of the event loop.
        """
        if self._sources is None:
            raise InvalidRequest("this daemon has no configuration to read again", details={"field": "type"})
        try:
            found = prepared(self.config, self._sources)
        except BadConfiguration as bad:
            refusal = refused(bad)
            self.events.emit("reload_refused", level="error", by=by, faults=refusal.details["faults"])
            raise refusal from bad
        self._adopt(found.config, found.rules)
        self._spread()
        warnings: dict[str, Any] = {"warnings": list(found.config.warnings)} if found.config.warnings else {}
        self.events.emit(
            "reloaded", by=by, applied=_told(found.applied), restart_to_apply=_told(found.kept), **warnings
        )
        return found

    def _adopt(self, config: Config, rules: Rules) -> None:
        """What is looked up each time it is needed."""
        self.config, self.rules = config, rules
        self.handshake_timeout = float(config.sockets.handshake_timeout)
        self.write_timeout = float(config.admission.write_timeout)
        self.requests_per_connection = config.admission.requests_per_connection
        self.deadlines, self.access = rules.deadlines, rules.access

    def _spread(self) -> None:
        """What others keep."""
        admission = self.config.admission
        for dispatcher in (self.generating, self.embedding):
            dispatcher.adjust(
                queue_depth=admission.queue_depth,
                per_caller=admission.per_caller,
                unavailable_timeout=admission.unavailable_timeout,
            )
        self.places.per_uid = self.config.sockets.connections_per_uid
        self.supervisor.arrange([table.name for table in self.config.backends])
        self.routes.adjust(self.config.router)
        self.roster.rounds.adjust()
        logs.set_level(self.config.daemon.log_level)

    def _schedulers(self) -> list[Scheduler]:
        """One for `generate` and one for `embed`, with one account of tokens; both ask for the rules of the moment.

        A backend that does both has a lane in each, and one breaker.
        """
        admission = self.config.admission
        quotas, kin = Quotas(self._quota_of), defaultdict[str, list[Lane]](list)
        return [
            Scheduler(
                queue_depth=admission.queue_depth,
                per_caller=admission.per_caller,
                weight_of=self._weight_of,
                quotas=quotas,
                unavailable_timeout=admission.unavailable_timeout,
                kin=kin,
            )
            for _ in range(2)
        ]

    def _weight_of(self, uid: int) -> float:
        return self.rules.weights(uid)

    def _quota_of(self, uid: int) -> int:
        return self.rules.quotas(uid)

    # --- changes ----------------------------------------------------------------------------------------------

    def _state_changed(self, before: LifecycleState, after: LifecycleState) -> None:
        self.events.emit("daemon_state", before=before, state=after)
        self._crowd_changed()

    def _unit_changed(self, unit: Unit) -> None:
        self.routes.changed(unit)
        self.roster.saw(unit)


def _told(changes: Sequence[Change]) -> list[str]:
    """One text each, and one for those that would be too many for a line of the log."""
    left = [f"and {len(changes) - _MOST_TOLD} more"] if len(changes) > _MOST_TOLD else []
    return [*(str(change) for change in changes[:_MOST_TOLD]), *left]
