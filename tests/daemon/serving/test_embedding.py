"""Embedding over several backends: divided, put together in order, and ended as one whatever becomes of a part."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.daemon.inside import Caller, Inside, Scripted, daemon, declared
from vestal import messages as m
from vestal.backend import EmbedRequest, EmbedResult, Ready, Unavailable
from vestal.errors import (
    BackendCrashed,
    BackendRefused,
    BackendUnavailable,
    ContextOverflow,
    DeadlineExceeded,
    WireError,
)
from vestald.backends.registry import Declared
from vestald.config import Duration, RouterConfig
from vestald.serving.embedding import BATCH
from vestald.serving.job import Job

Scene = Callable[[Inside], Awaitable[None]]
MODEL = "vectors"


def vectors(texts: Sequence[str], dimensions: int = 1) -> EmbedResult:
    """The vector of "7" is made of sevens, and it has one token."""
    data = b"".join(struct.pack("<f", float(text)) * dimensions for text in texts)
    return EmbedResult(count=len(texts), dimensions=dimensions, data=data, input_tokens=len(texts))


class Embedder(Scripted):
    """Embeds numbers. What it was asked is in `asked`; it answers when it `may`, and with `wrong` does it wrong."""

    def __init__(self, name: str, wrong: Callable[[EmbedRequest], Any] | None = None, **capabilities: Any) -> None:
        given = {"model": MODEL, "embedding_dimensions": 1, "embedding_batch": 10, "generate": False, **capabilities}
        super().__init__(name=name, embed=self._answer, **given)
        self.asked: list[list[str]] = []
        self.begun, self.may, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may.set()
        self._wrong, self.dimensions = wrong, 1

    async def _answer(self, request: EmbedRequest) -> EmbedResult:
        self.asked.append(request.input)
        self.begun.set()
        try:
            await self.may.wait()
        finally:
            self.left.set()
        if self._wrong is not None:
            result = self._wrong(request)
            if isinstance(result, BaseException):
                raise result
            assert isinstance(result, EmbedResult)
            return result
        return vectors(request.input, request.dimensions or self.dimensions)


def play(
    directory: Path, scene: Scene, *backends: Scripted | Declared, router: RouterConfig | None = None, **admission: Any
) -> None:
    """Run `scene` on a daemon with these backends; afterwards nothing of a request is left."""

    async def main() -> None:
        async with asyncio.timeout(20), daemon(directory, *backends, router=router, **admission) as inside:
            await scene(inside)
            await inside.app.house.jobs.idle()
            scheduler = inside.app.house.embedding.scheduler
            assert (scheduler.running, scheduler.waiting) == (0, 0)

    asyncio.run(main())


def texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def embedded(caller: Caller, count: int, id: int = 1, **options: Any) -> m.Embeddings:
    """The answer to an `embed` of `count` texts, which is the right one."""
    caller.send(m.Embed(id=id, input=texts(count), **options))
    frame = await caller.end(id)
    assert isinstance(frame, m.Embeddings), frame
    assert (frame.count, frame.usage.input_tokens, frame.model) == (count, count, MODEL)
    assert frame.data == vectors(texts(count), frame.dimensions).data
    return frame


def parts(frame: m.Embeddings) -> list[tuple[str, int]]:
    return [(part.backend, part.count) for part in frame.parts]


# --- who gets what --------------------------------------------------------------------------------------------


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
    short_dir: Path, count: int, backends: list[dict[str, Any]], expected: list[tuple[str, int]]
) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        frame = await embedded(caller, count, model=MODEL)
        assert parts(frame) == expected
        assert frame.notices == []
        if expected:
            assert frame.backend == expected[0][0]

    play(short_dir, scene, *(Embedder(name, **given) for name, given in zip("abc", backends, strict=False)))


def test_each_part_is_asked_of_its_backend_once_and_at_the_same_time_as_the_others(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for backend in (a, b):
            backend.may.clear()
        caller.send(m.Embed(id=1, input=texts(30), dimensions=3))
        await a.begun.wait()
        await b.begun.wait()
        b.may.set()
        a.may.set()
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings)
        assert (frame.dimensions, frame.data) == (3, vectors(texts(30), 3).data)

    a, b = Embedder("a", embedding_batch=20), Embedder("b")
    play(short_dir, scene, a, b)
    assert (a.asked, b.asked) == ([texts(30)[:20]], [texts(30)[20:]])


def test_a_request_that_names_a_backend_is_that_backends_alone(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        frame = await embedded(await inside.call("embed"), 60, model="b")
        assert (frame.backend, frame.parts) == ("b", [])

    play(short_dir, scene, Embedder("a"), Embedder("b"))


def test_what_all_together_cannot_take_is_refused_by_the_one_that_was_chosen(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=texts(60)))
        assert (await caller.error(1)).code == "backend_refused"

    a, b = (Embedder(name, max_input_texts=20, wrong=lambda _: BackendRefused("too many")) for name in "ab")
    play(short_dir, scene, a, b)
    assert (len(a.asked), b.asked) == (1, [])


def test_one_that_is_away_gets_no_part(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        b.report(Unavailable("its engine died"))
        frame = await embedded(await inside.call("embed"), 60)
        assert parts(frame) == [("a", 30), ("c", 30)]

    a, b, c = (Embedder(name) for name in "abc")
    play(short_dir, scene, a, b, c)
    assert b.asked == []


def test_a_part_waits_in_the_lane_of_its_backend_and_costs_its_own_texts(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        lanes = inside.app.house.embedding.scheduler.lanes
        caller, admin = await inside.call("embed"), await inside.call("admin")
        a.may.clear()
        caller.send(m.Embed(id=1, input=["7"], model="a"))
        await a.begun.wait()
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
        frame = await caller.end(2)
        assert isinstance(frame, m.Embeddings)
        assert parts(frame) == [("a", 20), ("b", 20)]

    a, b = Embedder("a"), Embedder("b")
    play(short_dir, scene, a, b)


def test_each_backend_is_counted_the_tokens_that_it_read_and_the_request_is_one(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        await embedded(await inside.call("embed"), 60)
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

    play(short_dir, scene, Embedder("a", embedding_batch=30), Embedder("b"))


def test_parts_with_one_deadline_wait_side_by_side(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for backend in (a, b):
            backend.may.clear()
            caller.send(m.Embed(id=len(backend.name) + ord(backend.name), input=["7"], model=backend.name))
            await backend.begun.wait()
        caller.send(m.Embed(id=1, input=texts(40)))
        await caller.ping()
        assert inside.app.house.embedding.scheduler.waiting == 2
        for backend in (a, b):
            backend.may.set()
        assert isinstance(await caller.end(1), m.Embeddings)

    a, b = Embedder("a"), Embedder("b")
    play(short_dir, scene, a, b, queue_timeout=Duration(10.0))


# --- what goes wrong ------------------------------------------------------------------------------------------


FAILURES = [
    BackendCrashed("the engine died"),
    BackendUnavailable("it is away"),
    DeadlineExceeded("it took too long"),
    RuntimeError("my secret text"),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("fault", FAILURES, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("failing", ["a", "b"])
def test_a_part_that_fails_goes_to_another_and_the_client_is_told(
    short_dir: Path, caplog: pytest.LogCaptureFixture, failing: str, fault: BaseException
) -> None:
    async def scene(inside: Inside) -> None:
        frame = await embedded(await inside.call("embed"), 60)
        assert [count for _, count in parts(frame)] == [20, 20, 20]
        assert all(part.backend == name for part, name in zip(frame.parts, "abc", strict=True) if name != failing)
        (notice,) = frame.notices
        assert notice.code == "retried"
        code = fault.code if isinstance(fault, WireError) else "internal"
        assert repr(failing) in notice.message
        assert code in notice.message
        other = next(part.backend for part, name in zip(frame.parts, "abc", strict=True) if name == failing)
        assert other != failing
        assert repr(other) in notice.message
        assert frame.backend == frame.parts[0].backend
        failures = {backend.name: inside.app.house.routes.breaker(backend).failures for backend in _units(inside)}
        assert failures == {name: int(name == failing) for name in "abc"}

    backends = [Embedder(name, wrong=(lambda _: fault) if name == failing else None) for name in "abc"]
    play(short_dir, scene, *backends)
    assert "secret" not in caplog.text


def _units(inside: Inside) -> list[Any]:
    return inside.app.house.supervisor.units


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda request: vectors(request.input[1:]), "20 vectors of 1 and gave 19 of 1"),
        (lambda request: vectors(request.input, 2), "20 vectors of 1 and gave 20 of 2"),
        (
            lambda request: EmbedResult(count=20, dimensions=1, data=bytes(79), input_tokens=20),
            "80 bytes and gave 79",
        ),
    ],
    ids=["count", "dimensions", "bytes"],
)
def test_vectors_that_are_not_what_was_asked_for_are_a_failure_of_their_backend(
    short_dir: Path, wrong: Callable[[EmbedRequest], EmbedResult], says: str
) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        frame = await embedded(caller, 40)
        (notice,) = frame.notices
        assert says in notice.message
        assert parts(frame) == [("a", 20), ("a", 20)]
        caller.send(m.Embed(id=2, input=texts(20), model="b"))
        error = await caller.error(2)
        assert (error.code, (error.details or {})["backend"]) == ("internal", "b")
        assert says in error.message

    play(short_dir, scene, Embedder("a"), Embedder("b", wrong=wrong))


def test_where_nobody_says_the_dimensions_the_parts_must_agree(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        frame = await embedded(await inside.call("embed"), 40)
        assert "20 vectors of 1 and gave 20 of 3" in frame.notices[0].message

    a = Embedder("a", embedding_dimensions=None)
    b = Embedder("b", embedding_dimensions=None, wrong=lambda request: vectors(request.input, 3))
    play(short_dir, scene, a, b)


def test_a_part_that_two_backends_fail_is_not_given_to_a_third(short_dir: Path) -> None:
    """A text on which an engine dies shall not take them all."""

    def poison(request: EmbedRequest) -> Any:
        return BackendCrashed("the engine died") if "50" in request.input else vectors(request.input)

    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=texts(60)))
        error = await caller.error(1)
        assert error.code == "backend_crashed"
        attempts = (error.details or {})["attempts"]
        assert [attempt["code"] for attempt in attempts] == ["backend_crashed"] * 2
        assert len({attempt["backend"] for attempt in attempts}) == 2
        await caller.ping()
        assert not caller.untaken

    backends = [Embedder(name, wrong=poison) for name in "abc"]
    play(short_dir, scene, *backends)
    assert sum("50" in asked for backend in backends for asked in backend.asked) == 2


def test_where_all_have_failed_there_is_one_error(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=texts(60)))
        assert (await caller.error(1)).code == "backend_crashed"
        await caller.ping()
        assert not caller.untaken

    play(short_dir, scene, *(Embedder(name, wrong=lambda _: BackendCrashed("died")) for name in "ab"))


def test_a_part_goes_rather_to_one_that_has_failed_none(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for backend in (a, b):
            backend.may.clear()
        caller.send(m.Embed(id=1, input=texts(60)))
        await c.left.wait()
        c.begun.clear()
        a.may.set()  # it fails while b is at work and c is not
        await c.begun.wait()
        b.may.set()  # it fails when a has nothing to do, and has failed
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings)
        assert parts(frame) == [("c", 20)] * 3
        assert len(frame.notices) == 2

    a, b = (Embedder(name, wrong=lambda _: BackendCrashed("died")) for name in "ab")
    c = Embedder("c")
    play(short_dir, scene, a, b, c)


def test_a_part_goes_to_none_that_cannot_take_so_many(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=texts(60)))
        assert (await caller.error(1)).code == "backend_crashed"

    a, b = Embedder("a", wrong=lambda _: BackendCrashed("died")), Embedder("b", max_input_texts=20)
    play(short_dir, scene, a, b)
    assert [len(asked) for asked in b.asked] == [20]


def test_a_part_that_waits_for_a_backend_which_is_given_up_goes_to_another(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        b.may.clear()
        caller.send(m.Embed(id=9, input=["7"], model="b"))
        await b.begun.wait()
        caller.send(m.Embed(id=1, input=texts(40)))
        await a.begun.wait()
        b.report(Unavailable("its engine died for good", recovering=False))
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings)
        assert (parts(frame), frame.data) == ([("a", 20), ("a", 20)], vectors(texts(40)).data)
        assert frame.notices == [], "nobody had its texts: that was no try"
        b.may.set()
        await caller.end(9)

    a, b = Embedder("a"), Embedder("b")
    play(short_dir, scene, a, b)


def too_long(_request: EmbedRequest) -> WireError:
    return ContextOverflow("input[3] has 9 tokens, and input[13] too", details={"field": "input[3]"})


def test_what_the_chosen_backend_refuses_is_refused_and_all_parts_end(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for backend in (b, c):
            backend.may.clear()
        caller.send(m.Embed(id=1, input=texts(60)))
        assert (await caller.error(1)).code == "context_overflow"
        for backend in (b, c):  # however long it would have taken
            await backend.left.wait()
        await caller.ping()
        assert not caller.untaken

    a, b, c = Embedder("a", wrong=too_long), Embedder("b"), Embedder("c")
    play(short_dir, scene, a, b, c)
    assert [len(backend.asked) for backend in (a, b, c)] == [1, 1, 1]


def test_an_error_does_not_wait_for_the_other_parts_to_let_go(short_dir: Path) -> None:
    async def main() -> None:
        may_leave = asyncio.Event()

        async def slow(_request: EmbedRequest) -> EmbedResult:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await may_leave.wait()
            raise AssertionError

        a = Embedder("a", wrong=too_long)
        b = Scripted(name="b", embed=slow, model=MODEL, embedding_dimensions=1)
        async with asyncio.timeout(20), daemon(short_dir, a, b) as inside:
            caller = await inside.call("embed")
            caller.send(m.Embed(id=1, input=texts(60)))
            assert (await caller.error(1)).code == "context_overflow"
            (job,) = inside.app.house.jobs.all()
            assert job.backends == {"b"}, "its slot is taken until it has let go"
            may_leave.set()
            await inside.app.house.jobs.idle()

    asyncio.run(main())


def test_what_another_refuses_the_chosen_one_is_asked(short_dir: Path) -> None:
    """It may take longer texts, or know a task that the other does not: alone it would have been asked for all."""

    async def scene(inside: Inside) -> None:
        frame = await embedded(await inside.call("embed"), 60)
        assert parts(frame) == [("a", 20), ("a", 20), ("c", 20)]
        (notice,) = frame.notices
        assert notice.code == "retried"
        assert "context_overflow" in notice.message
        assert inside.app.house.routes.breaker(_units(inside)[1]).failures == 0

    play(short_dir, scene, Embedder("a"), Embedder("b", wrong=too_long), Embedder("c"))


def test_an_error_counts_the_texts_as_the_client_does(short_dir: Path) -> None:
    def strict(request: EmbedRequest) -> Any:
        return too_long(request) if "23" in request.input else vectors(request.input)

    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=texts(60)))
        error = await caller.error(1)
        assert error.message == "input[23] has 9 tokens, and input[33] too"
        assert (error.details or {})["field"] == "input[23]"

    play(short_dir, scene, *(Embedder(name, wrong=strict) for name in "abc"))


@pytest.mark.parametrize("retries", [0, 1])
def test_a_request_that_is_not_divided_is_given_to_another_only_if_the_operator_says_so(
    short_dir: Path, retries: int
) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=texts(5)))
        frame = await caller.end(1)
        if retries:
            assert isinstance(frame, m.Embeddings)
            assert (frame.backend, frame.parts, [n.code for n in frame.notices]) == ("b", [], ["retried"])
        else:
            assert isinstance(frame, m.Error)
            assert frame.code == "backend_crashed"

    a, b = Embedder("a", wrong=lambda _: BackendCrashed("died")), Embedder("b")
    play(short_dir, scene, a, b, router=RouterConfig(retry_before_first_token=retries))
    assert len(b.asked) == retries


@pytest.mark.parametrize(
    ("fault", "asked"), [(BackendUnavailable("busy"), 2), (BackendCrashed("died"), 1), (RuntimeError(), 1)], ids=repr
)
def test_where_there_is_no_other_the_same_is_asked_again_if_that_can_help(
    short_dir: Path, fault: Exception, asked: int
) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=texts(5)))
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings if asked == 2 else m.Error)

    a = Embedder("a", wrong=lambda request: fault if len(a.asked) == 1 else vectors(request.input))
    another = Embedder("b", model="another", embedding_dimensions=2)
    play(short_dir, scene, a, another, router=RouterConfig(retry_before_first_token=1))
    assert (len(a.asked), another.asked) == (asked, []), "vectors of another model are no answer"


# --- what changes while a part waits --------------------------------------------------------------------------


def becomes(backend: Embedder, **capabilities: Any) -> None:
    """It comes back as another by itself, as a remote server may."""
    backend.report(Unavailable("its server was started again"))
    backend.capabilities = structs.replace(backend.capabilities, **capabilities)
    backend.report(Ready())


async def waits_behind(inside: Inside, busy: Embedder, count: int, **options: Any) -> Caller:
    """A caller whose `embed` 1 of so many texts waits, with all of it or a part, for `busy`; `embed` 9 has its slot."""
    caller = await inside.call("embed")
    busy.may.clear()
    caller.send(m.Embed(id=9, input=["7"], model=busy.name))
    await busy.begun.wait()
    caller.send(m.Embed(id=1, input=texts(count), **options))
    await caller.ping()
    assert inside.app.house.embedding.scheduler.lanes[busy.name].waiting == 1
    return caller


OTHERS: list[dict[str, Any]] = [{"model": "another"}, {"embedding_dimensions": 2}, {"embed": False}]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_part_is_not_given_to_a_backend_that_has_become_another(short_dir: Path, other: dict[str, Any]) -> None:
    async def scene(inside: Inside) -> None:
        caller = await waits_behind(inside, b, 40)
        becomes(b, **other)
        b.may.set()
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings)
        assert (parts(frame), frame.data) == ([("a", 20), ("a", 20)], vectors(texts(40)).data)
        assert frame.notices == [], "nobody had its texts: that was no try"
        await caller.end(9)

    a, b = Embedder("a"), Embedder("b")
    play(short_dir, scene, a, b)
    assert b.asked == [["7"]]


@pytest.mark.parametrize("retries", [0, 1])
def test_where_all_have_become_others_the_request_is_chosen_for_anew(short_dir: Path, retries: int) -> None:
    async def scene(inside: Inside) -> None:
        caller = await waits_behind(inside, a, 40)
        becomes(a, embedding_dimensions=2)
        becomes(b, embedding_dimensions=2)
        a.dimensions = b.dimensions = 2
        a.may.set()
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings)
        assert (parts(frame), frame.data) == ([("a", 20), ("b", 20)], vectors(texts(40), 2).data)
        assert frame.notices == []
        await caller.end(9)

    a, b = Embedder("a"), Embedder("b")
    play(short_dir, scene, a, b, router=RouterConfig(retry_before_first_token=retries))


@pytest.mark.parametrize(
    ("name", "other", "code"),
    [(MODEL, {"model": "another"}, "model_not_found"), ("alias", {"model": "another"}, None), (None, OTHERS[0], None)],
    ids=str,
)
def test_a_request_is_not_computed_with_a_model_that_it_did_not_name(
    short_dir: Path, name: str | None, other: dict[str, Any], code: str | None
) -> None:
    async def scene(inside: Inside) -> None:
        caller = await waits_behind(inside, a, 3, model=name)
        becomes(a, **other)
        a.may.set()
        frame = await caller.end(1)
        if code is None:
            assert isinstance(frame, m.Embeddings)
            assert frame.model == "another", "whose vectors they are"
        else:
            assert isinstance(frame, m.Error)
            assert frame.code == code
        await caller.end(9)

    a = Embedder("a")
    play(short_dir, scene, declared(a, aliases=["alias"]))
    assert len(a.asked) == (2 if code is None else 1)


def test_a_name_that_was_taken_from_the_backend_meanwhile_is_not_found(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await waits_behind(inside, a, 3, model="alias")
        a.report(Unavailable("an operator restarts it"))
        _units(inside)[0].replace(declared(a))  # as the file has it now
        a.report(Ready())
        a.may.set()
        assert (await caller.error(1)).code == "model_not_found"
        await caller.end(9)

    a = Embedder("a")
    play(short_dir, scene, declared(a, aliases=["alias"]))
    assert len(a.asked) == 1


def test_a_part_that_is_not_computed_where_it_waited_costs_nothing_there(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await waits_behind(inside, b, 40)
        job = inside.app.house.jobs.all()[-1]
        becomes(b, model="another")
        b.may.set()
        assert isinstance(await caller.end(1), m.Embeddings)
        assert [(ticket.lane, ticket.used) for ticket in job.tickets] == [("a", 20.0), ("b", 0.0), ("a", 20.0)]
        await caller.end(9)

    a, b = Embedder("a"), Embedder("b")
    play(short_dir, scene, a, b)


# --- one that may not be asked now ----------------------------------------------------------------------------


def test_what_another_refuses_is_not_asked_of_a_chosen_one_that_is_being_drained(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for backend in (a, b):
            backend.may.clear()
        caller.send(m.Embed(id=1, input=texts(40)))
        await a.begun.wait()
        await b.begun.wait()
        inside.app.house.roster.drain("a")
        b.may.set()
        assert (await caller.error(1)).code == "context_overflow"
        a.may.set()

    a, b = Embedder("a"), Embedder("b", wrong=too_long)
    play(short_dir, scene, a, b)
    assert len(a.asked) == 1


def test_the_same_is_not_asked_again_while_it_is_being_drained(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        a.may.clear()
        caller.send(m.Embed(id=1, input=texts(5)))
        await a.begun.wait()
        inside.app.house.roster.drain("a")
        a.may.set()
        assert (await caller.error(1)).code == "backend_unavailable"

    a = Embedder("a", wrong=lambda _: BackendUnavailable("busy"))
    play(short_dir, scene, a, router=RouterConfig(retry_before_first_token=1))
    assert len(a.asked) == 1


@pytest.mark.parametrize("how", ["drained", "cold"])
def test_a_part_that_failed_goes_to_one_that_may_be_asked_now(short_dir: Path, how: str) -> None:
    """The other two have a part each; the one that has done its own would be asked before the one that has not."""

    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for backend in (a, b):
            backend.may.clear()
        caller.send(m.Embed(id=1, input=texts(60)))
        await c.left.wait()
        if how == "drained":
            inside.app.house.roster.drain("c")
        else:
            with pytest.raises(BackendCrashed), inside.app.house.routes.trial(_units(inside)[2]):
                raise BackendCrashed("died")
        b.may.set()
        await b.left.wait()
        a.may.set()
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings)
        assert parts(frame) == [("a", 20), ("a", 20), ("c", 20)]

    a, b, c = Embedder("a"), Embedder("b", wrong=lambda _: BackendCrashed("died")), Embedder("c")
    play(short_dir, scene, a, b, c, router=RouterConfig(breaker_failures=1))
    assert len(c.asked) == 1


# --- a backend that is stopped under it -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["remove", "restart"])
def test_a_part_whose_backend_is_stopped_at_its_deadline_goes_to_another(short_dir: Path, how: str) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for backend in (a, b):
            backend.may.clear()
        caller.send(m.Embed(id=1, input=texts(40)))
        await a.begun.wait()
        await b.begun.wait()
        getattr(inside.app.house.roster, how)("b", 0.0)
        await b.left.wait()
        a.may.set()
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings), frame
        assert (parts(frame), frame.data) == ([("a", 20), ("a", 20)], vectors(texts(40)).data)
        (notice,) = frame.notices
        assert notice.code == "retried"
        assert "an operator stops its backend, 'b'" in notice.message
        assert a.left.is_set()
        await caller.ping()
        assert not caller.untaken
        b.may.set()

    a, b = Embedder("a"), Embedder("b")
    play(short_dir, scene, a, b)
    assert [len(asked) for asked in a.asked] == [20, 20]


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("others", [0, 1])
def test_a_request_whose_backend_is_stopped_goes_to_another_if_there_is_one_and_it_may(
    short_dir: Path, retries: int, others: int
) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        a.may.clear()
        caller.send(m.Embed(id=1, input=texts(5)))
        await a.begun.wait()
        inside.app.house.roster.remove("a", 0.0)
        frame = await caller.end(1)
        if retries and others:
            assert isinstance(frame, m.Embeddings)
            assert (frame.backend, [notice.code for notice in frame.notices]) == ("b", ["retried"])
        else:
            assert isinstance(frame, m.Error)
            assert (frame.code, "stops its backend, 'a'" in frame.message) == ("backend_unavailable", True)

    a, b = Embedder("a"), Embedder("b", model=MODEL if others else "another")
    play(short_dir, scene, a, b, router=RouterConfig(retry_before_first_token=retries))
    assert len(b.asked) == retries * others


def test_where_nobody_can_go_on_the_client_waits_for_no_engine_that_does_not_let_go(short_dir: Path) -> None:
    async def main() -> None:
        begun, may_leave = asyncio.Event(), asyncio.Event()

        async def stays(_request: EmbedRequest) -> EmbedResult:
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await may_leave.wait()
            raise AssertionError

        alone = Scripted(name="a", embed=stays, model=MODEL)
        async with asyncio.timeout(20), daemon(short_dir, alone, Scripted(name="b")) as inside:
            caller = await inside.call("embed")
            caller.send(m.Embed(id=1, input=texts(5)))
            await begun.wait()
            inside.app.house.roster.remove("a", 0.0)
            assert "stops its backend, 'a'" in (await caller.error(1)).message
            may_leave.set()
            await inside.app.house.jobs.idle()

    asyncio.run(main())


def test_a_part_that_was_given_to_another_once_ends_the_request_with_the_name_of_the_one_that_is_stopped(
    short_dir: Path,
) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for backend in (a, c):
            backend.may.clear()
        caller.send(m.Embed(id=1, input=texts(60)))
        await a.begun.wait()
        c.may.set()
        await c.left.wait()
        for backend in (b, c):
            backend.may.clear()
            backend.begun.clear()
        a.may.set()  # it fails
        await asyncio.wait([asyncio.ensure_future(one.begun.wait()) for one in (b, c)], return_when="FIRST_COMPLETED")
        other = b if b.begun.is_set() else c
        inside.app.house.roster.remove(other.name, 0.0)
        error = await caller.error(1)
        assert f"stops its backend, {other.name!r}" in error.message
        assert [attempt["backend"] for attempt in (error.details or {})["attempts"]] == ["a", other.name]
        for backend in (b, c):
            backend.may.set()

    a, b, c = Embedder("a", wrong=lambda _: BackendCrashed("died")), Embedder("b"), Embedder("c")
    play(short_dir, scene, a, b, c)


# --- how it ends early ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "leave", "deadline", "operator", "shutdown"])
@pytest.mark.parametrize("waits", [False, True], ids=["all run", "one waits"])
def test_however_it_is_ended_every_part_ends(short_dir: Path, how: str, waits: bool) -> None:
    async def scene(inside: Inside) -> None:
        caller, admin = await inside.call("embed"), await inside.call("admin")
        for backend in (a, b):
            backend.may.clear()
        other = await inside.call("embed")
        if waits:
            other.send(m.Embed(id=5, input=["7"], model="b"))
            await b.begun.wait()
        caller.send(m.Embed(id=1, input=texts(40)))
        await a.begun.wait()
        await b.begun.wait()
        job = inside.app.house.jobs.all()[-1]
        _end(inside, how, caller, admin, job)
        await a.left.wait()
        if not waits:
            await b.left.wait()
        if how != "leave":
            frame = await caller.end(1)
            assert _code(frame) == {"deadline": "deadline_exceeded", "shutdown": "shutting_down"}.get(how, "cancelled")
            if how != "shutdown":
                await caller.ping()
                assert not caller.untaken
        b.may.set()

    a, b = Embedder("a"), Embedder("b")
    limits: dict[str, Any] = {"timeout": Duration(0.3)} if how == "deadline" else {}
    play(short_dir, scene, a, b, **limits)


def test_the_second_cancel_of_a_stop_reaches_every_part(short_dir: Path) -> None:
    """The first asks their engines to let go, the second ends the wait for that."""

    async def main() -> None:
        never, begun, ended = asyncio.Event(), [asyncio.Event(), asyncio.Event()], list[str]()

        def slow(name: str, began: asyncio.Event) -> Scripted:
            async def embed(_request: EmbedRequest) -> EmbedResult:
                began.set()
                try:
                    await never.wait()
                finally:
                    try:
                        await never.wait()
                    finally:
                        ended.append(name)
                raise AssertionError

            return Scripted(name=name, embed=embed, model=MODEL, embedding_batch=10)

        backends = [slow(name, began) for name, began in zip("ab", begun, strict=True)]
        async with asyncio.timeout(20), daemon(short_dir, *backends) as inside:
            caller = await inside.call("embed")
            caller.send(m.Embed(id=1, input=texts(40)))
            for began in begun:
                await began.wait()
            inside.app.request_stop(0.0, "a test")
            assert (await caller.error(1)).code == "shutting_down"
        assert sorted(ended) == ["a", "b"]

    asyncio.run(main())


def _end(inside: Inside, how: str, caller: Caller, admin: Caller, job: Job) -> None:
    if how == "cancel":
        caller.send(m.Cancel(id=1))
    elif how == "leave":
        caller.close()
    elif how == "operator":
        admin.send(m.CancelRequest(id=1, request=job.number))
    elif how == "shutdown":
        inside.app.request_stop(0.0, "a test")


def _code(frame: m.AnyMessage) -> str:
    assert isinstance(frame, m.Done | m.Error), frame
    return frame.code if isinstance(frame, m.Error) else frame.stop_reason


@pytest.mark.parametrize("limits", [{"queue_depth": 1}, {"per_caller": 1}, {"tokens_per_minute": 30}], ids=str)
def test_a_part_that_is_not_let_in_refuses_the_whole(short_dir: Path, limits: dict[str, Any]) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        for id, backend in enumerate((a, b), start=8):
            backend.may.clear()
            caller.send(m.Embed(id=id, input=["7"], model=backend.name))
            await backend.begun.wait()
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
    play(short_dir, scene, a, b, **limits)
    assert (len(a.asked), len(b.asked)) == (1, 1)


def test_many_divided_requests_at_once_each_get_their_own_vectors(short_dir: Path) -> None:
    def now_and_then(request: EmbedRequest) -> Any:
        return BackendRefused("no") if len(a.asked) % 5 == 0 else vectors(request.input)

    async def scene(inside: Inside) -> None:
        callers = [await inside.call("embed") for _ in range(3)]
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
    play(short_dir, scene, a, b, queue_depth=1000, per_caller=1000)
