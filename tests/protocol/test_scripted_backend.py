"""The scripted backend plays what it is told, holds where it is told, and counts what happened to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vestal.backend import EmbedRequest, EmbedResult, GenerateRequest, GenerateRequestV2, Loading, TextEvent
from vestal.errors import BackendCrashed, BackendUnavailable, Unsupported, VestalError
from vestal.testing import ScriptedBackend, check_backend, end
from vestal.values import Capabilities, Message, MessageV2, TextBlock

V1 = GenerateRequest(messages=[Message("user", "Hi")])
V2 = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("Hi")])])


async def started(*plays: Any, **how: Any) -> ScriptedBackend:
    backend = ScriptedBackend("chat", *plays, **how)
    await backend.start(lambda report: None)
    return backend


async def text(backend: ScriptedBackend, request: Any = V1) -> str:
    stream = backend.generate(request) if request is V1 else backend.generate_v2(request)
    return "".join([event.text async for event in stream if isinstance(event, TextEvent)])


def test_plays_come_in_turn_and_the_last_stays() -> None:
    async def run() -> list[str]:
        backend = await started([TextEvent("a"), end(1)], [TextEvent("b"), end(1)])
        return [await text(backend, request) for request in (V1, V2, V1)]

    assert asyncio.run(run()) == ["a", "b", "b"]


def test_a_held_answer_is_running_until_it_is_let_go() -> None:
    async def run() -> None:
        go = asyncio.Event()
        backend = await started([TextEvent("a"), go, end(1)])
        stream = backend.generate(V1)
        await anext(stream)
        assert (backend.running, backend.released) == (1, 0)
        go.set()
        assert [event async for event in stream] == [end(1)]
        assert (backend.running, backend.most_running, backend.released) == (0, 1, 1)
        assert backend.requests == [V1]

    asyncio.run(run())


def test_an_error_in_a_play_is_raised() -> None:
    async def run() -> None:
        backend = await started([TextEvent("a"), BackendCrashed("it died")])
        with pytest.raises(BackendCrashed):
            await text(backend)
        assert backend.running == 0

    asyncio.run(run())


def test_loading_reports_waits_and_fails_as_told() -> None:
    async def run() -> None:
        go, reports = asyncio.Event(), list[Any]()
        backend = ScriptedBackend("chat", loading=[10.0, go, VestalError("no such file")])
        start = asyncio.create_task(backend.start(reports.append))
        await asyncio.sleep(0)
        assert reports == [Loading(10.0)]
        go.set()
        with pytest.raises(VestalError, match="no such file"):
            await start
        with pytest.raises(BackendUnavailable):
            await text(backend)

    asyncio.run(run())


def test_vectors_come_in_turn_and_then_it_does_not_embed() -> None:
    async def run() -> None:
        result = EmbedResult(count=1, dimensions=1, data=bytes(4), input_tokens=1)
        backend = await started(vectors=[result])
        assert await backend.embed(EmbedRequest(input=["a"])) is result
        with pytest.raises(Unsupported):
            await backend.embed(EmbedRequest(input=["a"]))

    asyncio.run(run())


def test_it_keeps_the_port_itself() -> None:
    capabilities = Capabilities(v2=True, slots=4, model="scripted", options=())
    report = asyncio.run(check_backend(lambda: ScriptedBackend("chat", capabilities=capabilities, loading=[0, 50])))
    assert {"generate", "generate_v2", "closing", "concurrency", "readiness"} <= report.passed
