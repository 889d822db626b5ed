"""Requests on backends that do what the port forbids: each pays with one terminal frame, and nobody else does."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.inside import END, Inside, Scripted, daemon
from vestal import messages as m
from vestal.backend import EmbedRequest, EmbedResult, EndEvent, PromptEvent, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.errors import BackendRefused, InvalidRequest
from vestal.values import MessageV2, Notice, TextBlock, ThinkingBlock, ToolUseBlock, Usage
from vestald.config import RouterConfig

Script = Callable[[Any], AsyncIterator[Any]]
Scene = Callable[[Inside], Awaitable[None]]


def play(
    directory: Path, scene: Scene, *backends: Scripted, router: RouterConfig | None = None, **admission: Any
) -> None:
    """Run `scene` on a daemon with these backends."""

    async def main() -> None:
        async with asyncio.timeout(20), daemon(directory, *backends, router=router, **admission) as inside:
            await scene(inside)

    asyncio.run(main())


def ends(*events: Any) -> Script:
    """A script of these events; an exception among them is raised."""

    async def script(_request: Any) -> AsyncIterator[Any]:
        for event in events:
            if isinstance(event, BaseException):
                raise event
            yield event

    return script


async def hang(_request: Any) -> AsyncIterator[Any]:
    await asyncio.get_running_loop().create_future()
    yield END


@pytest.mark.parametrize(
    ("events", "code", "says"),
    [
        ([RuntimeError("my secret prompt")], "internal", "RuntimeError"),
        ([TextEvent("a"), KeyError("my secret prompt")], "internal", "KeyError"),
        ([TimeoutError("my secret prompt")], "internal", "TimeoutError"),
        ([asyncio.CancelledError()], "internal", "CancelledError"),
        ([BackendRefused("no")], "backend_refused", "no"),
        ([TextEvent("a"), InvalidRequest("bad", details={"field": "x"})], "invalid_request", "bad"),
        ([], "internal", "without an end event"),
        ([TextEvent("a")], "internal", "without an end event"),
        (["my secret prompt", END], "internal", "AttributeError"),
        ([TextEvent("\ud800"), END], "internal", "UnicodeEncodeError"),
        ([ToolUseEvent("1", "t", {"x": object()}), END], "internal", "Error"),
        ([BackendRefused("no", details={"x": object()})], "internal", "TypeError"),
        ([BackendRefused("\ud800")], "internal", "UnicodeEncodeError"),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_what_goes_wrong_in_a_backend_ends_its_request_and_no_other(
    short_dir: Path,
    caplog: pytest.LogCaptureFixture,
    version: int,
    stream: bool,
    events: list[Any],
    code: str,
    says: str,
) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call(version=version)
        caller.ask(1, model="bad", stream=stream)
        error = await caller.error(1)
        assert error.code == code
        assert says in error.message
        assert "secret" not in repr(error)
        caller.ask(2, model="good")
        assert (await caller.done(2)).stop_reason == "end"
        assert not caller.untaken
        assert inside.app.house.generating.scheduler.running == 0

    bad = Scripted(ends(*events), name="bad")
    play(short_dir, scene, bad, Scripted(ends(TextEvent("ok"), END), name="good"))
    assert "secret" not in caplog.text
    assert bad.running == 0


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (EndEvent("end", Usage(), [Notice("x", "\ud800")]), "UnicodeEncodeError"),
        (EndEvent("end", object()), "TypeError"),  # type: ignore[arg-type]  # what an adapter may get wrong
    ],
)
def test_an_end_that_cannot_be_written_is_an_error(short_dir: Path, end: EndEvent, says: str) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1)
        error = await caller.error(1)
        assert error.code == "internal"
        assert says in error.message

    play(short_dir, scene, Scripted(ends(end)))


def test_a_fault_is_logged_with_where_and_never_with_what(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1)
        await caller.error(1)

    with caplog.at_level(logging.DEBUG):
        play(short_dir, scene, Scripted(ends(ValueError("my secret prompt"))))
    assert "ValueError" in caplog.text
    assert "test_work.py" in caplog.text
    assert "secret" not in caplog.text


def test_a_generate_that_raises_when_called_is_an_error(short_dir: Path) -> None:
    class Rude(Scripted):
        def generate(self, request: Any) -> Any:
            raise OSError("no")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1)
        assert "OSError" in (await caller.error(1)).message

    play(short_dir, scene, Rude())


def test_a_stream_that_raises_while_it_is_closed_changes_nothing(short_dir: Path) -> None:
    async def script(_request: Any) -> AsyncIterator[Any]:
        try:
            yield TextEvent("a")
            yield END
        finally:
            raise RuntimeError("in aclose")

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        for id in range(3):
            caller.ask(id)
            assert (await caller.done(id)).stop_reason == "end"
        await caller.ping()
        assert not caller.untaken

    play(short_dir, scene, Scripted(script))


class Engine:
    """A backend whose stream takes its time to let go."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        self.closed = asyncio.Event()
        self.cut = False

    async def script(self, request: Any) -> AsyncIterator[Any]:
        try:
            yield TextEvent("a")
            if "hang" in request.messages[0].content:
                await asyncio.get_running_loop().create_future()
            yield END
        finally:
            self.closing.set()
            try:
                await self.may_close.wait()
            except asyncio.CancelledError:
                self.cut = True
                raise
            finally:
                self.closed.set()


