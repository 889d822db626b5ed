"""The configured policy, seen by clients of a whole daemon: quotas, deadlines, refusals, backends that stay away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.inside import Inside, Scripted, daemon
from vestal import messages as m
from vestal.backend import EmbedRequest, EmbedResult, EndEvent, TextEvent, Unavailable
from vestal.values import Usage
from vestald.admission.ticket import Ticket
from vestald.config import Duration
from vestald.failures import BadConfiguration

Scene = Callable[[Inside], Awaitable[None]]


def play(directory: Path, scene: Scene, *backends: Scripted, **admission: Any) -> None:
    """Run `scene` on a daemon with these backends."""

    async def main() -> None:
        async with asyncio.timeout(20), daemon(directory, *backends, **admission) as inside:
            await scene(inside)

    asyncio.run(main())


class Held:
    """A backend whose requests end when they are let go; each says that it made as many tokens as `uses`."""

    def __init__(self, uses: int = 1) -> None:
        self.uses = uses
        self.go = asyncio.Event()
        self.busy = asyncio.Event()

    async def script(self, _request: Any) -> AsyncIterator[Any]:
        self.busy.set()
        yield TextEvent("a")
        await self.go.wait()
        yield EndEvent("end", Usage(0, 0, self.uses))


def test_tokens_a_minute_are_refused_with_the_limit_and_what_was_used(short_dir: Path) -> None:
    held = Held(uses=80)
    held.go.set()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1, max_tokens=80)
        await caller.done(1)
        caller.ask(2, max_tokens=80)
        error = await caller.error(2)
        assert (error.code, error.retryable) == ("quota_exceeded", True)
        assert error.details == {"limit": 100, "used": 80, "asked": 51}  # of answers of 80 in the mean, cut at 80
        assert 50_000 < (error.retry_after_ms or 0) <= 60_000
        caller.ask(3, max_tokens=10)
        await caller.done(3)

    play(short_dir, scene, Scripted(held.script), tokens_per_minute=100)


def test_generating_and_embedding_are_charged_to_one_account(short_dir: Path) -> None:
    held = Held(uses=100)
    held.go.set()

    async def embed(_request: EmbedRequest) -> EmbedResult:
        return EmbedResult(data=bytes(4), count=1, dimensions=1, input_tokens=1)

    async def scene(inside: Inside) -> None:
        caller, embedder = await inside.call(), await inside.call("embed")
        caller.ask(1, max_tokens=80)
        await caller.done(1)
        embedder.send(m.Embed(id=1, input=["hello"]))
        assert (await embedder.error(1)).code == "quota_exceeded"

    play(short_dir, scene, Scripted(held.script, embed=embed, embedding_dimensions=1), tokens_per_minute=100)


def test_a_callers_own_quota_counts_before_everybodys(short_dir: Path) -> None:
    held = Held(uses=80)
    held.go.set()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        for id in range(3):
            caller.ask(id, max_tokens=80)
            await caller.done(id)

    play(short_dir, scene, Scripted(held.script), tokens_per_minute=100, quotas={str(os.getuid()): 0})


@pytest.mark.parametrize("key", ["weights", "quotas"])
def test_a_table_with_nobody_in_it_keeps_the_daemon_from_starting(short_dir: Path, key: str) -> None:
    async def scene(_inside: Inside) -> None:
        raise AssertionError("it started")

    with pytest.raises(BadConfiguration, match=f'admission.{key}."nobody-here": there is no user'):
        play(short_dir, scene, Scripted(), **{key: {"nobody-here": 1}})


@pytest.mark.parametrize("field", ["queue_timeout_ms", "timeout_ms"])
def test_past_a_ceiling_is_an_error_that_names_it(short_dir: Path, field: str) -> None:
    held = Held()
    held.go.set()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1, "Hi", **{field: 60_001})
        error = await caller.error(1)
        assert (error.code, error.details) == ("invalid_request", {"field": field, "limit": 60_000})
        caller.ask(2, "Hi", **{field: 60_000})
        await caller.done(2)

    ceilings = {"max_queue_timeout": Duration(60), "max_timeout": Duration(60)}
    play(short_dir, scene, Scripted(held.script), **ceilings)


def test_a_default_wait_ends_those_who_asked_for_none(short_dir: Path) -> None:
    held = Held()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1)
        await held.busy.wait()
        caller.ask(2)
        error = await caller.error(2)
        assert error.code == "queue_timeout"
        assert (error.details or {})["waited_ms"] >= 50
        held.go.set()
        await caller.done(1)

    play(short_dir, scene, Scripted(held.script), queue_timeout=Duration(0.05))


def test_a_default_time_ends_a_generate_and_an_embed_and_says_whose_it_is(short_dir: Path) -> None:
    held = Held()

    async def embed(_request: EmbedRequest) -> EmbedResult:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it never comes

    async def scene(inside: Inside) -> None:
        caller, embedder = await inside.call(), await inside.call("embed")
        caller.ask(1)
        embedder.send(m.Embed(id=1, input=["hello"]))
        for error in (await caller.error(1), await embedder.error(1)):
            assert error.code == "deadline_exceeded"
            assert "admission.timeout" in error.message
            assert (error.details or {})["timeout_ms"] == 50

    play(short_dir, scene, Scripted(held.script, embed=embed, embedding_dimensions=1), timeout=Duration(0.05))


def test_a_deadlines_frame_leaves_before_the_engine_has_let_go_and_the_slot_after(short_dir: Path) -> None:
    closing, may_close = asyncio.Event(), asyncio.Event()

    async def script(_request: Any) -> AsyncIterator[Any]:
        try:
            yield TextEvent("a")
            await asyncio.get_running_loop().create_future()
        finally:
            closing.set()
            await may_close.wait()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1, timeout_ms=50)
        error = await caller.error(1)
        assert (error.code, (error.details or {})["output_tokens"]) == ("deadline_exceeded", 1)
        await closing.wait()
        assert inside.app.house.generating.scheduler.running == 1
        may_close.set()
        caller.ask(2, timeout_ms=50)
        assert (await caller.error(2)).code == "deadline_exceeded"
        assert not caller.untaken

    play(short_dir, scene, Scripted(script))


def test_who_cannot_start_in_time_is_refused_at_once_and_the_error_of_what_was_foretold_is_counted(
    short_dir: Path,
) -> None:
    held = Held()

    async def scene(inside: Inside) -> None:
        caller = await inside.call(features=("queue_events",))
        house = inside.app.house
        caller.ask(1)
        await held.busy.wait()
        house.generating.pace("scripted").learn(3600.0, None)  # an hour, as if it had been seen
        caller.ask(2, queue_timeout_ms=1000)
        error = await caller.error(2)
        assert error.code == "queue_timeout"
        assert (error.details or {})["limit_ms"] == 1000
        assert (error.details or {})["eta_ms"] > 3_000_000
        caller.ask(3)
        queued = await caller.first(lambda frame: isinstance(frame, m.Queued))
        assert isinstance(queued, m.Queued)
        assert (queued.eta_ms or 0) > 3_000_000
        held.go.set()
        await caller.done(3)
        counted = 'vestal_eta_error_seconds_count{backend="scripted",direction="earlier"} 1.0'
        assert counted in house.metrics_text()

    play(short_dir, scene, Scripted(held.script))


def test_a_backend_that_stays_away_costs_its_own_queue_and_nobody_elses(short_dir: Path) -> None:
    away, there = Scripted(Held().script, name="away"), Held()
    there.go.set()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        away.report(Unavailable("its worker died"))
        caller.ask(1, model="away")
        caller.ask(2, model="there")
        await caller.done(2)
        error = await caller.error(1)
        assert (error.code, error.retryable) == ("backend_unavailable", True)
        assert "admission.unavailable_timeout" in error.message

    play(short_dir, scene, away, Scripted(there.script, name="there"), unavailable_timeout=Duration(0.05))


def test_too_many_on_a_connection_are_told_when_to_come_back(short_dir: Path) -> None:
    held = Held()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1)
        caller.ask(2)
        caller.ask(3)
        error = await caller.error(3)
        assert error.details == {"depth": 2, "limit": 2, "bound": "requests_per_connection"}
        assert (error.retry_after_ms or 0) > 0
        held.go.set()
        await caller.done(2)

    play(short_dir, scene, Scripted(held.script), requests_per_connection=2)


def test_configured_weights_reach_the_queue(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        scheduler = inside.app.house.generating.scheduler
        for number in range(60):
            scheduler.submit(Ticket(number, "scripted", uid=(4711, 4712)[number % 2], connection=1), 0.0)
        uids = [ticket.uid for ticket in scheduler.lanes["scripted"].order()]
        assert uids[:30].count(4711) == 20
        for ticket in list(scheduler.lanes["scripted"].order()):
            scheduler.end(ticket, 0.0)

    play(short_dir, scene, Scripted(), weights={"4711": 2.0}, queue_depth=100, per_caller=100)
