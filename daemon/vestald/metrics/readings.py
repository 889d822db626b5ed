"""What is read off at the moment of a scrape: nothing of it is kept up to date in between."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from typing import Protocol, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vestal.messages import BreakerStatus
from vestal.values import BackendState, BreakerState, LifecycleState
from vestald import __version__
from vestald.admission.dispatcher import Dispatcher
from vestald.admission.lane import CLASSES
from vestald.audit.auditor import Auditor
from vestald.backends.supervisor import Supervisor
from vestald.backends.unit import Unit

__all__ = ["readings"]


class _Routes(Protocol):
    def breaker(self, unit: Unit) -> BreakerStatus: ...


class _House(Protocol):
    """What there is to read."""

    @property
    def audit(self) -> Auditor: ...
    @property
    def sessions(self) -> Sized: ...
    @property
    def generating(self) -> Dispatcher: ...
    @property
    def embedding(self) -> Dispatcher: ...
    @property
    def supervisor(self) -> Supervisor: ...
    @property
    def state(self) -> LifecycleState: ...
    @property
    def routes(self) -> _Routes: ...


def readings(house: _House) -> Iterable[Metric]:
    """Everything, as it is now."""
    yield from _daemon(house)
    yield from _queues(house)
    yield from _backends(house.supervisor)
    yield _breakers(house)


def _daemon(house: _House) -> Iterable[Metric]:
    build = GaugeMetricFamily("vestal_build_info", "1; the label is the daemon's version.", labels=["version"])
    build.add_metric([__version__], 1.0)
    yield build
    state = GaugeMetricFamily("vestal_daemon_state", "1 for the state that the daemon is in.", labels=["state"])
    for name in get_args(LifecycleState):
        state.add_metric([name], float(name == house.state))
    yield state
    yield _gauge("vestal_connections", "Open connections.", len(house.sessions))
    yield _gauge("vestal_python_blocks", "Blocks of memory in use in the interpreter.", sys.getallocatedblocks())
    if (audit := house.audit.status()) is not None:
        yield _gauge("vestal_audit_line", "Number of the audit log's last line.", audit.seq)
        yield CounterMetricFamily("vestal_audit_dropped", "Lines that the audit log lost.", value=audit.dropped)


def _queues(house: _House) -> Iterable[Metric]:
    queue = GaugeMetricFamily(
        "vestal_queue_waiting", "Requests waiting for a slot.", labels=["lane", "backend", "class"]
    )
    slots = GaugeMetricFamily("vestal_slots", "Requests that a backend runs at once.", labels=["lane", "backend"])
    busy = GaugeMetricFamily("vestal_slots_busy", "Slots with a request in them.", labels=["lane", "backend"])
    for name, dispatcher in (("generate", house.generating), ("embed", house.embedding)):
        scheduler = dispatcher.scheduler
        yield _gauge(f"vestal_{name}_waiting", f"Requests waiting in the {name} queue.", scheduler.waiting)
        yield _gauge(f"vestal_{name}_running", f"Requests running in the {name} lane.", scheduler.running)
        for lane in scheduler.lanes.values():
            slots.add_metric([name, lane.name], lane.slots)
            busy.add_metric([name, lane.name], len(lane.running))
            for priority in CLASSES:
                queue.add_metric([name, lane.name, priority], lane.waiting_in(priority))
    yield from (queue, slots, busy)


def _backends(supervisor: Supervisor) -> Iterable[Metric]:
    up = GaugeMetricFamily("vestal_backend_up", "1 while the backend serves.", labels=["backend"])
    state = GaugeMetricFamily("vestal_backend_state", "1 for the state that it is in.", labels=["backend", "state"])
    loaded = GaugeMetricFamily("vestal_backend_loaded_ratio", "How much of it is loaded.", labels=["backend"])
    for unit in supervisor.units:
        up.add_metric([unit.name], float(unit.state == "ready"))
        loaded.add_metric([unit.name], unit.percent / 100)
        for name in get_args(BackendState):
            state.add_metric([unit.name, name], float(name == unit.state))
    yield from (up, state, loaded)


def _breakers(house: _House) -> Metric:
    family = GaugeMetricFamily(
        "vestal_backend_breaker", "1 for the state that its breaker is in.", labels=["backend", "state"]
    )
    for unit in house.supervisor.units:
        state = house.routes.breaker(unit).state
        for name in get_args(BreakerState):
            family.add_metric([unit.name, name], float(name == state))
    return family


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)
