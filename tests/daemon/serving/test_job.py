"""A request's handles: ended once, by the first reason; listed without its content; waited for."""

from __future__ import annotations

import asyncio

import pytest

from vestal.errors import BackendUnavailable
from vestald.admission.ticket import Ticket, TicketState
from vestald.entrance.peer import Peer
from vestald.serving.job import Ended, Hold, Job, Jobs


class Owner:
    peer = Peer(pid=7, uid=1000, gid=1000)
    client = "editor/1.4"


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


def test_numbers_are_the_daemons_and_never_used_again() -> None:
    async def main() -> None:
        all = Jobs()
        first, second = (all.new(5, Owner(), 0.0) for _ in range(2))
        assert (first.number, second.number) == (1, 2)
        all.forget(second)
        assert all.new(5, Owner(), 0.0).number == 3
        assert all.get(2) is None
        assert all.get(1) is first
        assert len(all) == 2

    asyncio.run(main())


def test_idle_returns_when_the_last_job_is_forgotten_and_at_once_without_any() -> None:
    async def main() -> None:
        all = Jobs()
        await all.idle()
        first, second = (all.new(id, Owner(), 0.0) for id in range(2))
        waiting = asyncio.ensure_future(all.idle())
        all.forget(first)
        all.forget(first)
        await asyncio.sleep(0)
        assert not waiting.done()
        all.forget(second)
        await waiting

    asyncio.run(main())


@pytest.mark.parametrize("why", Ended)
def test_a_job_that_has_begun_is_told_and_then_cancelled(why: Ended) -> None:
    async def main() -> None:
        job, told = Job(1, 1, Owner(), 0.0), list[Ended]()

        async def work() -> None:
            job.interrupt = told.append
            await asyncio.get_running_loop().create_future()

        job.task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        job.cancel(why)
        assert told == [why]  # before the task has had a chance to do anything
        with pytest.raises(asyncio.CancelledError):
            await job.task

    asyncio.run(main())


def test_a_job_that_has_not_begun_begins_and_sees_that_it_has_ended() -> None:
    async def main() -> None:
        job, seen = Job(1, 1, Owner(), 0.0), list[Ended | None]()

        async def work() -> None:
            seen.append(job.ended)

        job.task = asyncio.ensure_future(work())
        job.cancel(Ended.CLIENT)
        await job.task
        assert seen == [Ended.CLIENT]

    asyncio.run(main())


def test_the_first_reason_counts_and_the_task_is_cancelled_once() -> None:
    async def main() -> None:
        job, told = Job(1, 1, Owner(), 0.0), list[Ended]()
        job.interrupt = told.append
        job.task = asyncio.ensure_future(_never())
        await asyncio.sleep(0)
        for why in (Ended.OPERATOR, Ended.CLIENT, Ended.SHUTDOWN):
            job.cancel(why)
        assert (job.ended, told, job.task.cancelling()) == (Ended.OPERATOR, [Ended.OPERATOR], 1)
        with pytest.raises(asyncio.CancelledError):
            await job.task

    asyncio.run(main())


@pytest.mark.parametrize("state", TicketState)
def test_an_operator_sees_who_and_how_much(state: TicketState) -> None:
    job = Job(9, 1, Owner(), accepted=10.0, priority="batch")
    job.backend, job.output_tokens = "chat", 5
    job.tickets = [Ticket(9, "chat", 1000, 1)]
    job.tickets[0].state = state
    entry = job.entry(12.5, 3)
    assert (entry.request, entry.backend, entry.priority) == (9, "chat", "batch")
    assert (entry.uid, entry.pid, entry.client) == (1000, 7, "editor/1.4")
    waits = state is not TicketState.RUNNING
    assert (entry.age_ms, entry.position, entry.output_tokens) == (2500, 3 if waits else None, 5)
    assert entry.state == ("running" if state is TicketState.RUNNING else "waiting")
    assert repr(job) == f"<Job #9 id=1 {entry.state} tokens=5>"


def test_a_job_runs_in_the_backend_whose_slot_one_of_its_parts_holds() -> None:
    job = Jobs().new(1, Owner(), 0.0)
    states = {"a": TicketState.RUNNING, "b": TicketState.WAITING, "c": TicketState.ENDED}
    for lane, state in states.items():
        ticket = Ticket(job.number, lane, uid=1000, connection=1)
        ticket.state = state
        job.tickets.append(ticket)
    assert [lane for lane in states if job.runs_in(lane)] == ["a"]
    assert job.backends == {"a", "b"}


@pytest.mark.parametrize("spares", [None, False, True])
def test_a_job_whose_backend_is_stopped_ends_unless_it_can_spare_that_one(spares: bool | None) -> None:
    async def main() -> None:
        job, asked = Job(1, 1, Owner(), 0.0), list[str]()
        job.backend = "a"

        def spare(backend: str) -> bool:
            asked.append(backend)
            return bool(spares)

        if spares is not None:
            job.spare = spare
        job.task = asyncio.ensure_future(asyncio.sleep(0) if spares else _never())
        told = list[tuple[Ended, str]]()
        job.interrupt = lambda why: told.append((why, job.backend))
        await asyncio.sleep(0)
        job.cut("b")
        assert told == ([] if spares else [(Ended.STOPPED, "b")]), "the backend that is stopped is the one named"
        assert (job.ended, asked) == (None if spares else Ended.STOPPED, [] if spares is None else ["b"])
        job.cancel(Ended.CLIENT)
        job.cut("c")
        assert (job.ended, job.backend) == ((Ended.CLIENT, "a") if spares else (Ended.STOPPED, "b"))
        await asyncio.wait({job.task})

    asyncio.run(main())


class Engine:
    """Something to hold; `cancelled` says how it takes that."""

    def __init__(self, cancelled: object = None) -> None:
        self.hold, self.begun, self._cancelled = Hold("b"), asyncio.Event(), cancelled

    async def run(self) -> object:
        task = asyncio.current_task()
        assert task is not None
        try:
            with self.hold:
                return await self._work()
        finally:
            assert not (self._cancelled == "alone" and task.cancelling()), "nothing is left of a cut"

    async def _work(self) -> object:
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if isinstance(self._cancelled, Exception):
                raise self._cancelled from None
            if self._cancelled == "done":
                return "done"
            raise
        raise AssertionError


@pytest.mark.parametrize("how", ["alone", "done", RuntimeError("oops"), "all"], ids=str)
def test_what_a_backend_holds_ends_alone_and_the_task_goes_on(how: object) -> None:
    async def main() -> None:
        engine = Engine(how)
        engine.hold.cut()  # nothing is held yet
        task = asyncio.ensure_future(engine.run())
        await engine.begun.wait()
        engine.hold.cut()
        engine.hold.cut()
        if how == "all":
            task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        engine.hold.cut()  # nothing is held any more
        if how == "alone":
            assert isinstance(ended, BackendUnavailable)
            assert (ended.details, ended.retryable) == ({"backend": "b"}, True)
            assert "an operator stops its backend, 'b'" in ended.message
        elif how == "all":
            assert isinstance(ended, asyncio.CancelledError)
        else:
            assert ended is how or ended == how
        assert task.cancelling() == (1 if how == "all" else 0)

    asyncio.run(main())