def test_a_cancel_is_answered_before_the_engine_has_let_go_and_the_slot_is_free_after(short_dir: Path) -> None:
    async def main() -> None:
        engine = Engine()
        async with daemon(short_dir, Scripted(engine.script)) as inside:
            caller = await inside.call(features=("queue_events",))
            caller.ask(1, "hang")
            await caller.first(lambda frame: isinstance(frame, m.Token))
            caller.ask(2, "next")
            caller.send(m.Cancel(id=1))
            assert (await caller.done(1)).stop_reason == "cancelled"
            await engine.closing.wait()
            await caller.ping()
            assert [type(frame) for frame in caller.untaken if frame.id == 2] == [m.Queued]  # type: ignore[union-attr]
            engine.may_close.set()
            assert (await caller.done(2)).stop_reason == "end"

    asyncio.run(main())


def test_a_cancel_of_a_request_that_has_ended_does_not_disturb_its_engine(short_dir: Path) -> None:
    async def main() -> None:
        engine = Engine()
        async with daemon(short_dir, Scripted(engine.script)) as inside:
            caller = await inside.call()
            caller.ask(1)
            assert (await caller.done(1)).stop_reason == "end"
            await engine.closing.wait()
            caller.send(m.Cancel(id=1))
            await caller.ping()
            engine.may_close.set()
            await engine.closed.wait()
            assert not engine.cut

    asyncio.run(main())


@pytest.mark.parametrize("how", ["leave", "deadline", "operator"])
def test_however_a_request_is_ended_its_stream_is_closed(short_dir: Path, how: str) -> None:
    async def main() -> None:
        closed = asyncio.Event()

        async def script(_request: Any) -> AsyncIterator[Any]:
            try:
                yield TextEvent("a")
                await asyncio.get_running_loop().create_future()
            finally:
                closed.set()

        async with daemon(short_dir, Scripted(script)) as inside:
            caller = await inside.call()
            caller.ask(1, timeout_ms=50 if how == "deadline" else None)
            await caller.first(lambda frame: isinstance(frame, m.Token))
            if how == "leave":
                caller.close()
            elif how == "operator":
                admin = await inside.call("admin")
                (job,) = inside.app.house.jobs.all()
                admin.send(m.CancelRequest(id=1, request=job.number))
            await closed.wait()
            await inside.app.house.jobs.idle()
            assert inside.app.house.generating.scheduler.running == 0

    asyncio.run(main())


def test_a_request_that_is_cut_short_tells_what_it_used(short_dir: Path) -> None:
    async def script(_request: Any) -> AsyncIterator[Any]:
        yield PromptEvent(input_tokens=30, cached_tokens=10, prefill_ms=1.5)
        yield TextEvent("abc", tokens=3)
        await asyncio.get_running_loop().create_future()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1)
        await caller.first(lambda frame: isinstance(frame, m.Token))
        caller.send(m.Cancel(id=1))
        done = await caller.done(1)
        assert done.usage == Usage(30, 10, 3)
        assert done.timings.prefill_ms == 1.5

    play(short_dir, scene, Scripted(script))


@pytest.mark.parametrize("stream", [True, False])
def test_every_kind_of_event_becomes_its_frame_or_its_block(short_dir: Path, stream: bool) -> None:
    events = [
        PromptEvent(4),
        ThinkingEvent("Hm"),
        ThinkingEvent(", so"),
        TextEvent("Let me "),
        TextEvent("look."),
        ToolUseEvent("c1", "weather", {"city": "Rome"}),
        TextEvent("Done."),
        EndEvent("tool_use", Usage(4, 0, 7), [Notice("clamped", "a note")]),
    ]

    async def scene(inside: Inside) -> None:
        caller = await inside.call(version=2)
        caller.ask(1, stream=stream)
        *pieces, done = await caller.answer(1)
        assert isinstance(done, m.Done)
        assert (done.stop_reason, done.usage) == ("tool_use", Usage(4, 0, 7))
        assert [notice.code for notice in done.notices] == ["clamped"]
        if stream:
            assert pieces == [
                m.ThinkingDelta(1, "Hm"),
                m.ThinkingDelta(1, ", so"),
                m.Text(1, "Let me "),
                m.Text(1, "look."),
                m.ToolUse(id=1, call_id="c1", name="weather", input={"city": "Rome"}),
                m.Text(1, "Done."),
            ]
            assert done.content is None
        else:
            assert pieces == []
            assert done.content == [
                ThinkingBlock("Hm, so"),
                TextBlock("Let me look."),
                ToolUseBlock("c1", "weather", {"city": "Rome"}),
                TextBlock("Done."),
            ]

    play(short_dir, scene, Scripted(ends(*events)))


