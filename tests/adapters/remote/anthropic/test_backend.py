"""The anthropic backend on a scripted server: ready, answering, counting, and one error for each thing gone wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.adapters.remote.anthropic.model import SIGNATURE, begin, block, delta, finish, message_like, serve, stop
from tests.adapters.remote.started import closed_early, collected, started
from tests.adapters.remote.web import Asked, Server, sse
from vestal.backend import (
    CountRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    TextEvent,
    ThinkingEvent,
    ToolUseEvent,
)
from vestal.errors import ModelNotFound, Unsupported, WireError
from vestal.values import GenerateOptions, Message, MessageV2, TextBlock, ThinkingBlock, Tool, Usage
from vestal_adapters.remote import presence
from vestal_adapters.remote.anthropic.backend import AnthropicBackend
from vestal_adapters.remote.anthropic.options import AnthropicOptions

HI = MessageV2("user", [TextBlock("Hello there")])
V1 = GenerateRequest(messages=[Message("user", "Hello there")], cache_scope="1")
TOOL = Tool("lamp", {"type": "object"})


def serving(answer: Any, **options: Any) -> Any:
    return started(
        answer,
        lambda url: AnthropicBackend("cloud", AnthropicOptions(**({"model": "small", "base_url": url} | options))),
    )


def v2(*turns: MessageV2, **fields: Any) -> GenerateRequestV2:
    return GenerateRequestV2(messages=list(turns) or [HI], cache_scope="1", **fields)


# --- readiness ------------------------------------------------------------------------------------------------


def test_a_server_that_knows_the_model_makes_a_ready_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_FRESH", 0.0)

    async def run() -> list[str]:
        async with serving(serve) as (backend, server, _):
            assert backend.capabilities.model == "small"
            assert backend.capabilities.count
            assert (await backend.health()).state == "ok"
            return [seen.path for seen in server.asked]

    page, count = "/v1/models/small", "/v1/messages/count_tokens"
    assert asyncio.run(run()) == [page, count, page]  # a status costs no count


def test_the_key_goes_where_this_api_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_KEY", "sk-ant-secret")

    async def run() -> dict[str, str]:
        async with serving(serve, api_key_env="CLOUD_KEY") as (backend, server, _):
            assert "sk-ant-secret" not in repr(backend)
            return dict(server.asked[-1].headers)

    headers = asyncio.run(run())
    assert headers["x-api-key"] == "sk-ant-secret"
    assert "authorization" not in headers


def test_an_alias_is_resolved_to_the_models_own_name() -> None:
    async def aliased(seen: Asked) -> None:
        await (seen.reply({"id": "small-20250929"}) if seen.path == "/v1/models/small" else serve(seen))

    async def run() -> str:
        async with serving(aliased) as (backend, server, _):
            await collected(backend.generate(V1))
            assert server.asked[-1].json["model"] == backend.capabilities.model
            return str(backend.capabilities.model)

    assert asyncio.run(run()) == "small-20250929"


def test_a_server_without_pages_for_models_and_without_counting_is_served_from() -> None:
    async def plain(seen: Asked) -> None:
        if seen.path.startswith("/v1/models?"):
            await seen.reply({"data": [{"id": "small"}]})
        elif seen.path == "/v1/messages":
            await serve(seen)
        else:
            await seen.reply({}, 404)

    async def run() -> None:
        async with serving(plain) as (backend, _, _):
            assert not backend.capabilities.count
            assert not backend.capabilities.thinking
            assert (await collected(backend.generate(V1)))[-1].stop_reason == "end"
            with pytest.raises(Unsupported, match="does not count"):
                await backend.count(CountRequest(messages=[Message("user", "Hi")]))

    asyncio.run(run())


def test_a_model_that_is_not_there_fails_the_start_with_those_that_are() -> None:
    async def other(seen: Asked) -> None:
        listed = seen.path.startswith("/v1/models?")
        await (seen.reply({"data": [{"id": "large"}]}) if listed else seen.reply({}, 404))

    async def run() -> None:
        async with Server(other) as server:
            backend = AnthropicBackend("cloud", AnthropicOptions(model="small", base_url=server.url))
            with pytest.raises(ModelNotFound, match="does not serve model 'small'") as refused:
                await backend.start(lambda _: None)
            assert refused.value.details["models"] == ["large"]

    asyncio.run(run())


# --- answers --------------------------------------------------------------------------------------------------


def test_an_answer_comes_in_pieces_with_its_usage() -> None:
    async def run() -> list[Any]:
        async with serving(serve) as (backend, _, _):
            return await collected(backend.generate(V1))

    assert asyncio.run(run()) == [TextEvent("Hello"), TextEvent(" there"), EndEvent("end", Usage(2, 0, 2))]


def test_thinking_goes_back_signed_with_the_next_turn_of_its_caller_only() -> None:
    async def run() -> None:
        async with serving(serve) as (backend, server, _):
            events = await collected(backend.generate_v2(v2(thinking="minimal")))
            thought = "".join(event.text for event in events if isinstance(event, ThinkingEvent))
            assert thought == "hmm"
            turns = [HI, MessageV2("assistant", [ThinkingBlock(thought), TextBlock("Hello there")]), HI]
            end = (await collected(backend.generate_v2(v2(*turns))))[-1]
            sent = server.asked[-1].json["messages"][1]["content"][0]
            assert sent == {"type": "thinking", "thinking": "hmm", "signature": SIGNATURE}
            assert end.notices == []
            other = GenerateRequestV2(messages=turns, cache_scope="2")
            end = (await collected(backend.generate_v2(other)))[-1]
            assert [notice.code for notice in end.notices] == ["thinking_left_out"]
            assert server.asked[-1].json["messages"][1]["content"] == [{"type": "text", "text": "Hello there"}]

    asyncio.run(run())


def test_a_call_comes_whole() -> None:
    async def run() -> list[Any]:
        async with serving(serve) as (backend, _, _):
            return await collected(backend.generate_v2(v2(tools=[TOOL], tool_choice="required")))

    call, end = asyncio.run(run())
    assert call == ToolUseEvent("toolu_1", "lamp", {"on": True}, 3)
    assert end.stop_reason == "tool_use"


def test_the_limit_that_was_chosen_here_is_told_when_it_is_reached() -> None:
    async def run() -> EndEvent:
        async with serving(serve, max_output_tokens=1) as (backend, _, _):
            end: EndEvent = (await collected(backend.generate(V1)))[-1]
            return end

    end = asyncio.run(run())
    assert (end.stop_reason, [notice.code for notice in end.notices]) == ("length", ["max_tokens_chosen"])


def test_tokens_are_counted_by_the_server() -> None:
    async def run() -> int:
        async with serving(serve) as (backend, _, _):
            return int(await backend.count(CountRequest(messages=[Message("user", "one two three")])))

    assert asyncio.run(run()) == 3


def test_a_prompt_that_does_not_fit_is_an_overflow() -> None:
    async def run() -> WireError:
        async with serving(serve) as (backend, _, _):
            with pytest.raises(WireError, match="prompt is too long: 65 tokens > 64") as refused:
                await collected(backend.generate(GenerateRequest(messages=[Message("user", "x " * 65)])))
            return refused.value

    assert asyncio.run(run()).code == "context_overflow"


# --- what goes wrong ------------------------------------------------------------------------------------------

TEXT = [begin(), block(0, "text", text=""), delta(0, text="Hel")]


def streaming(*data: object) -> Any:
    async def answer(seen: Asked) -> None:
        await seen.stream(sse(*data))
        await seen.end_stream()

    return answer


async def _killed(seen: Asked) -> None:
    await seen.stream(sse(*TEXT))
    seen.writer.transport.abort()


async def _half_an_event(seen: Asked) -> None:
    await seen.stream(sse(*TEXT) + b'data: {"type"')
    await seen.end_stream()


async def _overloaded(seen: Asked) -> None:
    error = {"type": "overloaded_error", "message": "Overloaded"}
    await seen.reply({"type": "error", "error": error}, 529, Retry_After="2")


@pytest.mark.parametrize(
    ("answer", "code", "why"),
    [
        (streaming(*TEXT, stop(0), finish()[0]), "backend_crashed", "without the end marker, after 1 pieces"),
        (streaming(), "backend_crashed", "without the end marker, after 0 pieces"),
        (streaming(*TEXT, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
         "backend_unavailable", "answered 529: Overloaded"),
        (streaming(*TEXT, "{"), "backend_crashed", "not a chunk of an answer"),
        (_half_an_event, "backend_crashed", "in the middle of an event"),
        (_killed, "backend_crashed", "broke off its answer"),
        (lambda seen: seen.reply({"content": []}), "backend_crashed", "instead of an event stream"),
        (lambda seen: seen.reply({"type": "error", "error": {"type": "authentication_error", "message": "no"}}, 401),
         "backend_refused", "answered 401: no"),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_end_well_is_one_error(answer: Any, code: str, why: str) -> None:
    async def run() -> WireError:
        async with serving(message_like(answer)) as (backend, _, _):
            with pytest.raises(WireError, match=why) as failed:
                await collected(backend.generate_v2(v2()))
            assert backend.ready  # one bad answer is not the end of the server
            return failed.value

    assert asyncio.run(run()).code == code


def test_overload_before_the_answer_is_told_with_its_wait() -> None:
    async def run() -> WireError:
        async with serving(message_like(_overloaded)) as (backend, _, _):
            with pytest.raises(WireError) as failed:
                await collected(backend.generate(V1))
            return failed.value

    error = asyncio.run(run())
    assert (error.code, error.retryable, error.retry_after_ms) == ("backend_unavailable", True, 2000)


def test_an_option_that_is_refused_reaches_no_server() -> None:
    async def run() -> None:
        async with serving(serve) as (backend, server, _):
            before = len(server.asked)
            hot = GenerateRequest(messages=V1.messages, options=GenerateOptions(temperature=2.0), cache_scope="1")
            with pytest.raises(Unsupported, match="from 0 to 1, not 2"):
                await collected(backend.generate(hot))
            assert len(server.asked) == before

    asyncio.run(run())


def test_closing_an_answer_closes_the_request() -> None:
    async def endless(seen: Asked) -> None:
        await seen.stream(sse(*TEXT))
        await seen.gone.wait()

    async def run() -> None:
        async with serving(message_like(endless)) as (backend, server, _):
            assert await closed_early(backend, server, V1) == TextEvent("Hel")

    asyncio.run(run())
