"""An embed that waits while its backends become others, or may not be asked any more."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from tests.daemon.inside import Caller, Inside, declared
from tests.daemon.serving.embedders import (
    MODEL,
    Embedder,
    Play,
    ask,
    begun,
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
from vestal.backend import Ready, Unavailable
from vestal.errors import BackendCrashed, BackendUnavailable
from vestald.config import RouterConfig


def becomes(backend: Embedder, **capabilities: Any) -> None:
    """It comes back as another by itself, as a remote server may."""
    backend.report(Unavailable("its server was started again"))
    backend.capabilities = structs.replace(backend.capabilities, **capabilities)
    backend.report(Ready())


async def wait_behind(inside: Inside, caller: Caller, busy: Embedder, count: int, **options: Any) -> None:
    """`embed` 1 of so many texts waits, with all of it or a part, for `busy`; `embed` 9 has its slot."""
    await occupy(caller, busy, id=9)
    ask(caller, count, **options)
    await caller.ping()
    assert inside.app.house.embedding.scheduler.lanes[busy.name].waiting == 1


OTHERS: list[dict[str, Any]] = [{"model": "another"}, {"embedding_dimensions": 2}, {"embed": False}]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_part_is_not_given_to_a_backend_that_has_become_another(play: Play, other: dict[str, Any]) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        await wait_behind(inside, caller, b, 40)
        becomes(b, **other)
        b.may.set()
        frame = await vectors_of(caller)
        assert (parts(frame), frame.data) == ([("a", 20), ("a", 20)], vectors(texts(40)).data)
        assert frame.notices == [], "nobody had its texts: that was no try"
        await caller.end(9)

    a, b = Embedder("a"), Embedder("b")
    play(scene, a, b)
    assert b.asked == [["7"]]


@pytest.mark.parametrize("retries", [0, 1])
def test_where_all_have_become_others_the_request_is_chosen_for_anew(play: Play, retries: int) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        await wait_behind(inside, caller, a, 40)
        becomes(a, embedding_dimensions=2)
        becomes(b, embedding_dimensions=2)
        a.dimensions = b.dimensions = 2
        a.may.set()
        frame = await vectors_of(caller)
        assert (parts(frame), frame.data) == ([("a", 20), ("b", 20)], vectors(texts(40), 2).data)
        assert frame.notices == []
        await caller.end(9)

    a, b = Embedder("a"), Embedder("b")
    play(scene, a, b, router=RouterConfig(retry_before_first_token=retries))


@pytest.mark.parametrize(
    ("name", "other", "code"),
    [(MODEL, {"model": "another"}, "model_not_found"), ("alias", {"model": "another"}, None), (None, OTHERS[0], None)],
    ids=str,
)
def test_a_request_is_not_computed_with_a_model_that_it_did_not_name(
    play: Play, name: str | None, other: dict[str, Any], code: str | None
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        await wait_behind(inside, caller, a, 3, model=name)
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
    play(scene, declared(a, aliases=["alias"]))
    assert len(a.asked) == (2 if code is None else 1)


def test_a_name_that_was_taken_from_the_backend_meanwhile_is_not_found(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        await wait_behind(inside, caller, a, 3, model="alias")
        a.report(Unavailable("an operator restarts it"))
        units(inside)[0].replace(declared(a))  # as the file has it now
        a.report(Ready())
        a.may.set()
        assert (await caller.error(1)).code == "model_not_found"
        await caller.end(9)

    a = Embedder("a")
    play(scene, declared(a, aliases=["alias"]))
    assert len(a.asked) == 1


def test_a_part_that_is_not_computed_where_it_waited_costs_nothing_there(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        await wait_behind(inside, caller, b, 40)
        job = inside.app.house.jobs.all()[-1]
        becomes(b, model="another")
        b.may.set()
        assert isinstance(await caller.end(1), m.Embeddings)
        assert [(ticket.lane, ticket.used) for ticket in job.tickets] == [("a", 20.0), ("b", 0.0), ("a", 20.0)]
        await caller.end(9)

    a, b = Embedder("a"), Embedder("b")
    play(scene, a, b)


# --- one that may not be asked now ----------------------------------------------------------------------------


def test_what_another_refuses_is_not_asked_of_a_chosen_one_that_is_being_drained(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a, b)
        ask(caller, 40)
        await begun(a, b)
        inside.app.house.roster.drain("a")
        b.may.set()
        assert (await caller.error(1)).code == "context_overflow"
        a.may.set()

    a, b = Embedder("a"), Embedder("b", wrong=too_long)
    play(scene, a, b)
    assert len(a.asked) == 1


def test_the_same_is_not_asked_again_while_it_is_being_drained(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a)
        ask(caller, 5)
        await begun(a)
        inside.app.house.roster.drain("a")
        a.may.set()
        assert (await caller.error(1)).code == "backend_unavailable"

    a = Embedder("a", wrong=lambda _: BackendUnavailable("busy"))
    play(scene, a, router=RouterConfig(retry_before_first_token=1))
    assert len(a.asked) == 1


@pytest.mark.parametrize("how", ["drained", "cold"])
def test_a_part_that_failed_goes_to_one_that_may_be_asked_now(play: Play, how: str) -> None:
    """The other two have a part each; the one that has done its own would be asked before the one that has not."""

    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a, b)
        ask(caller, 60)
        await c.left.wait()
        if how == "drained":
            inside.app.house.roster.drain("c")
        else:
            with pytest.raises(BackendCrashed), inside.app.house.routes.trial(units(inside)[2]):
                raise BackendCrashed("died")
        b.may.set()
        await b.left.wait()
        a.may.set()
        frame = await vectors_of(caller)
        assert parts(frame) == [("a", 20), ("a", 20), ("c", 20)]

    a, b, c = Embedder("a"), Embedder("b", wrong=lambda _: BackendCrashed("died")), Embedder("c")
    play(scene, a, b, c, router=RouterConfig(breaker_failures=1))
    assert len(c.asked) == 1
