"""The scheduler's shell on an event loop: slots are taken, waited for, and given back however a holder ends."""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from vestal.errors import BackendUnavailable, QueueFull, QueueTimeout
from vestald.admission import dispatcher
from vestald.admission.dispatcher import Dispatcher
from vestald.admission.lane import Lane
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket, TicketState


class Stage:
    """A dispatcher with one lane, and holders that run until they are told to end."""

    def __init__(self, slots: int = 1, *, queue_depth: int = 64) -> None:
        self.dispatcher = Dispatcher(Scheduler(queue_depth=queue_depth, per_caller=64))
        self.dispatcher.open_lane("a", slots)
        self.running: list[int] = []
        self.told: dict[int, list[tuple[int, int]]] = {}
        self.noted = asyncio.Event()
        self._numbers = 0
        self._holders: list[asyncio.Task[None]] = []  # the loop holds tasks weakly

    def enter(self, *, wait: float | None = None, watch: bool = False) -> tuple[asyncio.Task[None], asyncio.Event]:
        """A task that takes a slot and holds it until the event; `running` lists who holds one."""
        self._numbers += 1
        number, release = self._numbers, asyncio.Event()
        ticket = Ticket(number, "a", uid=1, connection=1, accepted=self.dispatcher._now(), queue_timeout=wait)
        watcher = (lambda position, depth, _eta: self._note(number, position, depth)) if watch else None

        async def hold() -> None:
            async with self.dispatcher.slot(ticket, watcher) as held:
                assert held is ticket
                assert ticket.state is TicketState.RUNNING
                self.running.append(number)
                try:
                    await release.wait()
                finally:
                    self.running.remove(number)

        self._holders.append(asyncio.create_task(hold()))
        return self._holders[-1], release

    def _note(self, number: int, position: int, depth: int) -> None:
        self.told.setdefault(number, []).append((position, depth))
        self.noted.set()

    @property
    def counts(self) -> tuple[int, int]:
        return self.dispatcher.scheduler.running, self.dispatcher.scheduler.waiting


async def settle() -> None:
    """Let everything that is ready run: no timer, no sleep."""
    for _ in range(10):
        await asyncio.sleep(0)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await scene()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    asyncio.run(main())


def test_no_more_hold_a_slot_than_there_are_and_the_next_starts_when_one_ends() -> None:
    async def scene() -> None:
        stage = Stage(slots=2)
        holders = [stage.enter() for _ in range(5)]
        await settle()
        assert (stage.running, stage.counts) == ([1, 2], (2, 3))
        holders[1][1].set()
        await settle()
        assert stage.running == [1, 3]
        for _, release in holders:
            release.set()
        await asyncio.gather(*(task for task, _ in holders))
        assert stage.counts == (0, 0)

    play(scene)


def test_a_holder_that_fails_gives_its_slot_back() -> None:
    async def scene() -> None:
        stage = Stage()
        ticket = Ticket(99, "a", uid=1, connection=1)
        with pytest.raises(RuntimeError):
            async with stage.dispatcher.slot(ticket):
                raise RuntimeError
        assert ticket.state is TicketState.ENDED
        assert stage.counts == (0, 0)

    play(scene)


@pytest.mark.parametrize("who", [1, 2, 3])
def test_a_holder_and_a_waiter_that_are_cancelled_leave_nothing_behind(who: int) -> None:
    async def scene() -> None:
        stage = Stage()
        holders = [stage.enter() for _ in range(3)]
        await settle()
        task, _ = holders[who - 1]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert stage.running == [2 if who == 1 else 1]
        assert stage.counts == (1, 1)

    play(scene)


def test_a_waiter_cancelled_in_the_moment_it_was_given_a_slot_does_not_keep_it() -> None:
    async def scene() -> None:
        stage = Stage()
        (first, release), (second, _), (third, _) = (stage.enter() for _ in range(3))
        await settle()
        release.set()
        while stage.dispatcher.scheduler.waiting == 2:
            await asyncio.sleep(0)
        second.cancel()  # its future is done, and it has not run since
        await asyncio.gather(first, second, return_exceptions=True)
        await settle()
        assert second.cancelled()
        assert stage.running == [3]
        third.cancel()

    play(scene)


def test_a_full_queue_is_said_at_once() -> None:
    async def scene() -> None:
        stage = Stage(queue_depth=1)
        _, _, (third, _) = (stage.enter() for _ in range(3))
        with pytest.raises(QueueFull):
            await third
        assert stage.counts == (1, 1)

    play(scene)


