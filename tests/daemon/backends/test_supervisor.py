"""Backends' lives: side by side, told apart, ended within a deadline, whatever an adapter does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.daemon.inside import Scripted, declared
from vestal.backend import Health, Loading, Ready, Unavailable
from vestal.errors import VestalError
from vestald.backends.registry import Declared
from vestald.backends.supervisor import Supervisor, health_of
from vestald.backends.unit import Unit
from vestald.events import EventHub
from vestald.failures import BackendFailed


class Watch:
    """A supervisor, and every change of state that it told."""

    def __init__(self, *backends: Scripted | Declared) -> None:
        self.changes: list[tuple[str, str]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        hub = EventHub()
        hub.subscribe(lambda _seq, kind, facts: self.events.append((kind, facts)))
        made = [one if isinstance(one, Declared) else declared(one) for one in backends]
        self.supervisor = Supervisor(made, hub, self._changed)

    def _changed(self, unit: Unit) -> None:
        self.changes.append((unit.name, unit.state))

    def unit(self, name: str = "scripted") -> Unit:
        return next(unit for unit in self.supervisor.units if unit.name == name)

    async def start(self, timeout: float = 5) -> None:
        await self.supervisor.start_all(self.supervisor.units, timeout)

    async def restart(self, stop_timeout: float, ready_timeout: float) -> None:
        await self.supervisor.stop(self.unit(), stop_timeout)
        await self.supervisor.start(self.unit(), ready_timeout)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(main())


async def for_ever(*_: Any) -> None:
    await asyncio.get_running_loop().create_future()


def test_all_start_side_by_side() -> None:
    """Each waits for the other to have begun: one after the other they would never be ready."""

    async def scene() -> None:
        both = asyncio.Barrier(2)

        async def start(_report: Any) -> None:
            await both.wait()

        watch = Watch(Scripted(name="a", start=start), Scripted(name="b", start=start))
        await watch.start()
        assert [unit.state for unit in watch.supervisor.units] == ["ready", "ready"]
        assert [unit.name for unit in watch.supervisor.serving] == ["a", "b"]

    play(scene)


def test_progress_is_told_in_whole_percent_and_never_falls() -> None:
    async def scene() -> None:
        async def start(report: Any) -> None:
            for percent in (0.0, 0.4, 1.0, 1.2, 50.0, 40.0, 99.9):
                report(Loading(percent, "reading"))
                seen.append(watch.unit().percent)
            assert repr(watch.unit()) == "<Unit scripted loading 100 %>"

        seen: list[float] = []
        watch = Watch(Scripted(start=start))
        await watch.start()
        assert seen == sorted(seen)
        assert watch.changes == [("scripted", "loading"), ("scripted", "ready")]
        told = [facts["percent"] for kind, facts in watch.events if kind == "backend_loading"]
        assert told == sorted(told)
        assert len(told) == len({int(percent) for percent in told})
        assert (watch.unit().percent, watch.unit().detail) == (100.0, "")

    play(scene)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (VestalError("no such file", hint="check the path"), r"backend 'bad' did not start: no such file \(check the"),
        (RuntimeError("oops"), r"backend 'bad' did not start: RuntimeError: oops .*fault in adapter 'scripted'"),
        (TimeoutError(), r"backend 'bad' did not start: TimeoutError"),
    ],
)
def test_the_first_that_fails_ends_the_start_of_the_others(fault: Exception, says: str) -> None:
    async def scene() -> None:
        ended = asyncio.Event()

        async def slow(_report: Any) -> None:
            try:
                await for_ever()
            finally:
                ended.set()

        async def bad(_report: Any) -> None:
            raise fault

        watch = Watch(Scripted(name="slow", start=slow), Scripted(name="bad", start=bad))
        with pytest.raises(BackendFailed) as failed:
            await watch.start()
        assert failed.match(says)
        assert failed.value.exit_code == 69
        assert ended.is_set()
        assert watch.unit("bad").state == "failed"
        assert watch.supervisor.serving == []

    play(scene)


def test_those_that_are_too_slow_are_named_with_how_far_they_came() -> None:
    async def scene() -> None:
        async def slow(report: Any) -> None:
            report(Loading(42.0))
            await for_ever()

        watch = Watch(Scripted(name="slow", start=slow), Scripted(name="quick"))
        with pytest.raises(BackendFailed, match=r"not ready within 0.05 s: slow at 42 %.*daemon.ready_timeout"):
            await watch.start(0.05)

    play(scene)


def test_a_backend_goes_away_and_comes_back_by_its_own_report() -> None:
    async def scene() -> None:
        backend = Scripted()
        watch = Watch(backend)
        await watch.start()
        backend.report(Ready())  # it is ready: nothing changes
        backend.report(Unavailable("its worker died"))
        assert (watch.unit().state, watch.unit().detail, watch.unit().given_up) == (
            "unavailable",
            "its worker died",
            False,
        )
        assert watch.supervisor.serving == [watch.unit()]
        backend.report(Loading(10.0))  # the next worker's progress does not make it less unavailable
        assert watch.unit().state == "unavailable"
        backend.report(Ready())
        assert (watch.unit().state, watch.unit().detail) == ("ready", "")
        assert [state for _, state in watch.changes] == ["ready", "unavailable", "ready"]

    play(scene)


def test_giving_up_is_told_even_though_the_state_stays() -> None:
    async def scene() -> None:
        backend = Scripted()
        watch = Watch(backend)
        await watch.start()
        backend.report(Unavailable("died"))
        backend.report(Unavailable("died too often", recovering=False))
        assert [state for _, state in watch.changes] == ["ready", "unavailable", "unavailable"]
        assert watch.unit().given_up
        assert watch.unit().detail == "died too often"

    play(scene)


def test_a_restart_is_a_stop_and_a_start_during_which_it_still_counts_as_served() -> None:
    async def scene() -> None:
        backend = Scripted()
        watch = Watch(backend)
        await watch.start()
        backend.report(Unavailable("died", recovering=False))
        watch.changes.clear()
        await watch.restart(1.0, 1.0)
        assert [state for _, state in watch.changes] == ["stopping", "stopped", "starting", "ready"]
        assert (backend.starts, watch.unit().given_up) == (2, False)
        assert watch.supervisor.serving == [watch.unit()]

    play(scene)


@pytest.mark.parametrize("wrong", ["hangs", "raises"])
def test_a_restart_whose_stop_goes_wrong_is_a_failure(wrong: str) -> None:
    async def scene() -> None:
        async def stop(_timeout: float) -> None:
            if wrong == "raises":
                raise RuntimeError
            await for_ever()

        watch = Watch(Scripted(stop=stop))
        await watch.start()
        with pytest.raises(BackendFailed, match="did not stop"):
            await watch.restart(0.01, 1.0)
        assert watch.unit().state == "stopping"

    play(scene)


def test_a_restart_that_takes_too_long_is_a_failure_and_can_be_tried_again() -> None:
    async def scene() -> None:
        slow = [False]

        async def start(report: Any) -> None:
            if slow[0]:
                report(Loading(5.0))
                await for_ever()

        watch = Watch(Scripted(start=start))
        await watch.start()
        slow[0] = True
        with pytest.raises(BackendFailed, match=r"not ready within 0\.02 s: scripted at 5 %"):
            await watch.restart(1.0, 0.02)
        assert watch.unit().state == "failed"
        slow[0] = False
        await watch.restart(1.0, 1.0)
        assert watch.unit().state == "ready"

    play(scene)


def test_a_restart_that_does_not_come_back_leaves_a_failed_backend_that_can_be_restarted() -> None:
    async def scene() -> None:
        broken = [False]

        async def start(_report: Any) -> None:
            if broken[0]:
                raise VestalError("no memory")

        watch = Watch(Scripted(start=start))
        await watch.start()
        broken[0] = True
        with pytest.raises(BackendFailed, match="no memory"):
            await watch.restart(1.0, 1.0)
        assert (watch.unit().state, watch.unit().detail) == ("failed", "no memory")
        broken[0] = False
        await watch.restart(1.0, 1.0)
        assert watch.unit().state == "ready"

    play(scene)


def test_all_stop_side_by_side_and_those_that_will_not_are_named() -> None:
    async def scene() -> None:
        both = asyncio.Barrier(2)
        told: list[float] = []

        async def stop(timeout: float) -> None:
            told.append(timeout)
            await both.wait()

        async def broken(_timeout: float) -> None:
            raise RuntimeError("in stop")

        watch = Watch(
            Scripted(name="a", stop=stop),
            Scripted(name="b", stop=stop),
            Scripted(name="stuck", stop=for_ever),
            Scripted(name="broken", stop=broken),
        )
        await watch.start()
        assert await watch.supervisor.stop_all(0.1) == ["stuck"]
        assert told == [0.1, 0.1]
        assert [unit.state for unit in watch.supervisor.units] == ["stopped", "stopped", "stopping", "stopping"]
        failed = [facts for kind, facts in watch.events if kind == "backend_stop_failed"]
        assert [facts["backend"] for facts in failed] == ["broken"]

    play(scene)


def test_where_there_is_no_backend_there_is_nothing_to_stop() -> None:
    async def scene() -> None:
        assert await Watch().supervisor.stop_all(1.0) == []

    play(scene)


def test_one_that_has_given_up_is_there_again_when_it_is_started_again_or_comes_back_all_the_same() -> None:
    async def scene() -> None:
        watch = Watch(backend := Scripted())
        await watch.start()
        gone = Unavailable("it died too often", recovering=False)
        backend.report(gone)
        assert (watch.unit().given_up, watch.unit().here) == (True, False)
        backend.report(Ready())
        assert (watch.unit().given_up, watch.unit().here) == (False, True)
        backend.report(gone)
        await watch.supervisor.stop(watch.unit(), 1.0)
        assert not watch.unit().here, "what is taken away for good must not seem to come back for a moment"
        await watch.supervisor.start(watch.unit(), 1.0)
        assert watch.unit().here

    play(scene)


@pytest.mark.parametrize("required", [True, False])
def test_one_whose_start_has_failed_says_so_while_others_are_tried(required: bool) -> None:
    """A restart may take its time; one after a failure may come to nothing, as the last."""

    async def scene() -> None:
        faults = iter([None, VestalError("nobody there"), None])

        async def start(_report: Any) -> None:
            seen.append(watch.unit().started_again)
            if (fault := next(faults)) is not None:
                raise fault

        seen: list[bool] = []
        watch = Watch(declared(Scripted(start=start), required=required))
        await watch.start()
        with pytest.raises(BackendFailed):
            await watch.restart(1.0, 1.0)
        assert watch.unit().started_again is not required
        assert watch.unit().told == "nobody there"
        await watch.supervisor.start(watch.unit(), 1.0)
        assert (seen, watch.unit().started_again) == ([False, False, not required], False)

    play(scene)


def test_one_that_does_not_stop_is_not_to_be_restarted() -> None:
    async def scene() -> None:
        let_go = asyncio.Event()

        async def stop(_timeout: float) -> None:
            await let_go.wait()

        watch = Watch(Scripted(stop=stop))
        await watch.start()
        assert watch.unit().remedy == "an operator can restart it: vestal backend restart scripted"
        with pytest.raises(BackendFailed):
            await watch.supervisor.stop(watch.unit(), 0.01)
        assert watch.unit().stuck
        assert "restart the daemon" in watch.unit().remedy
        assert "backend restart" not in watch.unit().remedy
        let_go.set()
        await watch.supervisor.stop(watch.unit(), 1.0)
        assert (watch.unit().state, watch.unit().stuck) == ("stopped", False)

    play(scene)


def test_a_backend_that_never_started_is_stopped_all_the_same() -> None:
    async def scene() -> None:
        stopped: list[float] = []

        async def stop(timeout: float) -> None:
            stopped.append(timeout)

        watch = Watch(Scripted(stop=stop))
        assert await watch.supervisor.stop_all(1.0) == []
        assert stopped == [1.0]
        assert watch.unit().state == "stopped"

    play(scene)


def test_health_that_raises_costs_only_its_own_answer() -> None:
    class Broken(Scripted):
        async def health(self) -> Health:
            raise RuntimeError("no")

    async def scene() -> None:
        watch = Watch(Broken(name="broken"), Scripted(name="fine"))
        broken, fine = [await health_of(unit) for unit in watch.supervisor.units]
        assert (broken.state, broken.detail) == ("unavailable", "health() raised RuntimeError")
        assert fine.state == "ok"

    play(scene)
