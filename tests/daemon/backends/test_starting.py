"""The gate, and starts that are tried until they succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import pytest

from tests.daemon.inside import Scripted, declared
from vestal.backend import Loading, Ready, Unavailable
from vestal.errors import VestalError
from vestald.backends import starting
from vestald.backends.registry import Declared
from vestald.backends.starting import PAUSES, Starts
from vestald.backends.supervisor import Supervisor
from vestald.backends.unit import Unit
from vestald.events import EventHub
from vestald.failures import BackendFailed


class Stage:
    """Starts, what became of them, and the pauses that were made, which last no time."""

    def __init__(self, *backends: Declared, patience: float = 5.0) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        hub = EventHub()
        hub.subscribe(lambda _seq, kind, facts: self.events.append((kind, facts)))
        self.supervisor = Supervisor(backends, hub, self._changed)
        self.starts = Starts(self.supervisor, hub, lambda: patience)

    def _changed(self, unit: Unit) -> None:
        self.starts.saw(unit)

    def unit(self, name: str) -> Unit:
        return next(unit for unit in self.supervisor.units if unit.name == name)

    def states(self, name: str) -> list[str]:
        """As they were told."""
        return [f["state"] for kind, f in self.events if kind == "backend_state" and f["backend"] == name]


def optional(backend: Scripted) -> Declared:
    return declared(backend, required=False)


def failing(times: int, *reasons: str) -> Callable[[Any], Awaitable[None]]:
    """A start that fails so often, for one reason after the other, and then succeeds."""
    faults = iter([VestalError(reasons[n % len(reasons)]) for n in range(times)])

    async def start(_report: Any) -> None:
        if (fault := next(faults, None)) is not None:
            raise fault

    return start


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(main())


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are made; none takes any time."""
    made: list[float] = []

    class Clock:
        """`asyncio`, with another `sleep`."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def sleep(self, seconds: float) -> None:
            made.append(seconds)
            await asyncio.sleep(0)

    monkeypatch.setattr(starting, "asyncio", Clock())
    return made


def test_the_gate_waits_for_those_that_are_required_and_for_nobody_else() -> None:
    async def scene() -> None:
        released = asyncio.Event()

        async def slow(report: Any) -> None:
            report(Loading(1.0))
            await released.wait()

        stage = Stage(declared(Scripted(name="a")), optional(Scripted(name="b", start=slow)))
        await stage.starts.gate()
        assert [unit.state for unit in stage.supervisor.units] == ["ready", "loading"]
        assert stage.starts.under_way(stage.unit("b"))
        released.set()
        while stage.unit("b").state != "ready":
            await asyncio.sleep(0)
        assert not stage.starts.under_way(stage.unit("a"))

    play(scene)


def test_a_required_one_that_fails_ends_the_wait_though_others_are_ready() -> None:
    async def scene() -> None:
        stage = Stage(optional(Scripted(name="a")), declared(Scripted(name="b", start=failing(1, "no memory"))))
        with pytest.raises(BackendFailed, match="no memory"):
            await stage.starts.gate()

    play(scene)


def test_without_a_required_one_the_gate_waits_for_the_first_that_can_do_something() -> None:
    async def scene() -> None:
        released = asyncio.Event()

        async def slow(_report: Any) -> None:
            await released.wait()

        useless = Scripted(name="a", generate=False)
        stage = Stage(optional(useless), optional(Scripted(name="b", start=slow)))
        gate = asyncio.ensure_future(stage.starts.gate())
        while stage.unit("a").state != "ready":
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not gate.done()
        released.set()
        await gate

    play(scene)


def test_where_none_will_ever_do_anything_the_wait_ends() -> None:
    async def scene() -> None:
        stage = Stage(optional(Scripted(name="a", generate=False)), declared(Scripted(name="b", generate=False)))
        with pytest.raises(BackendFailed, match="no backend can generate or embed"):
            await stage.starts.gate()

    play(scene)


def test_one_that_is_not_required_is_started_until_it_is_ready_with_growing_pauses(pauses: list[float]) -> None:
    async def scene() -> None:
        stops: list[float] = []

        async def stop(timeout: float) -> None:
            stops.append(timeout)

        tries = len(PAUSES) + 2
        backend = Scripted(name="b", start=failing(tries, "nobody there"), stop=stop)
        stage = Stage(declared(Scripted(name="a")), optional(backend))
        await stage.starts.gate()
        while stage.unit("b").state != "ready":
            await asyncio.sleep(0)
        assert pauses == [*PAUSES, PAUSES[-1], PAUSES[-1]]
        assert sorted(PAUSES) == [*PAUSES]
        assert PAUSES[-1] == 60
        assert backend.starts == tries + 1
        assert len(stops) == tries, "what a failed start leaves behind is let go of before the next"
        assert stage.states("b") == ["failed", "ready"], "one reason is told once"

    play(scene)


def test_another_reason_to_fail_is_told(pauses: list[float]) -> None:
    async def scene() -> None:
        stage = Stage(
            declared(Scripted(name="a")), optional(Scripted(name="b", start=failing(6, "one", "one", "other")))
        )
        await stage.starts.gate()
        while stage.unit("b").state != "ready":
            await asyncio.sleep(0)
        told = [f["detail"] for kind, f in stage.events if kind == "backend_state" and f["state"] == "failed"]
        assert told == ["one", "other", "one", "other"]
        assert stage.unit("b").detail == ""

    play(scene)


def test_each_try_is_bounded_and_the_next_waits_until_the_last_has_let_go(pauses: list[float]) -> None:
    """An adapter that swallows its cancellation never has two starts at once."""

    async def scene() -> None:
        let_go, starts = asyncio.Event(), 0

        async def start(report: Any) -> None:
            nonlocal starts
            starts += 1
            report(Loading(5.0, "asking"))
            while starts == 1 and not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    swallowed.set()

        swallowed = asyncio.Event()
        stage = Stage(declared(Scripted(name="a")), optional(Scripted(name="b", start=start)), patience=0.3)
        await stage.starts.gate()
        await swallowed.wait()
        while stage.unit("b").state != "failed" or not pauses:
            await asyncio.sleep(0.001)  # its grace is seconds long, and nothing tells of its end
        assert stage.unit("b").detail.startswith("not ready within 0.3 s: b at 5 % (asking)")
        assert starts == 1
        let_go.set()
        while stage.unit("b").state != "ready":
            await asyncio.sleep(0)
        assert starts == 2

    play(scene)


def test_an_operators_start_of_a_required_one_is_tried_once() -> None:
    async def scene() -> None:
        stage = Stage(declared(Scripted(name="a")))
        await stage.starts.gate()
        unit = stage.supervisor.add(declared(Scripted(name="b", start=failing(1, "no file"))), 1)
        stage.starts.begin(unit)
        while stage.starts.under_way(unit):
            await asyncio.sleep(0)
        assert unit.state == "failed"
        assert [facts for kind, facts in stage.events if kind == "backend_start_failed"] == [
            {"backend": "b", "error": "backend 'b' did not start: no file"}
        ]

    play(scene)


@pytest.mark.parametrize("required", [True, False])
def test_a_fault_of_the_daemons_own_is_told_to_who_waits_for_a_start(required: bool) -> None:
    async def scene() -> None:
        stage = Stage(declared(Scripted(name="a")))
        await stage.starts.gate()
        unit = stage.supervisor.add(declared(Scripted(name="b"), required=required), 1)
        with patch.object(stage.supervisor, "start", side_effect=KeyError("who")):
            stage.starts.begin(unit)
            while stage.starts.under_way(unit):
                await asyncio.sleep(0)
        ((_, facts),) = [told for told in stage.events if told[0] == "backend_start_failed"]
        assert "KeyError: 'who' (this is a fault in vestald" in facts["error"]
        assert (unit.state, unit.detail) == ("failed", facts["error"])

    play(scene)


def test_the_gate_is_not_opened_by_one_that_has_given_up_and_the_daemon_does_not_end_for_it() -> None:
    async def scene() -> None:
        released = asyncio.Event()

        async def slow(_report: Any) -> None:
            await released.wait()

        first = Scripted(name="a")
        stage = Stage(optional(first), declared(Scripted(name="b", start=slow, generate=False)))
        gate = asyncio.ensure_future(stage.starts.gate())
        while stage.unit("a").state != "ready":
            await asyncio.sleep(0)
        first.report(Unavailable("it died too often", recovering=False))
        released.set()
        while stage.unit("b").state != "ready":
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not gate.done()
        first.report(Ready())
        await gate

    play(scene)


def test_a_start_can_be_called_off() -> None:
    async def scene() -> None:
        ended = asyncio.Event()

        async def slow(_report: Any) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        stage = Stage(declared(Scripted(name="a")), optional(Scripted(name="b", start=slow)))
        await stage.starts.gate()
        await stage.starts.call_off(stage.unit("b"))
        assert ended.is_set()
        assert not stage.starts.under_way(stage.unit("b"))
        await stage.starts.call_off(stage.unit("b"))
        await stage.starts.aclose(1.0)

    play(scene)
