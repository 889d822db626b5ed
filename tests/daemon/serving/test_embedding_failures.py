"""A part of an embed that fails or is refused: who is asked next, and what the client is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.daemon.inside import Caller, Inside
from tests.daemon.serving.embedders import (
    Embedder,
    Play,
    ask,
    begun,
    embedded,
    hold,
    occupy,
    parts,
    texts,
    too_long,
    units,
    vectors,
    vectors_of,
)
from vestal import messages as m
from vestal.backend import EmbedRequest, EmbedResult, Unavailable
from vestal.errors import BackendCrashed, BackendUnavailable, DeadlineExceeded, WireError
from vestald.config import RouterConfig

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
    play: Play, caplog: pytest.LogCaptureFixture, failing: str, fault: BaseException
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, 60)
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
        failures = {backend.name: inside.app.house.routes.breaker(backend).failures for backend in units(inside)}
        assert failures == {name: int(name == failing) for name in "abc"}

    backends = [Embedder(name, wrong=(lambda _: fault) if name == failing else None) for name in "abc"]
    play(scene, *backends)
    assert "secret" not in caplog.text


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
    play: Play, wrong: Callable[[EmbedRequest], EmbedResult], says: str
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, 40)
        (notice,) = frame.notices
        assert says in notice.message
        assert parts(frame) == [("a", 20), ("a", 20)]
        caller.send(m.Embed(id=2, input=texts(20), model="b"))
        error = await caller.error(2)
        assert (error.code, (error.details or {})["backend"]) == ("internal", "b")
        assert says in error.message

    play(scene, Embedder("a"), Embedder("b", wrong=wrong))


def test_where_nobody_says_the_dimensions_the_parts_must_agree(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, 40)
        assert "20 vectors of 1 and gave 20 of 3" in frame.notices[0].message

    a = Embedder("a", embedding_dimensions=None)
    b = Embedder("b", embedding_dimensions=None, wrong=lambda request: vectors(request.input, 3))
    play(scene, a, b)


def test_a_part_that_two_backends_fail_is_not_given_to_a_third(play: Play) -> None:
    """A text on which an engine dies shall not take them all."""

    def poison(request: EmbedRequest) -> Any:
        return BackendCrashed("the engine died") if "50" in request.input else vectors(request.input)

    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 60)
        error = await caller.error(1)
        assert error.code == "backend_crashed"
        attempts = (error.details or {})["attempts"]
        assert [attempt["code"] for attempt in attempts] == ["backend_crashed"] * 2
        assert len({attempt["backend"] for attempt in attempts}) == 2
        await caller.ping()
        assert not caller.untaken

    backends = [Embedder(name, wrong=poison) for name in "abc"]
    play(scene, *backends)
    assert sum("50" in asked for backend in backends for asked in backend.asked) == 2


def test_where_all_have_failed_there_is_one_error(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 60)
        assert (await caller.error(1)).code == "backend_crashed"
        await caller.ping()
        assert not caller.untaken

    play(scene, *(Embedder(name, wrong=lambda _: BackendCrashed("died")) for name in "ab"))


def test_a_part_goes_rather_to_one_that_has_failed_none(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a, b)
        ask(caller, 60)
        await c.left.wait()
        c.begun.clear()
        a.may.set()  # it fails while b is at work and c is not
        await c.begun.wait()
        b.may.set()  # it fails when a has nothing to do, and has failed
        frame = await vectors_of(caller)
        assert parts(frame) == [("c", 20)] * 3
        assert len(frame.notices) == 2

    a, b = (Embedder(name, wrong=lambda _: BackendCrashed("died")) for name in "ab")
    c = Embedder("c")
    play(scene, a, b, c)


def test_a_part_goes_to_none_that_cannot_take_so_many(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 60)
        assert (await caller.error(1)).code == "backend_crashed"

    a, b = Embedder("a", wrong=lambda _: BackendCrashed("died")), Embedder("b", max_input_texts=20)
    play(scene, a, b)
    assert [len(asked) for asked in b.asked] == [20]


def test_a_part_that_waits_for_a_backend_which_is_given_up_goes_to_another(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        await occupy(caller, b, id=9)
        ask(caller, 40)
        await a.begun.wait()
        b.report(Unavailable("its engine died for good", recovering=False))
        frame = await vectors_of(caller)
        assert (parts(frame), frame.data) == ([("a", 20), ("a", 20)], vectors(texts(40)).data)
        assert frame.notices == [], "nobody had its texts: that was no try"
        b.may.set()
        await caller.end(9)

    a, b = Embedder("a"), Embedder("b")
    play(scene, a, b)


def test_what_the_chosen_backend_refuses_is_refused_and_all_parts_end(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(b, c)
        ask(caller, 60)
        assert (await caller.error(1)).code == "context_overflow"
        for backend in (b, c):  # however long it would have taken
            await backend.left.wait()
        await caller.ping()
        assert not caller.untaken

    a, b, c = Embedder("a", wrong=too_long), Embedder("b"), Embedder("c")
    play(scene, a, b, c)
    assert [len(backend.asked) for backend in (a, b, c)] == [1, 1, 1]


def test_an_error_does_not_wait_for_the_other_parts_to_let_go(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a, b)
        b.lets_go.clear()
        ask(caller, 60)
        await begun(a, b)
        a.may.set()
        assert (await caller.error(1)).code == "context_overflow"
        (job,) = inside.app.house.jobs.all()
        assert job.backends == {"b"}, "its slot is taken until it has let go"
        b.lets_go.set()

    a, b = Embedder("a", wrong=too_long), Embedder("b")
    play(scene, a, b)


def test_what_another_refuses_the_chosen_one_is_asked(play: Play) -> None:
    """It may take longer texts, or know a task that the other does not: alone it would have been asked for all."""

    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, 60)
        assert parts(frame) == [("a", 20), ("a", 20), ("c", 20)]
        (notice,) = frame.notices
        assert notice.code == "retried"
        assert "context_overflow" in notice.message
        assert inside.app.house.routes.breaker(units(inside)[1]).failures == 0

    play(scene, Embedder("a"), Embedder("b", wrong=too_long), Embedder("c"))


def test_an_error_counts_the_texts_as_the_client_does(play: Play) -> None:
    def strict(request: EmbedRequest) -> Any:
        return too_long(request) if "23" in request.input else vectors(request.input)

    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 60)
        error = await caller.error(1)
        assert error.message == "input[23] has 9 tokens, and input[33] too"
        assert (error.details or {})["field"] == "input[23]"

    play(scene, *(Embedder(name, wrong=strict) for name in "abc"))


@pytest.mark.parametrize("retries", [0, 1])
def test_a_request_that_is_not_divided_is_given_to_another_only_if_the_operator_says_so(
    play: Play, retries: int
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 5)
        frame = await caller.end(1)
        if retries:
            assert isinstance(frame, m.Embeddings)
            assert (frame.backend, frame.parts, [n.code for n in frame.notices]) == ("b", [], ["retried"])
        else:
            assert isinstance(frame, m.Error)
            assert frame.code == "backend_crashed"

    a, b = Embedder("a", wrong=lambda _: BackendCrashed("died")), Embedder("b")
    play(scene, a, b, router=RouterConfig(retry_before_first_token=retries))
    assert len(b.asked) == retries


@pytest.mark.parametrize(
    ("fault", "asked"), [(BackendUnavailable("busy"), 2), (BackendCrashed("died"), 1), (RuntimeError(), 1)], ids=repr
)
def test_where_there_is_no_other_the_same_is_asked_again_if_that_can_help(
    play: Play, fault: Exception, asked: int
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 5)
        frame = await caller.end(1)
        assert isinstance(frame, m.Embeddings if asked == 2 else m.Error)

    a = Embedder("a", wrong=lambda request: fault if len(a.asked) == 1 else vectors(request.input))
    another = Embedder("b", model="another", embedding_dimensions=2)
    play(scene, a, another, router=RouterConfig(retry_before_first_token=1))
    assert (len(a.asked), another.asked) == (asked, []), "vectors of another model are no answer"
