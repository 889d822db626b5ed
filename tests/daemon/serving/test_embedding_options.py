"""An embed's options choose its backends: who can goes first, who cannot is not asked, who does not say is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.daemon.inside import Caller, Inside
from tests.daemon.serving.embedders import Embedder, Play, ask, begun, embedded, hold, parts, texts, units, vectors_of
from vestal import messages as m
from vestal.backend import EmbedRequest
from vestal.errors import BackendRefused, BackendUnavailable, Unsupported, WireError

KNOWS: dict[str, Any] = {"embedding_tasks": ("query",), "embedding_raw": True}
KNOWS_NONE: dict[str, Any] = {"embedding_tasks": (), "embedding_raw": False}
CUTS: dict[str, Any] = {"embedding_dimensions": 8, "embedding_shortest": 1, "embedding_longest": 8}
CUTS_NONE: dict[str, Any] = {"embedding_dimensions": 8, "embedding_shortest": 8, "embedding_longest": 8}


def no(_request: EmbedRequest) -> Unsupported:
    return Unsupported("this server takes no task", details={"option": "task"})


def in_its_own_words(_request: EmbedRequest) -> BackendRefused:
    return BackendRefused("400 Bad Request: the model takes no task")


@pytest.mark.parametrize(
    ("options", "cannot", "can"),
    [
        ({"task": "query"}, KNOWS_NONE, KNOWS),
        ({"task": "query"}, {"embedding_tasks": ("text",)}, KNOWS),
        ({"dimensions": 2}, CUTS_NONE, CUTS),
        ({"normalize": False}, KNOWS_NONE, KNOWS),
    ],
    ids=str,
)
def test_a_request_goes_to_those_that_honour_its_options_and_is_divided_among_them(
    play: Play, options: dict[str, Any], cannot: dict[str, Any], can: dict[str, Any]
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        assert (await embedded(caller, 5, **options)).backend == "b"
        assert parts(await embedded(caller, 60, id=2, **options)) == [("b", 30), ("c", 30)]

    a, b, c = Embedder("a", **cannot), Embedder("b", **can), Embedder("c", **can)
    play(scene, a, b, c)
    assert a.asked == []
    for asked in (*b.requests, *c.requests):
        assert {name: getattr(asked, name) for name in options} == options


def test_where_none_can_the_refusal_names_the_option_and_nobody_is_asked(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 60, task="query")
        error = await caller.error(1)
        assert (error.code, (error.details or {})["option"]) == ("unsupported", "task")
        assert "it knows text" in error.message
        admin = await inside.call("admin")
        admin.send(m.ExplainRoute(id=1, socket="embed", task="query"))
        report = await admin.first(lambda frame: isinstance(frame, m.RouteReport))
        assert isinstance(report, m.RouteReport)
        assert [candidate.verdict for candidate in report.candidates] == ["incapable"] * 2
        assert report.refusal is not None
        assert report.refusal.message == error.message

    a, b = Embedder("a", embedding_tasks=("text",)), Embedder("b", embedding_tasks=())
    play(scene, a, b)
    assert a.asked == b.asked == []


def test_one_that_says_it_can_goes_before_one_that_does_not_say_and_shares_nothing_with_it(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, 60, task="query")
        assert (frame.backend, frame.parts, frame.notices) == ("b", [], [])
        report = inside.app.house.explain_route(m.ExplainRoute(id=1, socket="embed", task="query"))
        assert [(one.backend, one.verdict) for one in report.candidates] == [("b", "chosen"), ("a", "possible")]
        assert "a does not say whether it honours task" in report.candidates[1].reason

    a, b = Embedder("a"), Embedder("b", **KNOWS)
    play(scene, a, b)
    assert a.asked == []


def test_those_that_do_not_say_are_asked_and_share_what_they_are_asked_for(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, 60, task="query")
        assert (parts(frame), frame.notices) == ([("a", 30), ("b", 30)], [])

    play(scene, Embedder("a"), Embedder("b"))


@pytest.mark.parametrize("refuses", [no, in_its_own_words])
@pytest.mark.parametrize("count", [5, 60])
def test_one_that_did_not_say_and_refuses_costs_a_notice(
    play: Play, count: int, refuses: Callable[[EmbedRequest], WireError]
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(b)
        ask(caller, count, task="query")
        await begun(b)
        (job,) = inside.app.house.jobs.all()
        b.may.set()
        frame = await vectors_of(caller)
        assert (frame.backend, frame.parts) == ("b", [])
        assert [notice.code for notice in frame.notices] == ["retried"]
        assert "takes no task; 'b' was asked" in frame.notices[0].message
        assert [(ticket.lane, ticket.used) for ticket in job.tickets] == [("a", None), ("b", float(count))]
        assert [inside.app.house.routes.breaker(unit).failures for unit in units(inside)] == [0, 0]

    a, b = Embedder("a", wrong=refuses, embedding_batch=100), Embedder("b", model="another")
    play(scene, a, b)
    assert (a.asked, b.asked) == ([texts(count)], [texts(count)])


def test_a_chosen_one_that_refuses_its_part_is_gone_on_without(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        frame = await embedded(caller, 60, task="query")
        assert parts(frame) == [("b", 30), ("c", 30)]
        assert [notice.code for notice in frame.notices] == ["retried"]

    a, b, c = Embedder("a", wrong=no), Embedder("b"), Embedder("c")
    play(scene, a, b, c)
    assert len(a.asked) == 1


def test_what_one_said_that_was_asked_goes_before_what_others_cannot(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 5, task="query")
        error = await caller.error(1)
        assert (error.code, error.message, error.hint) == ("backend_refused", "a bad key", "check it")

    def bad_key(_request: EmbedRequest) -> WireError:
        return BackendRefused("a bad key", hint="check it")

    play(scene, Embedder("a", embedding_tasks=()), Embedder("b", wrong=bad_key))


def test_where_all_that_did_not_say_refuse_each_is_asked_once_and_the_first_ones_word_is_the_answer(
    play: Play,
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 5, task="query")
        error = await caller.error(1)
        assert (error.code, error.message) == ("unsupported", "this server takes no task")
        assert [one["backend"] for one in (error.details or {})["attempts"]] == ["a", "b"]
        await caller.ping()
        assert not caller.untaken

    a, b = Embedder("a", wrong=no), Embedder("b", wrong=no)
    play(scene, a, b)
    assert (len(a.asked), len(b.asked)) == (1, 1)


def test_where_the_one_that_might_can_not_be_asked_now_the_client_hears_when(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        inside.app.house.roster.drain("b")
        ask(caller, 5, task="query")
        error = await caller.error(1)
        assert (error.code, error.retryable) == (BackendUnavailable.code, True)
        assert "'b' is being drained" in error.message

    play(scene, Embedder("a", wrong=no), Embedder("b"))


def test_one_that_promised_and_refuses_is_taken_at_its_word(play: Play) -> None:
    """Whatever it is, it is not the option: asking others for it would hide the fault."""

    async def scene(inside: Inside, caller: Caller) -> None:
        ask(caller, 5, task="query")
        assert (await caller.error(1)).code == "unsupported"

    a, b = Embedder("a", wrong=no, **KNOWS), Embedder("b", **KNOWS)
    play(scene, a, b)
    assert b.asked == []


@pytest.mark.parametrize("name", ["dimensions", "task", "normalize"])
def test_only_an_embed_is_explained_with_its_options(play: Play, name: str) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        admin = await inside.call("admin")
        wish: dict[str, Any] = {"dimensions": 4, "task": "query", "normalize": False}
        admin.send(m.ExplainRoute(id=1, **{name: wish[name]}))
        error = await admin.error(1)
        assert (error.code, (error.details or {})["field"]) == ("invalid_request", name)

    play(scene, Embedder("a"))


def test_a_backend_without_a_lane_for_it_shows_the_slots_that_it_has(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        (one,) = inside.app.house.explain_route(m.ExplainRoute(id=1)).candidates
        assert (one.verdict, one.running, one.slots) == ("incapable", 0, 3)

    play(scene, Embedder("a", slots=3))
