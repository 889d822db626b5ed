"""Who is on duty: which backends run, what the configuration declares, and how the one becomes the other.

Over the admin socket come names only. What a name means is read from the configuration at that moment, by the rules
that hold at a start; a fault anywhere in it, and nothing happens. Whoever leaves, for good or for a moment, finishes
what it has first: until a deadline, after which the rest is told. A unit is in one pair of hands at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from vestal.connection import SocketKind
from vestal.errors import InvalidRequest
from vestald.admission.dispatcher import Dispatcher
from vestald.backends.registry import Declared, build
from vestald.backends.rounds import Rounds
from vestald.backends.starting import Starts, in_words
from vestald.backends.supervisor import Supervisor
from vestald.backends.unit import Unit
from vestald.config import BackendTable, Config, Sources
from vestald.entrance.descriptors import connections_for
from vestald.entrance.places import Places
from vestald.events import EventHub
from vestald.failures import BadConfiguration
from vestald.metrics import Metrics
from vestald.reloading import read_again, refused
from vestald.routing.board import Board
from vestald.serving.job import Jobs

__all__ = ["Roster", "place_among"]

_LEAST_STOP = 1.0  # seconds that a backend has to stop in, if its requests have used up the deadline
_LET_GO = 0.2  # seconds for the streams of requests that are cut to close


class _House(Protocol):
    """What the roster works on."""

    config: Config

    @property
    def descriptors(self) -> int: ...
    @property
    def places(self) -> Places: ...
    @property
    def generating(self) -> Dispatcher: ...
    @property
    def embedding(self) -> Dispatcher: ...
    @property
    def routes(self) -> Board: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def events(self) -> EventHub: ...


class Roster:
    """The operator's hand on the backends. `moved` is called when the sockets may have to be others."""

    def __init__(self, house: _House, supervisor: Supervisor, sources: Sources | None) -> None:
        self._house = house
        self._supervisor = supervisor
        self._sources = sources
        self._starts = Starts(supervisor, house.events, lambda: float(house.config.daemon.ready_timeout))
        self.rounds = Rounds(supervisor, lambda: float(house.config.daemon.probe_interval), then=self._after_round)
        self._leaving: dict[Unit, tuple[str, asyncio.Task[None]]] = {}
        self.moved: Callable[[], None] = lambda: None

    # --- the daemon's life ------------------------------------------------------------------------------------

    async def gather(self) -> None:
        """Start all; return when the daemon can serve. Raises `BackendFailed`."""
        self.rounds.begin()
        await self._starts.gate()

    def saw(self, unit: Unit) -> None:
        """A unit has changed its state."""
        self._starts.saw(unit)
        self.moved()

    def _after_round(self) -> None:
        self.moved()  # a socket that could not be bound may be free now

    def doors(self) -> frozenset[SocketKind]:
        """The sockets that there is work for: one that is away for a moment takes none away."""
        able = [unit.capabilities for unit in self._supervisor.units if unit.here]
        doors: dict[SocketKind, bool] = {
            "infer": any(capabilities.generate for capabilities in able),
            "embed": any(capabilities.embed for capabilities in able),
        }
        return frozenset(kind for kind, is_there in doors.items() if is_there)

    async def aclose(self, timeout: float) -> None:
        """End all that is under way, or leave it after `timeout` seconds. Idempotent."""
        tasks = [task for _, task in self._leaving.values()]
        for task in tasks:
            task.cancel()
        ends = [self.rounds.aclose(), self._starts.aclose(timeout)]
        if tasks:
            ends.append(_ended(tasks, timeout))
        await asyncio.gather(*ends)

    # --- commands ---------------------------------------------------------------------------------------------

    def add(self, name: str) -> None:
        """Begin to run a backend that the configuration declares. Raises `InvalidRequest`: nothing happens."""
        units = self._supervisor.units
        if (unit := self._find(name)) is not None:
            raise self._there(unit)
        declared, order = self._declared(name)
        self._check_names(declared)
        room = self._room_for(len(units) + 1)
        index = place_among(name, [unit.name for unit in units], order)
        self._house.places.in_all = room
        self._run_with([*self._tables[:index], declared.table, *self._tables[index:]])
        unit = self._supervisor.add(declared, index)
        self._house.events.emit("backend_added", backend=name, adapter=unit.adapter)
        self._starts.begin(unit)

    def remove(self, name: str, deadline: float | None) -> None:
        """Begin to drain one backend, stop it and forget it. Raises `InvalidRequest`."""
        unit = self._at_hand(name, "removed")
        unit.draining = True
        self._house.events.emit("backend_drained", backend=name)
        self._take(unit, "removed", self._remove(unit, self._deadline(deadline)))

    def restart(self, name: str, deadline: float | None) -> None:
        """Begin to stop one backend, and to start it as the configuration declares it now. Raises `InvalidRequest`."""
        unit = self._at_hand(name, "restarted")
        if self._starts.under_way(unit) and unit.required and unit.state not in ("ready", "failed"):
            raise self._cannot(unit, "restarted", f"it is {unit.state}")
        declared = unit.declared
        if self._sources is not None:
            declared, _ = self._declared(name)
            self._check_names(declared)
        self._take(unit, "restarted", self._restart(unit, declared, self._deadline(deadline)))
        self._starts.withdraw(unit)
        if unit.machine.may("stopping"):
            unit.machine.to("stopping")  # nothing more starts in it; what waits, waits for the next one

    def drain(self, name: str) -> None:
        """Keep new requests away from one backend. Raises `InvalidRequest`."""
        unit = self._at_hand(name, "drained")
        if not unit.draining:
            unit.draining = True
            self._house.events.emit("backend_drained", backend=name)

    def undrain(self, name: str) -> None:
        """Let it have requests again. Raises `InvalidRequest`."""
        unit = self._at_hand(name, "undrained")
        if unit.draining:
            unit.draining = False
            self._house.events.emit("backend_undrained", backend=name)

    # --- may it be done ---------------------------------------------------------------------------------------

    def _find(self, name: str) -> Unit | None:
        return next((unit for unit in self._supervisor.units if unit.name == name), None)

    def _at_hand(self, name: str, what: str) -> Unit:
        """The unit that something may be done with. Raises `InvalidRequest`."""
        unit = self._find(name)
        if unit is None:
            names = ", ".join(f"{unit.name} ({unit.state})" for unit in self._supervisor.units)
            raise _refusal(f"there is no backend {name[:64]!r}", f"backends: {names or 'none'}")
        if unit in self._leaving:
            raise self._cannot(unit, what, f"it is being {self._leaving[unit][0]}")
        if what in ("removed", "restarted") and self._starts.holds_gate(unit):
            raise self._cannot(unit, what, f"it is {unit.state}, and the daemon waits for it")
        return unit

    def _there(self, unit: Unit) -> InvalidRequest:
        """Why it cannot be added."""
        if unit in self._leaving:
            return self._cannot(unit, "added", f"it is being {self._leaving[unit][0]}")
        what = f"backend {unit.name!r} is there: it is {unit.state}"
        return _refusal(what, unit.remedy if unit.stuck else f"vestal backend restart {unit.name}")

    def _cannot(self, unit: Unit, what: str, why: str) -> InvalidRequest:
        return _refusal(f"backend {unit.name!r} cannot be {what} now: {why}", "`vestal status` shows how far it is")

    def _declared(self, name: str) -> tuple[Declared, list[str]]:
        """A backend as the configuration has it now, and the order of all in it. Raises `InvalidRequest`."""
        if self._sources is None:
            raise _refusal("this daemon has no configuration to read again", "start vestald with one")
        try:
            config = read_again(self._sources)
            tables = {table.name: table for table in config.backends}
            if name in tables:
                return build(config, tables[name]), [*tables]
        except BadConfiguration as bad:
            raise refused(bad) from bad
        where = config.source or "the configuration"
        known = f"it declares {', '.join(tables) or 'none'}"
        how = f"; `vestal backend remove {name}` stops the one that runs" if self._find(name) else ""
        raise _refusal(f"no [[backend]] in {where} is named {name[:64]!r}", known + how)

    def _check_names(self, declared: Declared) -> None:
        """What runs may be of an earlier file: no name means one backend and is another's alias."""
        name = declared.table.name
        for other in self._supervisor.units:
            if other.name == name:
                continue
            if both := {name} & {*other.aliases} or {other.name} & {*declared.keys.aliases}:
                raise _refusal(
                    f"{both.pop()!r} would be the name of one backend and an alias of another: {name}, {other.name}",
                    f"`vestal backend restart {other.name}` takes over what the configuration says of it",
                )

    def _room_for(self, backends: int) -> int:
        """How many connections there is room for beside so many backends. Raises `InvalidRequest`."""
        try:
            return connections_for(self._house.descriptors, backends)
        except BadConfiguration as bad:
            raise refused(bad) from bad

    def _deadline(self, asked: float | None) -> float:
        return float(self._house.config.daemon.drain_deadline) if asked is None else asked

    # --- doing it ---------------------------------------------------------------------------------------------

    def _take(self, unit: Unit, what: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._carry_out(unit, what, work), name=f"backend {unit.name} is {what}")
        self._leaving[unit] = (what, task)
        task.add_done_callback(lambda _: self._let_go(unit, task))
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step, nobody has awaited it

    async def _carry_out(self, unit: Unit, what: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as fault:  # a fault of ours too must be told: an operator waits for this
            self._let_go(unit, asyncio.current_task())
            events, error = self._house.events, in_words(fault)
            if what == "removed":
                events.emit("backend_remove_failed", level="error", backend=unit.name, error=error)
            else:
                events.emit("backend_restart_failed", level="error", backend=unit.name, error=error)

    def _let_go(self, unit: Unit, task: asyncio.Task[None] | None) -> None:
        """It is at hand again. Before that is told: whoever hears of it may give the next command at once."""
        if unit in self._leaving and self._leaving[unit][1] is task:
            del self._leaving[unit]

    async def _remove(self, unit: Unit, deadline: float) -> None:
        house = self._house
        await self._stop(unit, deadline, waiting=True)
        self._supervisor.forget(unit)
        self._run_with([table for table in self._tables if table.name != unit.name])
        house.places.in_all = self._room_for(len(self._supervisor.units))
        house.routes.forget(unit)
        house.metrics.forget(unit.name)
        house.events.emit("backend_removed", backend=unit.name)
        self.moved()

    async def _restart(self, unit: Unit, declared: Declared, deadline: float) -> None:
        await self._stop(unit, deadline, waiting=False)
        unit.replace(declared)
        self._run_with([declared.table if table.name == unit.name else table for table in self._tables])
        self._starts.begin(unit)

    async def _stop(self, unit: Unit, deadline: float, *, waiting: bool) -> None:
        """Let it finish what it runs, and with `waiting` what waits for it; then stop it. Raises `BackendFailed`."""
        clock = asyncio.get_running_loop().time
        ends = clock() + deadline
        await self._starts.call_off(unit)
        if not await self._idle(unit, deadline, waiting):
            if unit.machine.may("stopping"):
                unit.machine.to("stopping")  # a place that comes free now is nobody's
            self._cut(unit)
            await self._idle(unit, _LET_GO, waiting=False)
        if waiting:
            for dispatcher in self._dispatchers:
                dispatcher.drop_lane(unit.name)
        await self._supervisor.stop(unit, max(ends - clock(), _LEAST_STOP))

    async def _idle(self, unit: Unit, patience: float, waiting: bool) -> bool:
        """Whether it comes to have nothing to do, within `patience` seconds."""
        try:
            async with asyncio.timeout(patience):
                for dispatcher in self._dispatchers:
                    await dispatcher.idle(unit.name, waiting=waiting)
        except TimeoutError:
            return False
        return True

    def _cut(self, unit: Unit) -> None:
        """End what it runs; the terminal frames leave now, however long their streams take to close.

        A request that others can go on with is not at its end.
        """
        jobs = [job for job in self._house.jobs.all() if job.runs_in(unit.name) and job.ended is None]
        for job in jobs:
            job.cut(unit.name)
        if ended := sum(job.ended is not None for job in jobs):
            self._house.events.emit("requests_cut", level="warning", count=ended, backends=[unit.name])

    @property
    def _dispatchers(self) -> tuple[Dispatcher, Dispatcher]:
        return self._house.generating, self._house.embedding

    @property
    def _tables(self) -> Sequence[BackendTable]:
        """What runs, in the order of the units."""
        return self._house.config.backends

    def _run_with(self, tables: Sequence[BackendTable]) -> None:
        self._house.config = msgspec.structs.replace(self._house.config, backends=tuple(tables))

    def __repr__(self) -> str:
        leaving = [f"{unit.name} is being {what}" for unit, (what, _) in self._leaving.items()]
        return f"<Roster of {len(self._supervisor.units)}{''.join(f', {one}' for one in leaving)}>"


def place_among(name: str, running: Sequence[str], declared: Sequence[str]) -> int:
    """Where one more belongs: before the first of those that run which is declared after it. Those stay as they are."""
    later = set(declared[declared.index(name) + 1 :])
    return next((index for index, other in enumerate(running) if other in later), len(running))


def _refusal(message: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, hint=hint, details={"field": "backend"})


async def _ended(tasks: Sequence[asyncio.Task[None]], timeout: float) -> None:
    await asyncio.wait(tasks, timeout=timeout)