def test_a_queue_deadline_ends_the_wait_and_only_that() -> None:
    async def scene() -> None:
        stage = Stage()
        (_, release), (hurried, _), (patient, _) = stage.enter(), stage.enter(wait=0.02), stage.enter()
        with pytest.raises(QueueTimeout) as late:
            await hurried
        assert late.value.details["waited_ms"] >= 20
        assert stage.counts == (1, 1)
        release.set()
        await settle()
        assert stage.running == [3]
        patient.cancel()

    play(scene)


def test_deadlines_are_kept_in_whatever_order_they_come() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.enter()
        waits = [0.06, 0.02, 0.04]
        tasks = [stage.enter(wait=wait)[0] for wait in waits]
        order: list[int] = []
        for index, task in enumerate(tasks):
            task.add_done_callback(lambda _, index=index: order.append(index))  # type: ignore[misc]  # bound at once
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [1, 2, 0]
        assert stage.dispatcher._timer is None

    play(scene)


def test_positions_are_told_once_each_in_the_turn_after() -> None:
    async def scene() -> None:
        stage = Stage()
        (_, release), *_ = (stage.enter(watch=True) for _ in range(4))
        await settle()
        assert stage.told == {2: [(1, 3)], 3: [(2, 3)], 4: [(3, 3)]}  # the first never waited
        release.set()
        await settle()
        assert stage.told == {2: [(1, 3)], 3: [(2, 3), (1, 2)], 4: [(3, 3), (2, 2)]}

    play(scene)


def test_a_shut_lane_starts_nothing_until_it_opens() -> None:
    async def scene() -> None:
        stage = Stage(slots=2)
        stage.dispatcher.shut_lane("a")
        task, release = stage.enter()
        await settle()
        assert stage.counts == (0, 1)
        stage.dispatcher.open_lane("a", 2)
        await settle()
        assert stage.running == [1]
        release.set()
        await task

    play(scene)


def test_a_lane_that_opens_with_more_slots_fills_them_at_once() -> None:
    async def scene() -> None:
        stage = Stage(slots=1)
        for _ in range(4):
            stage.enter()
        await settle()
        stage.dispatcher.open_lane("a", 3)
        await settle()
        assert stage.running == [1, 2, 3]

    play(scene)


def test_a_failed_lane_ends_what_waits_and_refuses_what_comes_until_it_opens() -> None:
    async def scene() -> None:
        stage = Stage()
        (_, release), (waiting, _) = stage.enter(), stage.enter()
        await settle()
        stage.dispatcher.fail_lane("a", "its worker died")
        with pytest.raises(BackendUnavailable, match="backend 'a' is not serving: its worker died"):
            await waiting
        late, _ = stage.enter()
        with pytest.raises(BackendUnavailable, match="its worker died"):
            await late
        assert stage.counts == (1, 0)  # what runs is the backend's to end
        release.set()
        stage.dispatcher.open_lane("a", 1)
        stage.enter()
        await settle()
        assert stage.running == [4]

    play(scene)


def test_what_comes_while_a_failed_backend_is_started_again_waits() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.dispatcher.fail_lane("a", "gone")
        stage.dispatcher.shut_lane("a")
        stage.enter()
        await settle()
        assert stage.counts == (0, 1)

    play(scene)


def test_a_lane_that_is_not_there_can_be_shut_and_failed_and_takes_nothing() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(Scheduler(queue_depth=1, per_caller=1))
        dispatcher.shut_lane("b")
        dispatcher.fail_lane("b", "gone")
        with pytest.raises(BackendUnavailable):
            async with dispatcher.slot(Ticket(1, "b", uid=1, connection=1)):
                pass

    play(scene)


def test_a_lane_that_stays_away_too_long_lets_its_queue_go_and_no_other() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.dispatcher.scheduler.unavailable_timeout = 0.03
        stage.dispatcher.open_lane("b", 1)
        stage.dispatcher.shut_lane("a")
        waiting, _ = stage.enter()
        with pytest.raises(BackendUnavailable, match="away"):
            await waiting
        async with stage.dispatcher.slot(Ticket(99, "b", uid=1, connection=1)):
            assert stage.counts == (1, 0)
        stage.dispatcher.open_lane("a", 1)
        stage.enter()
        await settle()
        assert stage.running == [2]

    play(scene)


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_a_step_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    async def scene() -> None:
        stage = Stage()
        (_, release), (hurried, _), (patient, _) = stage.enter(), stage.enter(wait=0.05), stage.enter(wait=3600.0)
        await settle()
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + step)
        monkeypatch.setattr(time, "time_ns", lambda: round(1e9 * (wall() + step)))
        await settle()
        assert stage.counts == (1, 2)
        with pytest.raises(QueueTimeout) as late:
            await hurried
        assert 50 <= late.value.details["waited_ms"] < 10_000
        release.set()
        await settle()
        assert stage.running == [3]
        patient.cancel()

    play(scene)


