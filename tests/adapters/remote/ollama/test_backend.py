"""The ollama backend on a scripted server: ready, answering, embedding, and one error for each thing gone wrong."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from tests.adapters.remote.ollama.model import CONTEXT, VECTORS, chat_like, done, line, lines, serve, stream
from tests.adapters.remote.started import closed_early, collected, started
from tests.adapters.remote.web import Asked, Server
from vestal.backend import EmbedRequest, EndEvent, GenerateRequest, GenerateRequestV2, TextEvent, ThinkingEvent
from vestal.errors import ModelNotFound, Unsupported, VestalError, WireError
from vestal.values import Message, MessageV2, TextBlock, Usage
from vestal_adapters.remote import presence
from vestal_adapters.remote.ollama.backend import OllamaBackend
from vestal_adapters.remote.ollama.options import OllamaOptions

V1 = GenerateRequest(messages=[Message("user", "Hello there")], cache_scope="1")
LONG = GenerateRequest(messages=[Message("user", "x " * (CONTEXT + 1))], cache_scope="1")
VECTORS_OF = chat_like(None, shown=VECTORS)


def backend_at(url: str, **options: Any) -> OllamaBackend:
    return OllamaBackend("local", OllamaOptions(**({"base_url": url.removesuffix("/v1")} | options)))


def serving(answer: Any, **options: Any) -> Any:
    return started(answer, lambda url: backend_at(url, **options))


async def refused_start(answer: Any, **options: Any) -> VestalError:
    async with Server(answer) as server:
        backend = backend_at(server.url, **options)
        with pytest.raises(VestalError) as refused:
            await backend.start(lambda _: None)
        assert not backend.ready
        await backend.stop(1)
        return refused.value


# --- readiness ------------------------------------------------------------------------------------------------


def test_a_backend_is_ready_once_the_model_is_in_memory_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_FRESH", 0.0)

    async def run() -> None:
        async with serving(serve, model="small", keep_alive="forever") as (backend, server, _):
            assert (backend.capabilities.model, backend.capabilities.context_length) == ("small:latest", CONTEXT)
            pages = ["/api/version", "/api/tags", "/api/show"]
            assert [seen.path for seen in server.asked] == [*pages, "/api/chat"]
            loaded = server.asked[-1].json
            assert (loaded["messages"], loaded["options"], loaded["keep_alive"]) == ([], {"num_ctx": CONTEXT}, -1)
            assert (await backend.health()).state == "ok"
            assert [seen.path for seen in server.asked[4:]] == pages  # a status loads nothing

    asyncio.run(run())


def test_a_model_that_is_not_there_fails_the_start_with_those_that_are() -> None:
    refused = asyncio.run(refused_start(serve, model="large"))
    assert isinstance(refused, ModelNotFound)
    assert refused.details["models"] == ["small:latest"]


def test_a_version_that_cuts_prompts_in_silence_fails_the_start() -> None:
    refused = asyncio.run(refused_start(chat_like(None, version="0.12.5")))
    assert "'0.12.5', which cuts long prompts in silence" in str(refused)
    assert "allow_truncation" in str(refused.hint)


def test_a_context_that_the_model_does_not_have_fails_the_start() -> None:
    refused = asyncio.run(refused_start(serve, context_length=50_000))
    assert "has a context of 40960 tokens, and 50000 are configured" in str(refused)


def test_a_model_that_does_not_fit_into_memory_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_PAUSES", (0.01,))
    tries = iter(range(9))

    async def full(seen: Asked) -> None:
        if seen.path == "/api/chat" and next(tries) < 2:
            await seen.reply({"error": "model requires more system memory (9 GiB) than is available"}, 500)
        else:
            await serve(seen)

    async def run() -> list[Any]:
        async with serving(full) as (_, _, reports):
            return list(reports)

    details = [report.detail for report in asyncio.run(run())]
    assert len(details) == 2
    assert "requires more system memory" in details[0]


# --- answers --------------------------------------------------------------------------------------------------


def test_an_answer_comes_in_pieces_with_its_usage() -> None:
    async def run() -> list[Any]:
        async with serving(serve) as (backend, _, _):
            return await collected(backend.generate(V1))

    assert asyncio.run(run()) == [TextEvent("Hello"), TextEvent(" there"), EndEvent("end", Usage(2, 0, 2))]


def test_thinking_that_was_asked_for_comes() -> None:
    async def run() -> list[Any]:
        async with serving(serve) as (backend, _, _):
            request = GenerateRequestV2(
                messages=[MessageV2("user", [TextBlock("Hello")])], thinking="high", cache_scope="1"
            )
            return await collected(backend.generate_v2(request))

    thought, text, end = asyncio.run(run())
    assert (thought, text) == (ThinkingEvent("hmm"), TextEvent("Hello"))
    assert [notice.code for notice in end.notices] == ["thinking_level"]


def test_a_prompt_that_does_not_fit_is_an_overflow_and_is_not_cut() -> None:
    async def run() -> WireError:
        async with serving(serve) as (backend, _, _):
            with pytest.raises(WireError, match="the input length exceeds the context length") as refused:
                await collected(backend.generate(LONG))
            return refused.value

    error = asyncio.run(run())
    assert (error.code, error.retryable) == ("context_overflow", False)


def test_an_old_server_that_is_allowed_to_cut_prompts_is_told_in_the_answer() -> None:
    async def cutting(seen: Asked) -> None:
        await stream(seen, line("Hi"), done("stop", CONTEXT, 1))

    async def run() -> EndEvent:
        async with serving(chat_like(cutting, version="0.11.0"), allow_truncation=True) as (backend, _, _):
            end: EndEvent = (await collected(backend.generate(LONG)))[-1]
            return end

    assert [notice.code for notice in asyncio.run(run()).notices] == ["prompt_may_be_cut"]


# --- vectors --------------------------------------------------------------------------------------------------


def test_a_model_of_vectors_embeds_and_does_nothing_else() -> None:
    async def run() -> None:
        async with serving(VECTORS_OF) as (backend, _, _):
            assert (backend.capabilities.embedding_dimensions, backend.capabilities.generate) == (2, False)
            result = await backend.embed(EmbedRequest(input=["abcd", ""]))
            assert struct.unpack("<4f", result.data) == pytest.approx([0.8, 0.6, 0.0, 1.0])
            assert (result.count, result.dimensions, result.input_tokens) == (2, 2, 5)
            with pytest.raises(Unsupported, match="does not generate"):
                await collected(backend.generate(V1))

    asyncio.run(run())


def test_a_chat_model_does_not_embed() -> None:
    async def run() -> None:
        async with serving(serve) as (backend, _, _):
            with pytest.raises(Unsupported, match="does not embed"):
                await backend.embed(EmbedRequest(input=["a"]))

    asyncio.run(run())


def test_a_text_that_does_not_fit_is_an_overflow_and_is_not_cut() -> None:
    async def run() -> WireError:
        async with serving(VECTORS_OF) as (backend, _, _):
            with pytest.raises(WireError) as refused:
                await backend.embed(EmbedRequest(input=["short", "x " * 513]))
            return refused.value

    assert asyncio.run(run()).code == "context_overflow"


def test_dimensions_that_a_server_ignores_are_refused_by_name() -> None:
    async def run() -> None:
        async with serving(VECTORS_OF) as (backend, _, _):
            with pytest.raises(Unsupported, match="cuts no vectors short") as refused:
                await backend.embed(EmbedRequest(input=["a"], dimensions=1))
            assert refused.value.details == {"option": "dimensions"}

    asyncio.run(run())


# --- what goes wrong ------------------------------------------------------------------------------------------

KIND = "application/x-ndjson"


def streaming(*said: object) -> Any:
    async def answer(seen: Asked) -> None:
        await stream(seen, *said)

    return answer


async def _killed(seen: Asked) -> None:
    await seen.stream(lines(line("Hi")), kind=KIND)
    seen.writer.transport.abort()


async def _half_a_line(seen: Asked) -> None:
    await seen.stream(lines(line("Hi")) + b'{"done": true}', kind=KIND)  # the end of the line never comes
    await seen.end_stream()


async def _endless_line(seen: Asked) -> None:
    await seen.stream(kind=KIND)
    while not seen.gone.is_set():
        await seen.more(b"x" * (1 << 20))


@pytest.mark.parametrize(
    ("answer", "code", "why"),
    [
        (streaming(line("Hi")), "backend_crashed", "without the end marker, after 1 pieces"),
        (streaming(), "backend_crashed", "without the end marker, after 0 pieces"),
        (streaming(line("Hi"), {"error": "out of memory"}), "backend_crashed", "out of memory"),
        (streaming(line("Hi"), "{"), "backend_crashed", "not a chunk of an answer"),
        (_half_a_line, "backend_crashed", "in the middle of an event"),
        (_endless_line, "backend_crashed", "sent too much: a line has more than 4194304 bytes"),
        (_killed, "backend_crashed", "broke off its answer"),
        (lambda seen: seen.reply(done()), "backend_crashed", "application/json instead of a stream of lines"),
        (lambda seen: seen.reply({"error": "model 'small:latest' not found"}, 404), "model_not_found", "not found"),
        (lambda seen: seen.reply({"error": "server busy, please try again"}, 503), "backend_unavailable", "busy"),
        (lambda seen: seen.reply({"error": '"small:latest" does not support tools'}, 400), "backend_refused", "tools"),
    ],
)
def test_an_answer_that_does_not_end_well_is_one_error(answer: Any, code: str, why: str) -> None:
    async def run() -> WireError:
        async with serving(chat_like(answer)) as (backend, _, _):
            with pytest.raises(WireError, match=why) as failed:
                await collected(backend.generate(V1))
            assert backend.ready  # one bad answer is not the end of the server
            return failed.value

    assert asyncio.run(run()).code == code


def test_closing_an_answer_closes_the_request() -> None:
    async def endless(seen: Asked) -> None:
        await seen.stream(lines(line("Hel")), kind=KIND)
        await seen.gone.wait()

    async def run() -> None:
        async with serving(chat_like(endless)) as (backend, server, _):
            assert await closed_early(backend, server, V1) == TextEvent("Hel")

    asyncio.run(run())