def test_an_answer_too_long_for_a_frame_is_said(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1, stream=False)
        error = await caller.error(1)
        assert error.code == "frame_too_large"
        caller.ask(2)
        await caller.end(2)

    play(short_dir, scene, Scripted(ends(*[TextEvent("x" * 2**20)] * 65, END)))


def test_a_backend_never_runs_more_than_its_slots(short_dir: Path) -> None:
    dice = random.Random(1)

    async def script(_request: Any) -> AsyncIterator[Any]:
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
            yield TextEvent("w")
        if dice.random() < 0.2:
            raise RuntimeError
        yield END

    backend = Scripted(script, slots=3)

    async def scene(inside: Inside) -> None:
        callers = [await inside.call() for _ in range(5)]
        for id in range(40):
            for caller in callers:
                caller.ask(id)
                if dice.random() < 0.3:
                    caller.send(m.Cancel(id=dice.randrange(id + 1)))
        for caller in callers:
            for id in range(40):
                await caller.end(id)
            assert not caller.untaken

    trusted = RouterConfig(breaker_failures=1000)  # it fails often, and is to be asked all the same
    play(short_dir, scene, backend, router=trusted, queue_depth=1000, per_caller=1000)
    assert backend.most_at_once == 3
    assert backend.running == 0


# --- embedding ------------------------------------------------------------------------------------------------


async def one_vector(request: EmbedRequest) -> EmbedResult:
    return EmbedResult(count=1, dimensions=1, data=b"\0\0\0\0", input_tokens=1)


def test_a_daemon_that_only_embeds_has_no_infer_socket(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        assert not inside.exists("infer")
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=["a"]))
        assert isinstance(await caller.end(1), m.Embeddings)

    play(short_dir, scene, Scripted(embed=one_vector, generate=False))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (RuntimeError("my secret text"), "internal"),
        (TimeoutError(), "internal"),
        (BackendRefused("no"), "backend_refused"),
    ],
)
def test_what_goes_wrong_in_an_embed_ends_its_request(
    short_dir: Path, caplog: pytest.LogCaptureFixture, fault: Exception, code: str
) -> None:
    async def embed(request: EmbedRequest) -> EmbedResult:
        if request.input == ["bad"]:
            raise fault
        return await one_vector(request)

    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=["bad"]), m.Embed(id=2, input=["good"]))
        assert (await caller.error(1)).code == code
        assert isinstance(await caller.end(2), m.Embeddings)

    play(short_dir, scene, Scripted(embed=embed))
    assert "secret" not in caplog.text


@pytest.mark.parametrize("waits", [False, True])
def test_an_embed_can_be_cancelled_while_it_runs_and_while_it_waits(short_dir: Path, waits: bool) -> None:
    async def main() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def embed(request: EmbedRequest) -> EmbedResult:
            began.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()
            raise AssertionError

        async with daemon(short_dir, Scripted(embed=embed)) as inside:
            caller = await inside.call("embed")
            caller.send(m.Embed(id=1, input=["a"]), m.Embed(id=2, input=["b"]))
            await began.wait()
            id = 2 if waits else 1
            caller.send(m.Cancel(id=id))
            done = await caller.done(id)
            assert (done.stop_reason, done.backend, done.model) == ("cancelled", "scripted", "scripted")
            assert ended.is_set() != waits

    asyncio.run(main())


# --- counting -------------------------------------------------------------------------------------------------


def test_a_backend_that_does_not_count_says_so(short_dir: Path) -> None:
    async def scene(inside: Inside) -> None:
        caller = await inside.call(version=2)
        caller.send(m.CountV2(id=1, messages=[MessageV2("user", [TextBlock("Hi")])]))
        error = await caller.error(1)
        assert (error.code, (error.details or {})["option"]) == ("unsupported", "count")

    play(short_dir, scene, Scripted(hang))


def test_a_count_that_raises_is_an_error(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    fault = RuntimeError("my secret prompt")

    async def count(_request: Any) -> int:
        raise fault

    async def scene(inside: Inside) -> None:
        caller = await inside.call(version=2)
        caller.send(m.CountV2(id=1, messages=[MessageV2("user", [TextBlock("Hi")])]))
        assert (await caller.error(1)).code == "internal"

    play(short_dir, scene, Scripted(hang, count=count))
    assert "secret" not in caplog.text


def test_a_count_that_never_ends_does_not_outlive_its_connection(short_dir: Path) -> None:
    async def main() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def count(_request: Any) -> int:
            began.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()
            raise AssertionError

        async with daemon(short_dir, Scripted(hang, count=count)) as inside:
            caller = await inside.call(version=2)
            caller.send(m.CountV2(id=1, messages=[MessageV2("user", [TextBlock("Hi")])]))
            await began.wait()
            caller.close()
            await ended.wait()

    asyncio.run(main())
