"""What the sessions share: the backends, the two queues, the jobs, the counters, and the daemon's state.

The house answers questions and counts; it opens no socket and starts nothing. `app` takes it through its life.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily

from vestal import messages as m
from vestal.connection import SocketKind
from vestal.errors import InvalidRequest, ShuttingDown, WireError
from vestal.negotiation import Offer
from vestal.values import LifecycleState, Usage
from vestald import __version__
from vestald.admission import Scheduler
from vestald.config import Config
from vestald.dispatcher import Dispatcher
from vestald.events import EventHub
from vestald.failures import Failure
from vestald.job import Job, Jobs
from vestald.lifecycle import DAEMON, Machine
from vestald.metrics import Metrics
from vestald.registry import build_backends
from vestald.session import Session
from vestald.supervisor import Supervisor, Unit, health_of

__all__ = ["SERVER", "House", "StopRequest"]

SERVER = f"vestald/{__version__}"

StopRequest = Callable[[float | None, str], None]
"""(deadline in seconds or None for the configured one, who asked)."""


class House:
    """The host of every session. `on_stop` is what `app` does about a stop."""

    def __init__(self, config: Config, on_stop: StopRequest) -> None:
        self.config = config
        self.handshake_timeout = float(config.sockets.handshake_timeout)
        self.write_timeout = float(config.admission.write_timeout)
        self.requests_per_connection = config.admission.requests_per_connection
        self.events = EventHub()
        self.machine: Machine[LifecycleState] = Machine("daemon", DAEMON, "starting", self._state_changed)
        self.jobs = Jobs()
        self.metrics = Metrics(self._gauges)
        self.sessions: set[Session] = set()
        self.sockets: dict[str, Path] = {}
        bounds = {"queue_depth": config.admission.queue_depth, "per_caller": config.admission.per_caller}
        self.generating = Dispatcher(Scheduler(**bounds))
        self.embedding = Dispatcher(Scheduler(**bounds))
        self.supervisor = Supervisor(build_backends(config), self.events, self._unit_changed)
        self._farewell: tuple[str, int] | None = None  # the goaway for those who come while it drains
        self._on_stop = on_stop
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self._now = time.monotonic
        self._since = self._now()

    # --- for every session ------------------------------------------------------------------------------------

    def offer(self, kind: SocketKind, session: str) -> Offer:
        """What a hello on `kind` is offered now. Version 2 of infer is there while a backend speaks it."""
        units = self.supervisor.serving
        speaks_v2 = kind != "infer" or any(unit.capabilities.v2 for unit in units)
        return Offer(
            server=SERVER,
            session=session,
            versions=(1, 2) if speaks_v2 else (1,),
            limits=m.Limits(
                frame=self.config.sockets.max_frame,
                requests_per_connection=self.requests_per_connection,
                queue_depth=self.config.admission.queue_depth,
                per_caller=self.config.admission.per_caller,
            ),
            backends=[
                m.BackendInfo(
                    name=unit.name, model=unit.capabilities.model or unit.name, capabilities=unit.capabilities
                )
                for unit in units
            ],
        )

    def opened(self, session: Session) -> None:
        self.sessions.add(session)

    def greeted(self, session: Session) -> None:
        """The handshake is done; who comes while the daemon drains is told at once."""
        if self._farewell is not None and session.kind != "admin":
            session.goaway(*self._farewell)

    def closed(self, session: Session) -> None:
        self.sessions.discard(session)

    def refused(self, session: Session, error: WireError) -> None:
        """A message was answered by an error that opened no request."""
        self.metrics.refusals.labels(code=error.code).inc()
        peer = session.peer
        self.events.emit("refused", level="debug", socket=session.kind, uid=peer.uid, pid=peer.pid, code=error.code)

    # --- for requests -----------------------------------------------------------------------------------------

    def candidates(self) -> list[Unit]:
        """The backends that may take a request, in the order of the configuration."""
        return self.supervisor.serving

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

    def ended(self, job: Job, outcome: str, usage: Usage) -> None:
        """Count a request's end."""
        backend = job.backend or "none"
        self.metrics.requests.labels(backend=backend, outcome=outcome).inc()
        for kind, tokens in (
            ("input", usage.input_tokens),
            ("cached", usage.cached_tokens),
            ("output", usage.output_tokens),
        ):
            self.metrics.tokens.labels(backend=backend, kind=kind).inc(tokens)
        if job.ticket is not None and job.ticket.started:
            self.metrics.queue_seconds.labels(backend=backend).observe(job.ticket.started - job.ticket.entered)

    # --- for operators ----------------------------------------------------------------------------------------

    @property
    def state(self) -> LifecycleState:
        return self.machine.state

    async def status(self, id: int) -> m.StatusReport:
        units = self.supervisor.units
        return m.StatusReport(
            id=id,
            state=self.state,
            pid=os.getpid(),
            server=SERVER,
            uptime_ms=round(1000 * (self._now() - self._since)),
            runtime_dir=str(self.config.runtime_dir()),
            sockets={kind: str(path) for kind, path in self.sockets.items()},
            connections=len(self.sessions),
            backends=[await self._unit_status(unit) for unit in units],
            waiting=self.generating.scheduler.waiting,
            running=self.generating.scheduler.running,
            queue_depth=self.config.admission.queue_depth,
        )

    async def _unit_status(self, unit: Unit) -> m.BackendStatus:
        health = await health_of(unit)
        lanes = [
            lane for d in (self.generating, self.embedding) if (lane := d.scheduler.lanes.get(unit.name)) is not None
        ]
        return m.BackendStatus(
            name=unit.name,
            adapter=unit.adapter,
            model=unit.capabilities.model,
            state=unit.state,
            percent=unit.percent if unit.state in ("starting", "loading") else None,
            detail=unit.detail or health.detail,
            slots=unit.capabilities.slots,
            running=sum(len(lane.running) for lane in lanes),
            waiting=sum(lane.waiting for lane in lanes),
            restarts=health.restarts,
            pid=health.pid,
            capabilities=unit.capabilities if unit.state in ("ready", "unavailable") else None,
        )

    def queue(self, id: int) -> m.QueueReport:
        positions = {
            ticket.number: position
            for dispatcher in (self.generating, self.embedding)
            for ticket, position, _eta in dispatcher.scheduler.positions()
        }
        now = self._now()
        return m.QueueReport(
            id=id,
            depth=self.generating.scheduler.waiting,
            limit=self.config.admission.queue_depth,
            entries=[job.entry(now, positions.get(job.number)) for job in self.jobs.all()],
        )

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

    def restart_backend(self, name: str) -> None:
        """Begin to stop and start one backend. Raises `InvalidRequest` for an unknown name or a wrong state."""
        unit = next((unit for unit in self.supervisor.units if unit.name == name), None)
        if unit is None or name in self._restarts or not unit.machine.may("stopping"):
            names = ", ".join(f"{unit.name} ({unit.state})" for unit in self.supervisor.units)
            raise InvalidRequest(
                f"backend {name[:64]!r} cannot be restarted" if unit else f"there is no backend {name[:64]!r}",
                hint=f"backends: {names}",
                details={"field": "backend"},
            )
        task = self._restarts[name] = asyncio.ensure_future(self._restart(unit))
        task.add_done_callback(lambda _: self._restarts.pop(name))

    async def _restart(self, unit: Unit) -> None:
        try:
            times = self.config.daemon
            await self.supervisor.restart(unit, float(times.drain_deadline), float(times.ready_timeout))
        except Failure as failure:
            self.events.emit("backend_restart_failed", level="error", backend=unit.name, error=failure.message)
            self._lost(unit, failure.message)

    def say_goaway(self, reason: str, deadline: float) -> None:
        """One `goaway` to every infer and embed connection: now, or after its handshake."""
        self._farewell = (reason, round(1000 * deadline))
        for session in self.sessions:
            self.greeted(session)

    async def aclose(self) -> None:
        """End what the house itself started. Idempotent."""
        restarts = tuple(self._restarts.values())
        for task in restarts:
            task.cancel()
        await asyncio.gather(*restarts, return_exceptions=True)

    # --- changes ----------------------------------------------------------------------------------------------

    def _state_changed(self, before: LifecycleState, after: LifecycleState) -> None:
        self.events.emit("daemon_state", before=before, state=after)

    def _unit_changed(self, unit: Unit) -> None:
        """Open the backend's lanes while it is ready, and shut them while it is away."""
        if unit.state == "ready":
            slots = unit.capabilities.slots
            if unit.capabilities.generate:
                self.generating.open_lane(unit.name, slots)
            if unit.capabilities.embed:
                self.embedding.open_lane(unit.name, slots)
            return
        for dispatcher in (self.generating, self.embedding):
            dispatcher.shut_lane(unit.name)
        if unit.state == "failed" or unit.given_up:
            self._lost(unit, unit.detail)

    def _lost(self, unit: Unit, reason: str) -> None:
        for dispatcher in (self.generating, self.embedding):
            dispatcher.fail_lane(unit.name, reason)

    def _gauges(self) -> Iterable[GaugeMetricFamily]:
        yield _gauge("vestal_connections", "Open connections.", len(self.sessions))
        for lane, dispatcher in (("generate", self.generating), ("embed", self.embedding)):
            scheduler = dispatcher.scheduler
            yield _gauge(f"vestal_{lane}_waiting", f"Requests waiting in the {lane} queue.", scheduler.waiting)
            yield _gauge(f"vestal_{lane}_running", f"Requests running in the {lane} lane.", scheduler.running)
        up = GaugeMetricFamily("vestal_backend_up", "1 while the backend serves.", labels=["backend"])
        for unit in self.supervisor.units:
            up.add_metric([unit.name], float(unit.state == "ready"))
        yield up


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, value=value)
