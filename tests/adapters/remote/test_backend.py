"""A remote backend is ready when its server serves the model, says so when it does not, and comes back with it."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from msgspec import structs

from tests.adapters.remote import model
from tests.adapters.remote.web import MODELS, Asked, Server, chat_like, chunk, done, sse
from tests.adapters.reports import Reports
from vestal.backend import (
    EmbedRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Loading,
    Ready,
    TextEvent,
    Unavailable,
)
from vestal.errors import (
    BackendCrashed,
    BackendRefused,
    BackendUnavailable,
    ModelNotFound,
    Unsupported,
    VestalError,
    WireError,
)
from vestal.values import GenerateOptions, Message, MessageV2, NamedTool, TextBlock, Tool, Usage
from vestal_adapters.remote import presence
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions

V1 = GenerateRequest(messages=[Message("user", "Hi")], cache_scope="1")
V2 = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("Hi")])], cache_scope="1")


async def asked(backend: OpenAIBackend, request: Any = V1) -> list[Any]:
    return [event async for event in (backend.generate(request) if request is V1 else backend.generate_v2(request))]


def backend_at(url: str, **options: Any) -> OpenAIBackend:
    return OpenAIBackend("cluster", OpenAIOptions(**({"preset": "vllm", "model": "small", "base_url": url} | options)))


def ignore(_report: object) -> None:
    pass


# --- readiness ------------------------------------------------------------------------------------------------


def test_a_server_that_serves_the_model_makes_a_ready_backend(serving: Any) -> None:
    async def run() -> None:
        async with serving(chat_like()) as (backend, server, _):
            assert backend.ready
            assert backend.capabilities.model == "small"
            assert backend.capabilities.context_length == 64
            assert [seen.path for seen in server.asked] == ["/health", "/v1/models"]
            assert (await backend.health()).state == "ok"
        assert (await backend.health()).state == "stopped"

    asyncio.run(run())


def test_a_server_that_still_loads_is_waited_for(serving: Any) -> None:
    tries = iter(range(9))

    async def loading(seen: Asked) -> None:
        if seen.path == "/health" and next(tries) < 2:
            await seen.reply({"error": {"message": "Loading model"}}, 503)
        else:
            await chat_like()(seen)

    async def run() -> list[Any]:
        async with serving(loading) as (backend, _, reports):
            assert backend.ready
            return list(reports)

    reports = asyncio.run(run())
    assert len(reports) == 2
    assert isinstance(reports[0], Loading)
    assert "Loading model" in reports[0].detail


def test_a_server_that_is_not_there_yet_is_waited_for_until_a_stop(serving: Any) -> None:
    async def run() -> None:
        async with Server(chat_like()) as server:
            url = server.url
        backend, waits = backend_at(url), asyncio.Event()
        start = asyncio.create_task(backend.start(lambda _: waits.set()))
        await waits.wait()
        assert (await backend.health()).state == "loading"
        await backend.stop(1)
        with pytest.raises(BackendUnavailable, match="stopped while it was loading"):
            await start
        assert not backend.ready

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (chat_like(models={"data": [{"id": "a"}, {"id": "b"}]}), ModelNotFound, "does not serve model 'small'"),
        (chat_like(models={"data": []}), ModelNotFound, "does not serve"),
        (chat_like(models={"models": []}), BackendCrashed, "not the JSON it should be"),
        (lambda seen: seen.reply({"error": {"message": "no"}}, 401), BackendRefused, "answered 401: no"),
        (lambda seen: seen.reply({}, 404), BackendRefused, "answered 404"),
    ],
)
def test_what_waiting_cannot_help_fails_the_start_at_once(answer: Any, error: type[WireError], why: str) -> None:
    async def run() -> None:
        async with Server(answer) as server:
            backend = backend_at(server.url)
            with pytest.raises(error, match=why):
                await backend.start(ignore)
            assert not backend.ready
            await backend.stop(1)

    asyncio.run(run())


def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    async def run() -> None:
        async with Server(chat_like(models={"data": [{"id": "b"}, {"id": "a"}]})) as server:
            with pytest.raises(ModelNotFound) as refused:
                await backend_at(server.url).start(ignore)
            assert refused.value.details["models"] == ["a", "b"]
            assert "a, b" in str(refused.value.hint)

    asyncio.run(run())


def test_a_key_that_is_not_there_fails_the_start() -> None:
    async def run() -> None:
        backend = backend_at("http://127.0.0.1:1/v1", api_key_env="NO_SUCH_VARIABLE")
        with pytest.raises(VestalError, match="no key in variable NO_SUCH_VARIABLE"):
            await backend.start(ignore)

    asyncio.run(run())


def test_the_only_model_of_a_server_needs_no_name(serving: Any) -> None:
    async def run() -> str:
        async with serving(chat_like(), model=None) as (backend, _, _):
            return str(backend.capabilities.model)

    assert asyncio.run(run()) == "small"


def test_a_lost_server_is_told_and_so_is_its_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_FRESH", 0.0)
    monkeypatch.setattr(presence, "_PAUSES", (0.01,))
    away = [False]

    async def sometimes(seen: Asked) -> None:
        await (seen.reply({"error": "restarting"}, 503) if away[0] else chat_like()(seen))

    async def run() -> None:
        async with Server(sometimes) as server:
            backend, reports = backend_at(server.url), Reports()
            await backend.start(reports)
            away[0] = True
            health = await backend.health()
            assert (health.state, health.restarts) == ("unavailable", 1)
            assert "503: restarting" in health.detail
            (lost,) = reports.seen
            assert isinstance(lost, Unavailable)
            assert lost.recovering
            with pytest.raises(BackendUnavailable, match="unavailable: "):
                await asked(backend)
            away[0] = False
            await reports.until(Ready)
            assert (await backend.health()).state == "ok"
            await backend.stop(5)

    asyncio.run(run())


def test_a_request_that_finds_nobody_there_makes_it_unavailable() -> None:
    async def run() -> None:
        reports: list[Any] = []
        async with Server(chat_like()) as server:
            backend = backend_at(server.url)
            await backend.start(reports.append)
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            await asked(backend)
        assert not backend.ready
        assert isinstance(reports[0], Unavailable)
        await backend.stop(1)

    asyncio.run(run())


def test_a_model_that_is_no_longer_served_is_no_longer_ready(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_FRESH", 0.0)
    listed = [MODELS]

    async def forgetful(seen: Asked) -> None:
        await chat_like(models=listed[0])(seen)

    async def run() -> None:
        async with serving(forgetful) as (backend, _, _):
            listed[0] = {"data": []}
            assert (await backend.health()).state == "unavailable"
            assert not backend.ready

    asyncio.run(run())


# --- answers --------------------------------------------------------------------------------------------------


def test_an_answer_comes_in_pieces_with_its_usage_and_reason(serving: Any) -> None:
    async def run() -> None:
        async with serving(chat_like()) as (backend, server, _):
            events = await asked(backend)
            assert events == [TextEvent("Hel"), TextEvent("lo"), EndEvent("end", Usage(7, 0, 2))]
            body = server.asked[-1].json
            assert body["model"] == "small"
            assert body["stream_options"] == {"include_usage": True}
            assert body["messages"] == [{"role": "user", "content": "Hi"}]

    asyncio.run(run())


async def _no_marker(seen: Asked) -> None:
    await seen.stream(sse(chunk("Hi"), chunk(finish="stop")))
    await seen.end_stream()


async def _error_event(seen: Asked) -> None:
    await seen.stream(sse(chunk("Hi"), {"error": {"message": "out of memory", "code": 503}}))
    await seen.end_stream()


async def _error_at_once(seen: Asked) -> None:
    await seen.reply({"error": {"message": "out of memory"}})


async def _bad_json(seen: Asked) -> None:
    await seen.stream(sse(chunk("Hi"), '{"choices": [{"delta": '))
    await seen.end_stream()


async def _wrong_shape(seen: Asked) -> None:
    await seen.stream(sse({"choices": [{"delta": {"content": 7}}]}))
    await seen.end_stream()


async def _killed(seen: Asked) -> None:
    await seen.stream(sse(chunk("Hi")))
    seen.writer.transport.abort()


async def _no_reason(seen: Asked) -> None:
    await seen.stream(sse(chunk("Hi"), *done()))
    await seen.end_stream()


@pytest.mark.parametrize(
    ("answer", "code", "why"),
    [
        (_no_marker, "backend_crashed", "without the end marker, after 1 pieces"),
        (_no_reason, "backend_crashed", "without the end marker"),
        (_error_event, "backend_unavailable", "answered 503: out of memory"),
        (_error_at_once, "backend_crashed", "application/json instead of an event stream"),
        (_bad_json, "backend_crashed", "not a chunk of an answer"),
        (_wrong_shape, "backend_crashed", "not a chunk of an answer"),
        (_killed, "backend_crashed", "broke off its answer"),
    ],
)
@pytest.mark.parametrize("request_", [V1, V2], ids=["v1", "v2"])
def test_an_answer_that_does_not_end_well_is_one_error(
    serving: Any, answer: Any, code: str, why: str, request_: Any
) -> None:
    async def run() -> WireError:
        async with serving(chat_like(answer)) as (backend, _, _):
            with pytest.raises(WireError, match=why) as failed:
                await asked(backend, request_)
            assert backend.ready  # one bad answer is not the end of the server
            return failed.value

    assert asyncio.run(run()).code == code


@pytest.mark.parametrize(
    ("choice", "finish", "told"),
    [
        ("required", "stop", ["tool_choice_ignored"]),
        (NamedTool("lamp"), "stop", ["tool_choice_ignored"]),
        ("required", "length", []),  # it may have been about to
        ("auto", "stop", []),
    ],
)
def test_a_call_that_had_to_be_and_did_not_come_is_told(
    serving: Any, choice: Any, finish: str, told: list[str]
) -> None:
    async def talks(seen: Asked) -> None:
        await seen.stream(sse(chunk("Hi"), chunk(finish=finish), *done()))
        await seen.end_stream()

    async def run() -> list[str]:
        async with serving(chat_like(talks), tools=True) as (backend, _, _):
            request = structs.replace(V2, tools=[Tool("lamp", {"type": "object"})], tool_choice=choice)
            return [notice.code for notice in (await asked(backend, request))[-1].notices]

    assert asyncio.run(run()) == told


def test_vectors_come_in_order_and_of_length_one(serving: Any) -> None:
    async def run() -> None:
        async with serving(model.serve, kind="embeddings") as (backend, _, _):
            assert backend.capabilities.embedding_dimensions == 2
            assert not backend.capabilities.generate
            told = backend.capabilities
            assert (told.embedding_tasks, told.embedding_raw) == ((), False)
            assert (told.embedding_shortest, told.embedding_longest) == (None, None), "vLLM has models that cut, or not"
            result = await backend.embed(EmbedRequest(input=["abcd", ""]))
            assert struct.unpack("<4f", result.data) == pytest.approx([0.8, 0.6, 0.0, 1.0])
            assert (result.count, result.dimensions, result.input_tokens) == (2, 2, 5)
            with pytest.raises(Unsupported, match="does not generate"):
                await asked(backend)

    asyncio.run(run())


def test_a_status_does_not_pay_for_an_embedding(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_FRESH", 0.0)

    async def run() -> list[str]:
        async with serving(model.serve, kind="embeddings") as (backend, server, _):
            assert (await backend.health()).state == "ok"
            assert backend.capabilities.embedding_dimensions == 2
            return [seen.path for seen in server.asked]

    assert asyncio.run(run()) == ["/health", "/v1/models", "/v1/embeddings", "/health", "/v1/models"]


def test_a_status_does_not_wait_long_for_a_server_that_hangs(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_FRESH", 0.0)
    monkeypatch.setattr(presence, "PROBE_TIMEOUT", 0.1)
    hangs = [False]

    async def sometimes(seen: Asked) -> None:
        await (seen.gone.wait() if hangs[0] else chat_like()(seen))

    async def run() -> str:
        async with serving(sometimes) as (backend, _, _):
            hangs[0] = True
            health = await backend.health()
            assert health.state == "unavailable"
            return str(health.detail)

    assert "did not answer within 0.1 s" in asyncio.run(run())


def test_a_chat_model_does_not_embed(serving: Any) -> None:
    async def run() -> None:
        async with serving(chat_like()) as (backend, _, _):
            with pytest.raises(Unsupported):
                await backend.embed(EmbedRequest(input=["a"]))

    asyncio.run(run())


def test_a_refusal_before_the_first_event_is_told_with_its_wait(serving: Any) -> None:
    async def run() -> WireError:
        async def busy(seen: Asked) -> None:
            await seen.reply({"error": {"message": "slow down"}}, 429, Retry_After="3")

        async with serving(chat_like(busy)) as (backend, _, _):
            with pytest.raises(WireError) as failed:
                await asked(backend)
            return failed.value

    error = asyncio.run(run())
    assert (error.code, error.retryable, error.retry_after_ms) == ("backend_unavailable", True, 3000)


def test_options_go_out_under_the_names_of_the_preset(serving: Any) -> None:
    async def run() -> dict[str, Any]:
        async with serving(chat_like()) as (backend, server, _):
            options = GenerateOptions(max_tokens=5, repeat_penalty=1.5, top_k=3, stop=["x"])
            request = GenerateRequest(messages=[Message("user", "Hi")], options=options, cache_scope="1")
            [event async for event in backend.generate(request)]
            body: dict[str, Any] = server.asked[-1].json
            return body

    body = asyncio.run(run())
    assert {name: body[name] for name in ("max_tokens", "repetition_penalty", "top_k", "stop")} == {
        "max_tokens": 5,
        "repetition_penalty": 1.5,
        "top_k": 3,
        "stop": ["x"],
    }


def test_only_a_server_that_has_a_switch_for_its_cache_is_asked_to_leave_it_alone(serving: Any) -> None:
    """llama_cpp.server looks like llama-server, has no such switch, and takes no note of what it does not know."""

    async def with_details(seen: Asked) -> None:
        if seen.path == "/props":
            await seen.reply({"default_generation_settings": {"n_ctx": 64}})
        else:
            await chat_like()(seen)

    async def run() -> None:
        private = structs.replace(V1, cache_scope=None)
        async with serving(with_details, preset="llamacpp") as (backend, server, _):
            [event async for event in backend.generate(private)]
            assert server.asked[-1].json["cache_prompt"] is False
        async with serving(chat_like(), preset="llamacpp") as (backend, server, _):
            with pytest.raises(Unsupported) as refused:
                [event async for event in backend.generate(private)]
            assert refused.value.details["option"] == "cache"
            assert server.asked[-1].path == "/props"

    asyncio.run(run())