def test_no_decision_of_the_daemon_reads_the_wall_clock() -> None:
    """What a log line says of when is no decision: those modules are named."""
    written = {"audit/log.py", "audit/journal.py", "logs.py"}
    wall = re.compile(r"\btime\.(time|time_ns|localtime|gmtime)\(|\bdatetime\b|CLOCK_REALTIME")
    package = Path(dispatcher.__file__).parents[1]
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if wall.search(path.read_text("utf-8"))}
    assert found <= written
    assert "admission/dispatcher.py" in {str(path.relative_to(package)) for path in package.rglob("*.py")}


def test_what_was_foretold_first_is_kept_to_be_compared_with_what_came() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.dispatcher.pace("a").learn(2.0, None)
        before = stage.dispatcher._now()
        stage.enter(watch=True)
        stage.enter(watch=True)
        await settle()
        first, second = stage.dispatcher._futures
        assert first.promised is None  # it never waited
        assert second.promised is not None
        assert 1.0 < second.promised - before < 3.0

    play(scene)


def test_a_long_queue_is_told_its_changes_together() -> None:
    async def scene() -> None:
        stage = Stage(queue_depth=1000)
        stage.dispatcher.scheduler.per_caller = 1000
        holders = [stage.enter(watch=True) for _ in range(501)]
        while len(stage.told) < 500:
            await asyncio.sleep(0)
        for index in range(10):
            holders[index][1].set()
            await settle()
        passes = {len(told) for number, told in stage.told.items() if number > 20}
        assert max(passes) < 10  # ten changes, told in fewer passes
        while stage.told[501][-1][0] != 490:
            stage.noted.clear()
            await stage.noted.wait()

    play(scene)


def test_a_thousand_holders_leave_an_empty_dispatcher() -> None:
    async def scene() -> None:
        stage = Stage(slots=3, queue_depth=2000)
        stage.dispatcher.scheduler.per_caller = 2000
        holders = [stage.enter(watch=True, wait=100.0 if n % 3 else None) for n in range(1000)]
        for index, (task, release) in enumerate(holders):
            release.set()
            if index % 5 == 0:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*(task for task, _ in holders), return_exceptions=True)
        assert stage.counts == (0, 0)
        assert not stage.dispatcher._futures
        assert not stage.dispatcher._watchers
        assert repr(stage.dispatcher) == "<Dispatcher <Scheduler waiting=0/2000 running=0 lanes=1>>"

    play(scene)


def test_idle_is_told_when_the_last_has_left_its_slot_and_if_asked_for_the_queue() -> None:
    async def main() -> None:
        stage = Stage()
        first, release = stage.enter()
        second, release_second = stage.enter()
        while stage.counts != (1, 1):
            await asyncio.sleep(0)
        stage.dispatcher.shut_lane("a")
        no_more = asyncio.create_task(stage.dispatcher.idle("a", waiting=False))
        nobody = asyncio.create_task(stage.dispatcher.idle("a", waiting=True))
        release.set()
        await first
        await no_more
        assert not nobody.done()
        stage.dispatcher.drop_lane("a")
        await nobody
        with pytest.raises(BackendUnavailable, match="was removed by an operator"):
            await second
        assert not release_second.is_set()
        await stage.dispatcher.idle("a", waiting=True)

    asyncio.run(main())


# --- two dispatchers of the same backends ---------------------------------------------------------------------


def test_a_turn_that_ends_without_a_verdict_is_the_other_lanes_next() -> None:
    async def scene() -> None:
        kin = defaultdict[str, list[Lane]](list)
        pair = [Dispatcher(Scheduler(queue_depth=64, per_caller=64, kin=kin)) for _ in range(2)]
        pair[0].beside, pair[1].beside = pair[1], pair[0]
        for one in pair:
            one.open_lane("a", 2, 0.0)
        order: list[tuple[int, int]] = []
        ends = {(side, number): asyncio.Event() for side in range(2) for number in range(3)}

        async def hold(side: int, number: int) -> None:
            async with pair[side].slot(Ticket(number, "a", uid=1, connection=1)):
                order.append((side, number))
                await ends[side, number].wait()

        holders = [asyncio.create_task(hold(side, number)) for number in range(3) for side in range(2)]
        for turn in range(6):
            await settle()
            assert len(order) == turn + 1
            ends[order[-1]].set()
        await asyncio.gather(*holders)
        assert order == [(side, number) for number in range(3) for side in range(2)]

    play(scene)
