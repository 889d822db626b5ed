"""What the daemon says of itself: to a client that says hello, and to operators who ask."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Protocol

from vestal import messages as m
from vestal.connection import SocketKind
from vestal.negotiation import Offer
from vestal.values import LifecycleState
from vestald import __version__
from vestald.admission.dispatcher import Dispatcher
from vestald.audit.auditor import Auditor
from vestald.backends.supervisor import Supervisor, health_of
from vestald.backends.unit import Unit
from vestald.config import Config
from vestald.entrance.places import Places
from vestald.routing.board import Board
from vestald.serving.job import Jobs
from vestald.surroundings import log_place, resident

__all__ = ["SERVER", "offer_of", "queue_report", "status_report"]

SERVER = f"vestald/{__version__}"


class _House(Protocol):
    """What there is to tell of."""

    since: float

    @property
    def config(self) -> Config: ...
    @property
    def state(self) -> LifecycleState: ...
    @property
    def sockets(self) -> Mapping[str, Path]: ...
    @property
    def socket_faults(self) -> Mapping[str, str]: ...
    @property
    def sessions(self) -> Sized: ...
    @property
    def places(self) -> Places: ...
    @property
    def generating(self) -> Dispatcher: ...
    @property
    def embedding(self) -> Dispatcher: ...
    @property
    def supervisor(self) -> Supervisor: ...
    @property
    def routes(self) -> Board: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def audit(self) -> Auditor: ...
    @property
    def requests_per_connection(self) -> int: ...


def offer_of(house: _House, kind: SocketKind, session: str) -> Offer:
    """What a hello on `kind` is offered now. Version 2 of infer is there while a backend speaks it."""
    units = house.supervisor.serving
    speaks_v2 = kind != "infer" or any(unit.capabilities.v2 for unit in units)
    return Offer(
        server=SERVER,
        session=session,
        versions=(1, 2) if speaks_v2 else (1,),
        limits=m.Limits(
            frame=house.config.sockets.max_frame,
            requests_per_connection=house.requests_per_connection,
            queue_depth=house.config.admission.queue_depth,
            per_caller=house.config.admission.per_caller,
            connections_per_uid=house.places.per_uid,
            connections=house.places.in_all,
        ),
        backends=[
            m.BackendInfo(
                name=unit.name,
                model=unit.capabilities.model or unit.name,
                capabilities=unit.capabilities,
                aliases=list(unit.aliases),
            )
            for unit in units
        ],
    )


async def status_report(house: _House, id: int) -> m.StatusReport:
    """The whole daemon and each backend, as they are now."""
    return m.StatusReport(
        id=id,
        state=house.state,
        pid=os.getpid(),
        server=SERVER,
        uptime_ms=round(1000 * (time.monotonic() - house.since)),
        runtime_dir=str(house.config.runtime_dir()),
        sockets={kind: str(path) for kind, path in house.sockets.items()},
        socket_faults=dict(house.socket_faults),
        connections=len(house.sessions),
        connection_limit=house.places.in_all,
        backends=await asyncio.gather(*(_backend(house, unit) for unit in house.supervisor.units)),
        waiting=house.generating.scheduler.waiting,
        running=house.generating.scheduler.running,
        queue_depth=house.config.admission.queue_depth,
        audit=house.audit.status(),
        memory_bytes=resident(os.getpid()),
        log=log_place(),
        config=_file(house.config),
    )


def _file(config: Config) -> str:
    """The file it was read from. A name that is no UTF-8 is told as well as a message can."""
    return "" if config.source is None else os.fsencode(config.source.absolute()).decode(errors="replace")


async def _backend(house: _House, unit: Unit) -> m.BackendStatus:
    health = await health_of(unit)
    dispatchers = (house.generating, house.embedding)
    lanes = [lane for d in dispatchers if (lane := d.scheduler.lanes.get(unit.name)) is not None]
    return m.BackendStatus(
        name=unit.name,
        adapter=unit.adapter,
        model=unit.capabilities.model,
        state=unit.state,
        percent=unit.percent if unit.state in ("starting", "loading") else None,
        detail=unit.plight or health.detail,
        slots=unit.capabilities.slots,
        running=sum(len(lane.running) for lane in lanes),
        waiting=sum(lane.waiting for lane in lanes),
        restarts=health.restarts,
        pid=health.pid,
        sandbox=list(health.sandbox),
        unsandboxed=list(health.unsandboxed),
        capabilities=unit.capabilities if unit.state in ("ready", "unavailable") else None,
        memory_bytes=resident(health.pid),
        aliases=list(unit.aliases),
        required=unit.required,
        draining=unit.draining,
        breaker=house.routes.breaker(unit),
    )


def queue_report(house: _House, id: int) -> m.QueueReport:
    """Who waits and who runs, never what."""
    now = time.monotonic()
    positions: dict[int, int] = {}  # by request; where several parts of one wait, the place of the first to start
    for dispatcher in (house.generating, house.embedding):
        for ticket, position, _eta in dispatcher.scheduler.positions(now):
            positions[ticket.number] = min(position, positions.get(ticket.number, position))
    return m.QueueReport(
        id=id,
        depth=house.generating.scheduler.waiting,
        limit=house.config.admission.queue_depth,
        entries=[job.entry(now, positions.get(job.number)) for job in house.jobs.all()],
    )
