"""Rounds: a backend that is not well and does not say so is found out, once at a time and within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.daemon.inside import END, Scripted, daemon, declared
from vestal.backend import Health, Ready, Unavailable
from vestald.backends.rounds import Rounds
from vestald.backends.supervisor import Supervisor, health_of
from vestald.backends.unit import Unit
from vestald.events import EventHub


class Patient(Scripted):
    """A backend whose health is what a test says."""

    def __init__(self, name: str = "a", script: Any = None) -> None:
        super().__init__(script, name=name)
        self.says = Health(state="ok")
        self.asked = 0
        self.ask: Callable[[], Awaitable[None]] | None = None

    async def health(self) -> Health:
        self.asked += 1
        if self.ask is not None:
            await self.ask()
        return self.says


class Ward:
    def __init__(self, *backends: Patient, interval: float = 3600.0, patience: float = 5.0) -> None:
        self.changes: list[tuple[str, str]] = []
        self.interval = interval
        self.supervisor = Supervisor([declared(one) for one in backends], EventHub(), self._changed)
        self.rounds = Rounds(self.supervisor, lambda: self.interval, patience)

    def _changed(self, unit: Unit) -> None:
        self.changes.append((unit.name, unit.state))

    async def start(self) -> None:
        await self.supervisor.start_all(self.supervisor.units, 5)
        self.changes.clear()

    def unit(self, name: str = "a") -> Unit:
        return next(unit for unit in self.supervisor.units if unit.name == name)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(main())


SICK = Health(state="unavailable", detail="its disk is full")


def test_one_that_is_not_well_is_unavailable_until_it_is() -> None:
    async def scene() -> None:
        backend = Patient()
        ward = Ward(backend)
        await ward.start()
        await ward.rounds.once()
        assert ward.changes == []
        backend.says = SICK
        for _ in range(2):
            await ward.rounds.once()
        assert ward.changes == [("a", "unavailable")]
        assert (ward.unit().detail, ward.unit().given_up) == ("its disk is full", False)
        backend.says = Health(state="ok")
        await ward.rounds.once()
        assert (ward.unit().state, ward.unit().detail) == ("ready", "")
        assert ward.unit().life == 1, "it is the same engine"

    play(scene)


def test_what_a_backend_reports_itself_counts_more() -> None:
    async def scene() -> None:
        backend = Patient()
        ward = Ward(backend)
        await ward.start()
        backend.report(Unavailable("its worker died"))
        await ward.rounds.once()
        assert backend.asked == 0, "it has said that it is away, and will say when it is back"
        assert ward.unit().state == "unavailable"
        backend.report(Ready())
        backend.says = SICK
        await ward.rounds.once()
        backend.report(Unavailable("and now its worker died"))
        backend.says = Health(state="ok")
        await ward.rounds.once()
        assert (ward.unit().state, ward.unit().detail) == ("unavailable", "and now its worker died")

    play(scene)


def test_an_answer_about_what_it_was_is_none() -> None:
    async def scene() -> None:
        backend, asked, answer = Patient(), asyncio.Event(), asyncio.Event()

        async def ask() -> None:
            asked.set()
            await answer.wait()

        backend.ask, backend.says = ask, SICK
        ward = Ward(backend)
        await ward.start()
        going = asyncio.ensure_future(ward.rounds.once())
        await asked.wait()
        backend.report(Unavailable("a moment"))
        backend.report(Ready())
        answer.set()
        await going
        assert ward.unit().state == "ready"

    play(scene)


def test_all_are_asked_side_by_side() -> None:
    """Each waits for the other to be asked."""

    async def scene() -> None:
        both = asyncio.Barrier(2)

        async def ask() -> None:
            await both.wait()

        a, b = Patient("a"), Patient("b")
        a.ask = b.ask = ask
        ward = Ward(a, b)
        await ward.start()
        await ward.rounds.once()
        assert (a.asked, b.asked) == (1, 1)

    play(scene)


def test_one_that_does_not_answer_is_not_well_and_is_not_asked_again_meanwhile() -> None:
    async def scene() -> None:
        backend, let_go = Patient(), asyncio.Event()

        async def ask() -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

        backend.ask = ask
        ward = Ward(backend, patience=0.01)
        await ward.start()
        for _ in range(3):
            await ward.rounds.once()
        assert backend.asked == 1
        assert ward.unit().state == "unavailable"
        assert ward.unit().detail == "it did not say within 0.01 s how it is"
        assert (await health_of(ward.unit(), 0.01)).state == "unavailable", "a status does not wait for it either"
        let_go.set()
        backend.ask = None
        while ward.unit().state != "ready":
            await ward.rounds.once()

    play(scene)


def test_a_round_comes_every_interval_and_another_interval_holds_at_once() -> None:
    async def scene() -> None:
        backend, asked = Patient(), asyncio.Semaphore(0)

        async def ask() -> None:
            asked.release()

        backend.ask = ask
        ward = Ward(backend, interval=0.0)
        await ward.start()
        ward.rounds.begin()
        for _ in range(20):
            await asyncio.sleep(0)
        assert backend.asked == 0, "0 is never"
        ward.interval = 0.001
        ward.rounds.adjust()
        for _ in range(3):
            await asked.acquire()
        await ward.rounds.aclose()
        await ward.rounds.aclose()

    play(scene)


def test_a_socket_that_could_not_be_bound_is_tried_again_after_a_round(short_dir: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(10), daemon(short_dir, backend := Patient(script=None)) as inside:
            house = inside.app.house
            told: asyncio.Queue[str] = asyncio.Queue()
            house.events.subscribe(lambda _seq, kind, _facts: told.put_nowait(kind))

            async def until(kind: str) -> None:
                while await told.get() != kind:
                    pass

            backend.report(Unavailable("gone for good", recovering=False))
            await until("socket_closed")
            (short_dir / "infer.sock").write_text("somebody else's")
            backend.report(Ready())
            await until("socket_failed")
            status = await house.status(1)
            assert status.sockets.keys() == {"admin"}
            assert "infer.sock exists and is not a socket" in status.socket_faults["infer"]
            (short_dir / "infer.sock").unlink()
            await house.roster.rounds.once()
            await until("socket_opened")
            status = await house.status(1)
            assert (set(status.sockets), status.socket_faults) == ({"admin", "infer"}, {})

    asyncio.run(main())


def test_what_waits_for_a_doubted_backend_is_served_when_it_is_well_again(short_dir: Path) -> None:
    async def main() -> None:
        async def script(_request: Any) -> Any:
            yield END

        backend = Patient(script=script)
        async with asyncio.timeout(10), daemon(short_dir, backend) as inside:
            rounds = inside.app.house.roster.rounds
            backend.says = SICK
            await rounds.once()
            caller = await inside.call(features=("queue_events",))
            caller.ask(1)
            await caller.ping()
            assert inside.app.house.generating.scheduler.waiting == 1
            assert inside.exists("infer"), "a backend that is away for a moment takes no socket away"
            backend.says = Health(state="ok")
            await rounds.once()
            assert (await caller.done(1)).stop_reason == "end"

    asyncio.run(main())
