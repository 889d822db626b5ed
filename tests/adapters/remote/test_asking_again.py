"""`ready` tells the truth although nobody asks for a status: a request that fails is a reason to ask the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.remote.dialects import Dialect, every_dialect
from tests.adapters.remote.started import collected, reporting
from tests.adapters.remote.web import MODELS, Asked, Server, chat_like, chunk, sse
from vestal.backend import GenerateRequest, Ready, TextEvent, Unavailable
from vestal.errors import (
    BackendCrashed,
    BackendRefused,
    BackendUnavailable,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    Unsupported,
    WireError,
)
from vestal.values import Message
from vestal_adapters.remote import presence
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions
from vestal_adapters.remote.presence import doubtful
from vestal_adapters.remote.refusals import Refusal, refused

V1 = GenerateRequest(messages=[Message("user", "Hello there")], cache_scope="1")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away is looked for again at once."""
    monkeypatch.setattr(presence, "_PAUSES", (0.01,))


def vllm(url: str, **options: Any) -> OpenAIBackend:
    return OpenAIBackend("far", OpenAIOptions(preset="vllm", model="small", base_url=url, **options))


# --- the server dies ------------------------------------------------------------------------------------------


@every_dialect
def test_a_server_that_dies_in_an_answer_is_one_error_then_unavailable_and_ready_when_it_is_back(
    dialect: Dialect, short_dir: Path
) -> None:
    path = short_dir / "far.sock"

    async def hold(seen: Asked) -> None:
        await seen.stream(dialect.piece, kind=dialect.kind)
        await seen.gone.wait()

    async def run() -> None:
        backend = dialect.make("http://localhost/v1", unix_socket=str(path))
        async with Server(dialect.like(hold), path=path) as server, reporting(backend) as reports:
            stream: Any = backend.generate(V1)
            assert await anext(stream) == TextEvent("Hi")
            server.kill()
            with pytest.raises(BackendCrashed, match="broke off its answer") as failed:
                await collected(stream)
            assert failed.value.retryable
            lost = await reports.until(Unavailable)  # although nothing else was asked
            assert lost.recovering
            assert "cannot be reached" in lost.reason
            assert not backend.ready
            with pytest.raises(BackendUnavailable, match="is unavailable"):
                await collected(backend.generate(V1))
            async with Server(dialect.serve, path=path):
                await reports.until(Ready)
                assert (await collected(backend.generate(V1)))[-1].stop_reason == "end"

    asyncio.run(run())


@every_dialect
def test_a_key_that_is_revoked_makes_it_unavailable_until_it_is_good_again(
    dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-secret")
    revoked = [False]

    async def guarded(seen: Asked) -> None:
        if revoked[0]:
            await seen.reply({"error": {"message": "no such key"}}, 401)
        else:
            await dialect.serve(seen)

    async def run() -> None:
        async with Server(guarded) as server:
            backend = dialect.make(server.url, api_key_env="FAR_KEY")
            async with reporting(backend) as reports:
                revoked[0] = True
                with pytest.raises(BackendRefused, match="answered 401"):
                    await collected(backend.generate(V1))
                assert "answered 401" in (await reports.until(Unavailable)).reason
                revoked[0] = False
                await reports.until(Ready)

    asyncio.run(run())


def test_a_key_is_asked_about_where_anybody_is_shown_the_listing() -> None:
    """Or the provider would be ready, and refuse every request."""

    async def listing_is_public(seen: Asked) -> None:
        if seen.path == "/v1/models":
            await seen.reply(MODELS)
        else:
            await seen.reply({"error": {"message": "No auth credentials found"}}, 401)

    async def run(preset: Any) -> list[str]:
        async with Server(listing_is_public) as server:
            backend = OpenAIBackend("far", OpenAIOptions(preset=preset, model="small", base_url=server.url))
            with pytest.raises(BackendRefused, match="answered 401"):
                await backend.start(lambda _: None)
            return [seen.path for seen in server.asked]

    assert asyncio.run(run("openrouter")) == ["/v1/key"]
    assert asyncio.run(run("venice")) == ["/v1/api_keys/rate_limits"]


# --- one bad answer -------------------------------------------------------------------------------------------


async def _breaks_off(seen: Asked) -> None:
    await seen.stream(sse(chunk("Hi")))
    seen.writer.transport.abort()


def test_a_server_that_is_still_there_stays_ready_and_is_asked_once_for_many_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "_FRESH", 3600.0)  # a second question would be asked in an hour
    asked_again = asyncio.Event()

    async def failing(seen: Asked) -> None:
        if seen.path == "/v1/models" and backend_is_ready.is_set():
            asked_again.set()
        await chat_like(_breaks_off)(seen)

    backend_is_ready = asyncio.Event()

    async def run() -> None:
        async with Server(failing) as server:
            backend = vllm(server.url)
            async with reporting(backend) as reports:
                backend_is_ready.set()
                for _ in range(5):
                    with pytest.raises(BackendCrashed):
                        await collected(backend.generate(V1))
                await asked_again.wait()
                assert (await backend.health()).state == "ok"  # waits for the question that is being asked
                assert backend.ready
                assert reports.seen == []
                assert [seen.path for seen in server.asked].count("/v1/models") == 2

    asyncio.run(run())


def test_a_refusal_of_what_was_asked_is_no_reason_to_ask() -> None:
    async def refusing(seen: Asked) -> None:
        await seen.reply({"error": {"message": "temperature: too high"}}, 400)

    async def run() -> list[str]:
        async with Server(chat_like(refusing)) as server:
            backend = vllm(server.url)
            async with reporting(backend):
                with pytest.raises(BackendRefused):
                    await collected(backend.generate(V1))
                assert backend._presence._doubting is None
                return [seen.path for seen in server.asked]

    assert asyncio.run(run()) == ["/health", "/v1/models", "/v1/chat/completions"]


