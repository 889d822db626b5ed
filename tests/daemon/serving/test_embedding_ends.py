"""However an embed ends before its time, by a stopped backend, a cancel or a deadline: all its parts end with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.inside import Caller, Inside, Scripted, daemon
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
    vectors,
    vectors_of,
)
from vestal import messages as m
from vestal.errors import BackendCrashed
from vestald.config import Duration, RouterConfig
from vestald.serving.job import Job


@pytest.mark.parametrize("how", ["remove", "restart"])
def test_a_part_whose_backend_is_stopped_at_its_deadline_goes_to_another(play: Play, how: str) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a, b)
        ask(caller, 40)
        await begun(a, b)
        getattr(inside.app.house.roster, how)("b", 0.0)
        await b.left.wait()
        a.may.set()
        frame = await vectors_of(caller)
        assert (parts(frame), frame.data) == ([("a", 20), ("a", 20)], vectors(texts(40)).data)
        (notice,) = frame.notices
        assert notice.code == "retried"
        assert "an operator stops its backend, 'b'" in notice.message
        assert a.left.is_set()
        await caller.ping()
        assert not caller.untaken
        b.may.set()

    a, b = Embedder("a"), Embedder("b")
    play(scene, a, b)
    assert [len(asked) for asked in a.asked] == [20, 20]


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("others", [0, 1])
def test_a_request_whose_backend_is_stopped_goes_to_another_if_there_is_one_and_it_may(
    play: Play, retries: int, others: int
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a)
        ask(caller, 5)
        await begun(a)
        inside.app.house.roster.remove("a", 0.0)
        frame = await caller.end(1)
        if retries and others:
            assert isinstance(frame, m.Embeddings)
            assert (frame.backend, [notice.code for notice in frame.notices]) == ("b", ["retried"])
        else:
            assert isinstance(frame, m.Error)
            assert (frame.code, "stops its backend, 'a'" in frame.message) == ("backend_unavailable", True)

    a, b = Embedder("a"), Embedder("b", model=MODEL if others else "another")
    play(scene, a, b, router=RouterConfig(retry_before_first_token=retries))
    assert len(b.asked) == retries * others


def test_where_nobody_can_go_on_the_client_waits_for_no_engine_that_does_not_let_go(play: Play) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a)
        a.lets_go.clear()
        ask(caller, 5)
        await begun(a)
        inside.app.house.roster.remove("a", 0.0)
        assert "stops its backend, 'a'" in (await caller.error(1)).message
        a.lets_go.set()

    a = Embedder("a")
    play(scene, a, Scripted(name="b"))


def test_a_part_that_was_given_to_another_once_ends_the_request_with_the_name_of_the_one_that_is_stopped(
    play: Play,
) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        hold(a, c)
        ask(caller, 60)
        await a.begun.wait()
        c.may.set()
        await c.left.wait()
        hold(b, c)
        for backend in (b, c):
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
    play(scene, a, b, c)


# --- how it ends early ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "leave", "deadline", "operator", "shutdown"])
@pytest.mark.parametrize("waits", [False, True], ids=["all run", "one waits"])
def test_however_it_is_ended_every_part_ends(play: Play, how: str, waits: bool) -> None:
    async def scene(inside: Inside, caller: Caller) -> None:
        admin = await inside.call("admin")
        hold(a, b)
        other = await inside.call("embed")
        if waits:
            await occupy(other, b, id=5)
        ask(caller, 40)
        await begun(a, b)
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
    play(scene, a, b, **limits)


def test_the_second_cancel_of_a_stop_reaches_every_part(short_dir: Path) -> None:
    """The first asks their engines to let go, the second ends the wait for that."""

    async def main() -> None:
        a, b = Embedder("a"), Embedder("b")
        hold(a, b)
        for backend in (a, b):
            backend.lets_go.clear()
        async with asyncio.timeout(20), daemon(short_dir, a, b) as inside:
            caller = await inside.call("embed")
            ask(caller, 40)
            await begun(a, b)
            inside.app.request_stop(0.0, "a test")
            assert (await caller.error(1)).code == "shutting_down"
        assert a.gone.is_set()
        assert b.gone.is_set()

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
