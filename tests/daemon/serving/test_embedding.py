"""Embedding over several backends: divided, put together in order, each part in its lane, within all bounds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.daemon.inside import Caller, Inside
from tests.daemon.serving.embedders import (
    MODEL,
    Embedder,
    Play,
    ask,
    begun,
    embedded,
    hold,
    occupy,
    parts,
    texts,
    vectors,
    vectors_of,
)
from vestal import messages as m
from vestal.backend import EmbedRequest, Unavailable
from vestal.errors import BackendRefused
from vestald.config import Duration
from vestald.serving.embedding import BATCH


@pytest.mark.parametrize(
    ("count", "backends", "expected"),
    [
        (10, [{}, {}], []),
        (11, [{}, {}], [("a", 6), ("b", 5)]),
        (40, [{"embedding_batch": 30}, {}], [("a", 30), ("b", 10)]),
        (60, [{}, {}, {}], [("a", 20), ("b", 20), ("c", 20)]),
        (BATCH, [{"embedding_batch": None}, {}], []),
        (42, [{"embedding_batch": None}, {}], [("a", BATCH), ("b", 10)]),
        (60, [{}, {"model": "another"}, {}], [("a", 30), ("c", 30)]),
        (60, [{}, {"embedding_dimensions": 2}, {}], [("a", 30), ("c", 30)]),
        (60, [{}, {"max_input_texts": 7}], [("a", 53), ("b", 7)]),
        (9, [{"max_input_texts": 5}, {"max_input_texts": 5}], [("a", 5), ("b", 4)]),
        (60, [{"embedding_batch": 1}, {"embedding_batch": 4096}], []),
    ],
    ids=str,
)
def test_texts_are_divided_among_those_that_serve_the_model(
    play: Play, count: int, backends: list[dict[str, Any]], expected: list[tuple[str, int]]
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, count, model=MODEL)
        assert parts(frame) == expected
        assert frame.notices == []
        if expected:
            assert frame.backend == expected[0][0]

    play(scene, *(Embedder(name, **given) for name, given in zip("abc", backends, strict=False)))


def test_each_part_is_asked_of_its_backend_once_and_at_the_same_time_as_the_others(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a, b)
        ask(caller, 30, dimensions=3)
        await begun(a, b)
        b.may.set()
        a.may.set()
        frame = await vectors_of(caller)
        assert (frame.dimensions, frame.data) == (3, vectors(texts(30), 3).data)

    a, b = Embedder("a", embedding_batch=20), Embedder("b")
    play(scene, a, b)
    assert (a.asked, b.asked) == ([texts(30)[:20]], [texts(30)[20:]])


def test_a_request_that_names_a_backend_is_that_backends_alone(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, 60, model="b")
        assert (frame.backend, frame.parts) == ("b", [])

    play(scene, Embedder("a"), Embedder("b"))


def test_what_all_together_cannot_take_is_refused_by_the_one_that_was_chosen(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 60)
        assert (await caller.error(1)).code == "backend_refused"

    a, b = (Embedder(name, max_input_texts=20, wrong=lambda _: BackendRefused("too many")) for name in "ab")
    play(scene, a, b)
    assert (len(a.asked), b.asked) == (1, [])


def test_one_that_is_away_gets_no_part(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        b.report(Unavailable("its engine died"))
        frame = await embedded(caller, 60)
        assert parts(frame) == [("a", 30), ("c", 30)]

    a, b, c = (Embedder(name) for name in "abc")
    play(scene, a, b, c)
    assert b.asked == []


def test_a_part_waits_in_the_lane_of_its_backend_and_costs_its_own_texts(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        lanes = inside.app.house.embedding.scheduler.lanes
        admin = await inside.call("admin")
        await occupy(caller, a, id=1)
        caller.send(m.Embed(id=2, input=["1000"] * 40))
        await b.begun.wait()
        (first, second) = inside.app.house.jobs.all()
        assert [(ticket.lane, ticket.cost) for ticket in second.tickets] == [("a", 20.0), ("b", 20.0)]
        assert (lanes["a"].waiting, second.running, second.backends) == (1, False, {"a"})
        admin.send(m.Queue(id=3))
        queue = await admin.first(lambda frame: isinstance(frame, m.QueueReport))
        assert isinstance(queue, m.QueueReport)
        entry = queue.entries[1]
        assert (entry.request, entry.state, entry.backend, entry.position) == (second.number, "waiting", "a", 1)
        assert first.running
        a.may.set()
        frame = await vectors_of(caller, 2)
        assert parts(frame) == [("a", 20), ("b", 20)]

    a, b = Embedder("a"), Embedder("b")
    play(scene, a, b)


def test_each_backend_is_counted_the_tokens_that_it_read_and_the_request_is_one(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        await embedded(caller, 60)
        lines = inside.app.house.metrics_text().splitlines()
        for line in (
            'vestal_tokens_total{backend="a",kind="input"} 45.0',
            'vestal_tokens_total{backend="b",kind="input"} 15.0',
            'vestal_requests_total{backend="a",outcome="end"} 1.0',
            'vestal_admissions_total{backend="a",class="normal",decision="admitted"} 1.0',
            'vestal_admissions_total{backend="b",class="normal",decision="admitted"} 1.0',
            'vestal_queue_seconds_count{backend="b",class="normal"} 1.0',
        ):
            assert line in lines
        assert not any(line.startswith('vestal_requests_total{backend="b"') for line in lines)

    play(scene, Embedder("a", embedding_batch=30), Embedder("b"))


def test_parts_with_one_deadline_wait_side_by_side(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        for id, backend in enumerate((a, b), start=8):
            await occupy(caller, backend, id=id)
        ask(caller, 40)
        await caller.ping()
        assert inside.app.house.embedding.scheduler.waiting == 2
        for backend in (a, b):
            backend.may.set()
        assert isinstance(await caller.end(1), m.Embeddings)

    a, b = Embedder("a"), Embedder("b")
    play(scene, a, b, queue_timeout=Duration(10.0))


@pytest.mark.parametrize("limits", [{"queue_depth": 1}, {"per_caller": 1}, {"tokens_per_minute": 30}], ids=str)
def test_a_part_that_is_not_let_in_refuses_the_whole(play: Play, limits: dict[str, Any]) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        for id, backend in enumerate((a, b), start=8):
            await occupy(caller, backend, id=id)
        caller.send(m.Embed(id=1, input=["1000"] * 40))
        error = await caller.error(1)
        assert error.code == ("quota_exceeded" if "tokens_per_minute" in limits else "queue_full")
        assert inside.app.house.embedding.scheduler.waiting == 0, "the part that was let in gave its place back"
        count = f'vestal_admission_refusals_total{{backend="b",code="{error.code}"}} 1.0'
        assert count in inside.app.house.metrics_text().splitlines(), "it was b that had no place"
        for id, backend in enumerate((a, b), start=8):
            backend.may.set()
            assert isinstance(await caller.end(id), m.Embeddings)
        await caller.ping()
        assert not caller.untaken

    a, b = Embedder("a"), Embedder("b")
    play(scene, a, b, **limits)
    assert (len(a.asked), len(b.asked)) == (1, 1)


def test_many_divided_requests_at_once_each_get_their_own_vectors(play: Play) -> None:
    def now_and_then(request: EmbedRequest) -> Any:
        return BackendRefused("no") if len(a.asked) % 5 == 0 else vectors(request.input)

    async def scene(inside: Inside, caller: Caller) -> None:
        callers = [caller, *[await inside.call("embed") for _ in range(2)]]
        for caller in callers:
            for id in range(20):
                caller.send(m.Embed(id=id, input=texts(11 + id)))
                if id % 4 == 0:
                    caller.send(m.Cancel(id=id))
        for caller in callers:
            for id in range(20):
                frame = await caller.end(id)
                if isinstance(frame, m.Embeddings):
                    assert frame.data == vectors(texts(11 + id)).data
            await caller.ping()
            assert not caller.untaken

    a, b = Embedder("a", wrong=now_and_then, slots=2), Embedder("b", slots=3)
    play(scene, a, b, queue_depth=1000, per_caller=1000)