@pytest.mark.parametrize(
    ("error", "doubt"),
    [
        (BackendCrashed("cut off"), True),
        (BackendUnavailable("silent"), True),
        (DeadlineExceeded("too long in all"), True),
        (BackendRefused("ended its answer before it began"), True),
        (ContextOverflow("too long"), False),
        (Unsupported("no"), False),
        (InvalidRequest("no"), False),
        *((refused(Refusal(status), "far", None), True) for status in (401, 403, 408, 500, 502, 503, 504, 529)),
        (refused(Refusal(404, "no such model"), "far", None), True),
        *((refused(Refusal(status), "far", None), False) for status in (302, 400, 402, 404, 422)),
        (refused(Refusal(429), "far", Key("k", "variable K")), False),  # it is there, and has said enough
    ],
)
def test_which_failures_are_a_reason_to_ask(error: WireError, doubt: bool) -> None:
    assert doubtful(error) is doubt


def test_a_server_that_does_one_thing_at_a_time_is_not_asked_while_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama_cpp.server breaks off an answer when anything else is asked of it."""
    monkeypatch.setattr(presence, "_FRESH", 0.0)
    failures, goes_on, asked_again = iter([_breaks_off]), asyncio.Event(), asyncio.Event()

    async def held(seen: Asked) -> None:
        await seen.stream(sse(chunk("Hi")))
        await goes_on.wait()
        await seen.more(sse(chunk(finish="stop"), "[DONE]"))
        await seen.end_stream()

    async def serve(seen: Asked) -> None:
        if seen.path == "/v1/models" and goes_on.is_set():
            asked_again.set()
        await chat_like(next(failures, held) if seen.path == "/v1/chat/completions" else None)(seen)

    async def run() -> None:
        async with Server(serve) as server:
            backend = vllm(server.url, slots=1)
            async with reporting(backend) as reports:
                with pytest.raises(BackendCrashed):
                    await collected(backend.generate(V1))  # which is a reason to ask
                stream: Any = backend.generate(V1)
                assert await anext(stream) == TextEvent("Hi")
                before = len(server.asked)
                assert (await backend.health()).state == "ok"
                other = vllm(server.url)
                await other.start(lambda _: None)  # by now the question would have come
                await other.stop(5)
                assert [seen.path for seen in server.asked[before:]] == ["/health", "/v1/models"]  # the other's
                goes_on.set()
                assert (await collected(stream))[-1].stop_reason == "end"
                await asked_again.wait()
                assert reports.seen == []

    asyncio.run(run())


def test_a_server_that_freezes_is_found_out_although_every_caller_gives_up_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one slot and a queue it is never without a request, and no question is asked beside one."""
    monkeypatch.setattr(presence, "_SILENCE", 0.1)
    monkeypatch.setattr(presence, "PROBE_TIMEOUT", 0.2)
    frozen = asyncio.Event()

    async def serve(seen: Asked) -> None:
        if frozen.is_set():
            await seen.gone.wait()
        await chat_like()(seen)

    async def run() -> None:
        async with Server(serve) as server:
            backend = vllm(server.url, slots=1)
            async with reporting(backend) as reports:
                assert (await collected(backend.generate(V1)))[-1].stop_reason == "end"
                frozen.set()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):  # longer than its silence may be
                        await collected(backend.generate(V1))
                with pytest.raises(BackendUnavailable, match=r"is unavailable: .* did not answer within"):
                    await collected(backend.generate(V1))
                assert (await reports.until(Unavailable)).recovering
                frozen.clear()
                await reports.until(Ready)

    asyncio.run(run())


def test_a_status_does_not_wait_behind_a_request_that_waits_for_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait as long as that answer takes, and the daemon would call a server that is well unavailable."""
    monkeypatch.setattr(presence, "_FRESH", 0.0)
    failures, questioned, goes_on = iter([_breaks_off]), asyncio.Event(), asyncio.Event()

    async def serve(seen: Asked) -> None:
        if seen.path == "/health" and failed_once.is_set():
            questioned.set()
            await goes_on.wait()
        await chat_like(next(failures, None) if seen.path == "/v1/chat/completions" else None)(seen)

    failed_once = asyncio.Event()

    async def run() -> None:
        async with Server(serve) as server:
            backend = vllm(server.url, slots=1)
            async with reporting(backend):
                failed_once.set()
                with pytest.raises(BackendCrashed):
                    await collected(backend.generate(V1))
                await questioned.wait()
                waiting = asyncio.create_task(collected(backend.generate(V1)))
                await asyncio.sleep(0)  # it stands in line now
                async with asyncio.timeout(presence.PROBE_TIMEOUT / 2):  # the question would be given up at the whole
                    assert (await backend.health()).state == "ok"
                assert not waiting.done()
                goes_on.set()
                assert (await waiting)[-1].stop_reason == "end"

    asyncio.run(run())


# --- another server at the same place -------------------------------------------------------------------------


def test_a_server_that_says_less_of_itself_is_lost_and_comes_back_with_what_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "_FRESH", 0.0)
    longest = [64]

    async def shrinking(seen: Asked) -> None:
        await chat_like(models={"data": [{"id": "small", "max_model_len": longest[0]}]})(seen)

    async def run() -> None:
        async with Server(shrinking) as server:
            backend = vllm(server.url)
            async with reporting(backend) as reports:
                assert backend.capabilities.context_length == 64
                assert (await backend.health()).state == "ok"
                longest[0] = 32
                assert (await backend.health()).state == "unavailable"
                assert "something else of itself" in (await reports.until(Unavailable)).reason
                await reports.until(Ready)
                assert backend.capabilities.context_length == 32

    asyncio.run(run())
