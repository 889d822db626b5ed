"""Routes in a running daemon: which backend answers, what a failing one costs, and what its clients are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.daemon.inside import END, Caller, Inside, Scripted, daemon, declared
from vestal import messages as m
from vestal.backend import CountRequest, EmbedRequest, EmbedResult, EndEvent, PromptEvent, Ready, TextEvent, Unavailable
from vestal.errors import BackendCrashed, BackendRefused, BackendUnavailable, InvalidRequest, WireError
from vestal.values import Message, Notice, Usage
from vestald.backends.registry import Declared
from vestald.config import Duration, RouterConfig

Scene = Callable[[Inside], Awaitable[None]]
RETRY = RouterConfig(retry_before_first_token=1)


def play(directory: Path, scene: Scene, *backends: Scripted | Declared, **options: Any) -> None:
    """Run `scene` on a daemon with these backends."""

    async def main() -> None:
        async with asyncio.timeout(20), daemon(directory, *backends, **options) as inside:
            await scene(inside)

    asyncio.run(main())


class Moody(Scripted):
    """Answers with its name, or raises what `faults` holds next, or waits for it; `gate` holds all answers back."""

    def __init__(self, name: str, *faults: WireError | asyncio.Event | None, **options: Any) -> None:
        super().__init__(self._play, name=name, **options)
        self.faults = list(faults)
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def _play(self, _request: Any) -> AsyncIterator[Any]:
        self.asked += 1
        fault = self.faults.pop(0) if self.faults else None
        await self.gate.wait()
        if isinstance(fault, WireError):
            raise fault
        if fault is not None:
            await fault.wait()
        yield TextEvent(self.name)
        yield END


def crash(**options: Any) -> BackendCrashed:
    return BackendCrashed("it fell over", **options)


async def told(caller: Caller, id: int, **options: Any) -> str:
    """Who answered a request, or with which error it ended."""
    caller.ask(id, **options)
    end = await caller.end(id)
    return end.code if isinstance(end, m.Error) else end.backend if isinstance(end, m.Done) else repr(end)


def status(inside: Inside, name: str) -> m.BreakerStatus:
    house = inside.app.house
    return house.routes.breaker(next(unit for unit in house.supervisor.units if unit.name == name))


# --- who answers ----------------------------------------------------------------------------------------------


def test_a_request_goes_by_alias_to_the_first_of_those_that_share_it(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        for id, (model, backend) in enumerate([("fast", "b"), ("slow", "a"), ("b", "b")]):
            assert await told(caller, id, model=model) == backend
        caller.ask(9, model="quick")
        error = await caller.error(9)
        assert error.details == {"model": "quick", "models": ["a", "slow", "b", "fast", "c"]}
        assert [(b.name, b.aliases) for b in inside.app.house.offer("infer", "x").backends] == [
            ("a", ["slow"]), ("b", ["fast"]), ("c", ["fast"]),
        ]  # fmt: skip

    play(
        short_dir,
        scene,
        declared(Moody("a"), aliases=["slow"]),
        declared(Moody("b"), aliases=["fast"]),
        declared(Moody("c"), aliases=["fast"]),
    )


def test_the_least_busy_of_two_takes_the_next(short_dir: Path) -> None:
    a, b = Moody("a", slots=2), Moody("b", slots=2)

    async def scene(inside: Inside) -> None:
        a.gate.clear()
        b.gate.clear()
        caller = await inside.call()
        for id in range(4):
            caller.ask(id)
        await caller.ping()
        assert (a.running, b.running) == (2, 2)
        a.gate.set()
        b.gate.set()
        for id in range(4):
            await caller.done(id)

    play(short_dir, scene, a, b, router=RouterConfig(policy="least_busy"))


def test_one_on_this_machine_goes_first_until_it_is_away(short_dir: Path) -> None:
    cloud, own = Moody("cloud"), Moody("own", local=True)

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        assert await told(caller, 1) == "own"
        own.report(Unavailable("its engine died"))
        assert await told(caller, 2) == "cloud"
        own.report(Ready())
        assert await told(caller, 3) == "own"

    play(short_dir, scene, cloud, own, router=RouterConfig(policy="local_first"))


@pytest.mark.parametrize("unnamed", ["any", "local"])
def test_a_request_that_names_no_model_leaves_the_machine_only_if_the_operator_lets_it(
    short_dir: Path, unnamed: Any
) -> None:
    cloud, own = Moody("cloud", embed=_embed, count=_count), Moody("own", local=True)

    async def scene(inside: Inside) -> None:
        infer, embed = await inside.call(), await inside.call("embed")
        assert await told(infer, 1) == ("own" if unnamed == "local" else "cloud")
        assert await told(infer, 2, model="cloud") == "cloud"
        inside.app.house.roster.drain("own")
        assert await told(infer, 3) == ("backend_unavailable" if unnamed == "local" else "cloud")
        report = inside.app.house.explain_route(m.ExplainRoute(id=1))
        assert report.chosen == (None if unnamed == "local" else "cloud")
        embed.send(m.Embed(id=4, input=["7"]))
        infer.send(m.Count(id=5, messages=[Message("user", "Hi")]))
        ends = [await embed.end(4), await infer.end(5)]
        if unnamed == "any":
            assert [type(end) for end in ends] == [m.Embeddings, m.Counted]
            return
        assert all(isinstance(end, m.Error) for end in ends)
        assert "stays on this machine" in str(ends[0])
        assert cloud.asked == 1
        inside.app.house.routes.adjust(RouterConfig())
        assert await told(infer, 6) == "cloud"

    play(short_dir, scene, cloud, own, router=RouterConfig(unnamed=unnamed))


async def _embed(request: EmbedRequest) -> EmbedResult:
    return EmbedResult(count=1, dimensions=1, data=bytes(4), input_tokens=1)


async def _count(_request: CountRequest) -> int:
    return 1


def test_what_waits_for_its_own_machine_does_not_leave_it_when_that_is_given_up(short_dir: Path) -> None:
    own, cloud = Moody("own", local=True), Moody("cloud")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        own.gate.clear()
        caller.ask(1)
        caller.ask(2)
        await caller.ping()
        own.report(Unavailable("gone for good", recovering=False))
        error = await caller.error(2)
        assert (error.code, cloud.asked) == ("backend_unavailable", 0)
        own.gate.set()
        await caller.end(1)

    play(short_dir, scene, own, cloud, router=RouterConfig(unnamed="local"))


# --- breakers -------------------------------------------------------------------------------------------------


def test_after_three_failures_requests_go_elsewhere(short_dir: Path) -> None:
    a, b = Moody("a", crash(), crash(), crash()), Moody("b")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        assert [await told(caller, id) for id in range(5)] == ["backend_crashed"] * 3 + ["b"] * 2
        breaker = status(inside, "a")
        assert (breaker.state, breaker.failures, breaker.last) == ("open", 3, "backend_crashed")
        assert 10_000 < (breaker.cold_ms or 0) <= 30_000
        assert a.asked == 3

    play(short_dir, scene, a, b)


def test_where_there_is_no_other_a_client_hears_when_to_come_back_and_one_request_shows_that_it_serves(
    short_dir: Path,
) -> None:
    a = Moody("a", crash(), crash(), crash(), crash(), slots=4)

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        for id in range(3):
            assert await told(caller, id) == "backend_crashed"
        caller.ask(10)
        error = await caller.error(10)
        assert (error.code, error.retryable, a.asked) == ("backend_unavailable", True, 3)
        assert "is left alone for" in error.message
        assert 0 < (error.retry_after_ms or 0) <= 1000
        await asyncio.sleep((error.retry_after_ms or 0) / 1000 + 0.01)
        assert await told(caller, 11) == "backend_crashed", "the one that tries"
        assert await told(caller, 12) == "backend_unavailable", "for another while"
        await asyncio.sleep(status_ms(inside) / 1000 + 0.01)
        assert status(inside, "a").state == "half_open"
        a.gate.clear()
        for id in range(20, 24):
            caller.ask(id)
        await caller.ping()
        assert (a.running, inside.app.house.generating.scheduler.waiting) == (1, 3), "one tries, the others wait"
        a.gate.set()
        assert [(await caller.done(id)).backend for id in range(20, 24)] == ["a"] * 4
        assert status(inside, "a").state == "closed"
        assert inside.app.house.generating.scheduler.lanes["a"].slots == 4

    def status_ms(inside: Inside) -> int:
        return status(inside, "a").cold_ms or 0

    play(short_dir, scene, a, router=RouterConfig(breaker_cold=Duration(1.0)))


def test_what_waits_when_a_breaker_opens_keeps_its_place_and_the_next_of_it_tries(short_dir: Path) -> None:
    a = Moody("a", crash(), crash(), crash())

    async def scene(inside: Inside) -> None:
        a.gate.clear()
        caller = await inside.call()
        for id in range(6):
            caller.ask(id)
        await caller.ping()
        a.gate.set()
        ends = [await caller.end(id) for id in range(6)]
        assert [type(end) for end in ends] == [m.Error] * 3 + [m.Done] * 3
        assert a.most_at_once == 1

    play(short_dir, scene, a, router=RouterConfig(breaker_cold=Duration(0.05)))


def test_what_a_client_did_wrong_leaves_the_breaker_closed(short_dir: Path) -> None:
    wrong = [BackendRefused("no"), InvalidRequest("bad", details={"field": "x"})] * 5

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        for id in range(10):
            assert await told(caller, id) in ("backend_refused", "invalid_request")
        assert status(inside, "a") == m.BreakerStatus()
        assert await told(caller, 11) == "a"

    play(short_dir, scene, Moody("a", *wrong))


def test_a_cancelled_request_says_nothing_of_its_backend(short_dir: Path) -> None:
    a = Moody("a", crash(), crash())

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        for id in range(2):
            await told(caller, id)
        a.gate.clear()
        for id in range(10, 15):
            caller.ask(id)
            await caller.ping()
            caller.send(m.Cancel(id=id))
            assert (await caller.done(id)).stop_reason == "cancelled"
        assert status(inside, "a").failures == 2

    play(short_dir, scene, a)


def test_an_engine_that_was_started_anew_begins_without_a_past(short_dir: Path) -> None:
    a = Moody("a", crash(), crash(), None, crash())

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        for id in range(2):
            await told(caller, id)
        a.report(Unavailable("its worker died"))
        a.report(Ready())
        assert status(inside, "a").failures == 2, "it was away, and is the same"
        a.report(Unavailable("its worker died"))
        a.report(Ready(renewed=True))
        assert status(inside, "a") == m.BreakerStatus()
        assert await told(caller, 3) == "a"
        assert await told(caller, 4) == "backend_crashed"
        assert status(inside, "a").failures == 1

    play(short_dir, scene, a)


def test_an_answer_that_began_before_the_failures_does_not_keep_the_one_request_from_trying(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        long, trying = asyncio.Event(), asyncio.Event()
        a.faults = [long, crash(), crash(), crash(), trying]
        caller = await inside.call()
        caller.ask(1)
        await caller.ping()
        for id in (2, 3, 4):
            assert await told(caller, id) == "backend_crashed"
        await asyncio.sleep((status(inside, "a").cold_ms or 0) / 1000 + 0.01)
        caller.ask(5)
        caller.ask(6)
        await caller.ping()
        assert (a.running, inside.app.house.generating.scheduler.waiting) == (2, 1)
        report = inside.app.house.explain_route(m.ExplainRoute(id=1))
        assert "lets one request at a time" in report.candidates[0].reason
        trying.set()
        assert [(await caller.done(id)).backend for id in (5, 6)] == ["a", "a"]
        assert status(inside, "a").state == "closed"
        long.set()
        await caller.done(1)

    a = Moody("a", slots=4)
    play(short_dir, scene, a, router=RouterConfig(breaker_cold=Duration(0.1)))


@pytest.mark.parametrize("first", ["infer", "embed"])
def test_a_backend_that_generates_and_embeds_is_tried_with_one_request_of_either(short_dir: Path, first: str) -> None:
    async def scene(inside: Inside) -> None:
        infer, embed = await inside.call(), await inside.call("embed")
        for id in range(3):
            assert await told(infer, id) == "backend_crashed"
        await asyncio.sleep((status(inside, "a").cold_ms or 0) / 1000 + 0.01)
        assert status(inside, "a").state == "half_open"
        a.gate.clear()
        vectors.clear()
        callers = [infer, embed] if first == "infer" else [embed, infer]
        for caller in callers:
            for id in (10, 11):
                if caller is infer:
                    caller.ask(id)
                else:
                    caller.send(m.Embed(id=id, input=["x"]))
            await caller.ping()
        house = inside.app.house
        assert (a.running, embedding.count(1) - embedding.count(-1)) == ((1, 0) if first == "infer" else (0, 1))
        assert house.generating.scheduler.waiting + house.embedding.scheduler.waiting == 3
        for socket in ("infer", "embed"):
            report = house.explain_route(m.ExplainRoute(id=1, socket=socket))
            assert "lets one request at a time" in report.candidates[0].reason
        a.gate.set()
        vectors.set()
        for caller in callers:
            for id in (10, 11):
                assert not isinstance(await caller.end(id), m.Error)
        assert status(inside, "a").state == "closed"

    vectors, embedding = asyncio.Event(), list[int]()
    vectors.set()

    async def embed(request: EmbedRequest) -> EmbedResult:
        embedding.append(1)
        try:
            await vectors.wait()
        finally:
            embedding.append(-1)
        return EmbedResult(count=1, dimensions=1, data=bytes(4), input_tokens=1)

    a = Moody("a", crash(), crash(), crash(), slots=4, embed=embed)
    play(short_dir, scene, a, router=RouterConfig(breaker_cold=Duration(0.1)))


def test_what_an_old_engine_does_is_not_held_against_the_new_one(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        a.gate.clear()
        a.faults = [crash()]
        caller.ask(1)
        await caller.ping()
        a.report(Unavailable("its worker died"))
        a.report(Ready(renewed=True))
        a.gate.set()
        await caller.error(1)
        assert status(inside, "a") == m.BreakerStatus()

    a = Moody("a", slots=2)
    play(short_dir, scene, a)


def test_other_rules_hold_at_once(short_dir: Path) -> None:
    a = Moody("a", crash(), crash(), crash())

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        for id in range(3):
            await told(caller, id)
        assert status(inside, "a").state == "open"
        inside.app.house.routes.adjust(RouterConfig(breaker_cold=Duration(0.01)))
        caller.ask(4)
        while isinstance(end := await caller.end(4), m.Error):
            await asyncio.sleep((end.retry_after_ms or 1) / 1000)
            caller.ask(4)
        assert status(inside, "a").state == "closed"

    play(short_dir, scene, a)


# --- retries --------------------------------------------------------------------------------------------------


def test_without_the_operators_word_nothing_is_retried(short_dir: Path) -> None:
    a, b = Moody("a", crash()), Moody("b")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        assert await told(caller, 1) == "backend_crashed"
        assert b.asked == 0

    play(short_dir, scene, a, b)


@pytest.mark.parametrize("fault", [crash(), BackendUnavailable("it is gone")])
def test_a_request_that_failed_before_its_first_token_is_given_to_another_and_that_is_said(
    short_dir: Path, fault: WireError
) -> None:
    a, b = Moody("a", fault), Moody("b")

    async def scene(inside: Inside) -> None:
        caller = await inside.call(features=("queue_events",))
        caller.ask(1)
        frames = await caller.answer(1)
        assert [f.backend for f in frames if isinstance(f, m.Started)] == ["a", "b"]
        end = frames[-1]
        assert isinstance(end, m.Done)
        assert (end.backend, end.model) == ("b", "b")
        said = f"backend 'a' failed with {fault.code}: {fault.message}; 'b' was asked"
        assert end.notices == [Notice("retried", said)]
        assert inside.app.house.generating.scheduler.running == 0

    play(short_dir, scene, a, b, router=RETRY)


def test_if_the_other_fails_too_the_client_hears_of_both(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1)
        error = await caller.error(1)
        assert (error.code, error.message) == ("backend_unavailable", "gone")
        attempts = [{"backend": "a", "code": "backend_crashed"}, {"backend": "b", "code": "backend_unavailable"}]
        assert (error.details or {})["attempts"] == attempts

    play(short_dir, scene, Moody("a", crash()), Moody("b", BackendUnavailable("gone")), Moody("c"), router=RETRY)


@pytest.mark.parametrize("fault", [BackendRefused("no"), InvalidRequest("bad", details={"field": "x"})])
def test_what_a_client_did_wrong_is_not_tried_elsewhere(short_dir: Path, fault: WireError) -> None:
    b = Moody("b")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        assert await told(caller, 1) == fault.code
        assert b.asked == 0

    play(short_dir, scene, Moody("a", fault), b, router=RETRY)


def test_after_the_first_token_nothing_is_retried(short_dir: Path) -> None:
    async def late(_request: Any) -> AsyncIterator[Any]:
        yield PromptEvent(input_tokens=3)
        yield TextEvent("half a")
        raise crash()

    b = Moody("b")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        assert await told(caller, 1) == "backend_crashed"
        assert b.asked == 0

    play(short_dir, scene, Scripted(late, name="a"), b, router=RETRY)


def test_what_was_read_is_no_token_yet(short_dir: Path) -> None:
    async def early(_request: Any) -> AsyncIterator[Any]:
        yield PromptEvent(input_tokens=3, cached_tokens=1)
        raise crash()

    async def good(_request: Any) -> AsyncIterator[Any]:
        yield TextEvent("x")
        yield EndEvent("end", Usage(7, 0, 1))

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1, stream=False)
        done = await caller.done(1)
        assert (done.backend, done.text, done.usage) == ("b", "x", Usage(7, 0, 1))

    play(short_dir, scene, Scripted(early, name="a"), Scripted(good, name="b"), router=RETRY)


def test_the_only_one_is_asked_again_unless_it_crashed_or_says_that_it_is_no_use(short_dir: Path) -> None:
    a = Moody("a", BackendUnavailable("busy"), None, crash(), None, BackendUnavailable("no", retryable=False), None)

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1)
        assert [n.code for n in (await caller.done(1)).notices] == ["retried"]
        assert a.asked == 2
        assert await told(caller, 2) == "backend_crashed"
        assert await told(caller, 3) == "a"
        assert await told(caller, 4) == "backend_unavailable"
        assert a.asked == 5

    play(short_dir, scene, a, router=RETRY)


def test_a_retry_waits_in_the_other_queue_and_a_cancel_finds_it_there(short_dir: Path) -> None:
    a, b = Moody("a", crash()), Moody("b")

    async def scene(inside: Inside) -> None:
        b.gate.clear()
        caller = await inside.call(features=("queue_events",))
        caller.ask(1, model="b")
        await caller.ping()
        caller.ask(2)
        waiting = await caller.first(lambda frame: isinstance(frame, m.Queued))
        assert getattr(waiting, "id", None) == 2
        caller.send(m.Cancel(id=2))
        done = await caller.done(2)
        assert (done.stop_reason, [n.code for n in done.notices]) == ("cancelled", ["retried"])
        b.gate.set()
        await caller.done(1)
        assert b.asked == 1

    play(short_dir, scene, a, b, router=RETRY)


@pytest.mark.parametrize("how", ["drained", "cold", "away"])
def test_a_retry_goes_only_where_it_can_begin_at_once(short_dir: Path, how: str) -> None:
    a, b = Moody("a", BackendCrashed("no")), Moody("b", crash(), crash(), crash())

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        inside.app.house.routes.retries = 0
        if how == "drained":
            inside.app.house.supervisor.units[1].draining = True
        elif how == "away":
            b.report(Unavailable("gone for a moment"))
        else:
            for id in (1, 2, 3):
                assert await told(caller, id, model="b") == "backend_crashed"
        inside.app.house.routes.retries = 1
        before = b.asked
        assert await told(caller, 9, model="x") == "backend_crashed"
        assert b.asked == before

    play(short_dir, scene, declared(a, aliases=["x"]), declared(b, aliases=["x"]))


# --- what changes while a request waits -----------------------------------------------------------------------


@pytest.mark.parametrize("other", [True, False])
def test_a_request_is_not_served_by_a_model_that_it_does_not_name(short_dir: Path, other: bool) -> None:
    """It waits for `a`, which comes to serve another model meanwhile; so `b` has it, if that serves the one."""
    a, b = Moody("a", model="small"), Moody("b", model="small" if other else "tiny")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        a.gate.clear()
        caller.ask(1, model="small")
        caller.ask(2, model="small")
        await caller.ping()
        a.capabilities = structs.replace(a.capabilities, model="other")
        a.gate.set()
        assert (await caller.done(1)).model == "small", "it had begun"
        end = await caller.end(2)
        if other:
            assert isinstance(end, m.Done)
            assert (end.backend, end.model, end.notices) == ("b", "small", [])
        else:
            assert isinstance(end, m.Error)
            assert end.code == "model_not_found"
        assert a.asked == 1
        assert inside.app.house.generating.scheduler.running == 0

    play(short_dir, scene, a, b)


def test_who_waits_for_a_backend_that_is_given_up_goes_to_another_of_that_name(short_dir: Path) -> None:
    a, b = Moody("a"), Moody("b")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        a.gate.clear()
        caller.ask(1, model="x")
        caller.ask(2, model="x")
        caller.ask(3, model="a")
        await caller.ping()
        a.report(Unavailable("it dies at every start", recovering=False))
        done = await caller.done(2)
        assert (done.backend, done.notices) == ("b", [])
        assert (await caller.error(3)).code == "backend_unavailable"
        a.gate.set()
        await caller.done(1)

    play(short_dir, scene, declared(a, aliases=["x"]), declared(b, aliases=["x"]))


# --- what operators see ---------------------------------------------------------------------------------------


def test_explain_says_what_a_request_then_finds(short_dir: Path) -> None:
    a, b = Moody("a", crash(), crash(), crash()), Moody("b", vision=True)

    async def scene(inside: Inside) -> None:
        explain = inside.app.house.explain_route
        report = explain(m.ExplainRoute(id=7))
        assert (report.id, report.policy, report.chosen, report.refusal) == (7, "priority", "a", None)
        assert [(c.backend, c.verdict, c.slots) for c in report.candidates] == [
            ("a", "chosen", 1),
            ("b", "possible", 1),
        ]
        assert explain(m.ExplainRoute(id=1, needs=["vision", "stream", "cache"])).chosen == "b"
        nobody = explain(m.ExplainRoute(id=1, needs=["audio"]))
        assert nobody.refusal is not None
        assert (nobody.chosen, nobody.refusal.code) == (None, "unsupported")
        with pytest.raises(InvalidRequest, match=r"needs\[1\]: 'wings' is no capability"):
            explain(m.ExplainRoute(id=1, needs=["vision", "wings"]))
        caller = await inside.call()
        for id in range(3):
            await told(caller, id)
        report = explain(m.ExplainRoute(id=1))
        assert [(c.backend, c.verdict) for c in report.candidates] == [("b", "chosen"), ("a", "cold")]
        assert "last: backend_crashed" in report.candidates[1].reason
        assert explain(m.ExplainRoute(id=1, socket="embed")).refusal is not None
        inside.app.house.drain()
        report = explain(m.ExplainRoute(id=1))
        assert report.refusal is not None
        assert (report.chosen, report.refusal.code) == (None, "shutting_down")
        assert "chosen" not in [candidate.verdict for candidate in report.candidates]

    play(short_dir, scene, a, b)
