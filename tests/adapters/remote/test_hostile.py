"""Whatever API it is said to have, a hostile server costs each request one bounded error, and the backend goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.remote import model
from tests.adapters.remote.dialects import Dialect, every_dialect
from tests.adapters.remote.ollama import model as ollama
from tests.adapters.remote.started import collected
from tests.adapters.remote.web import Asked, Server, head
from tests.tls import certificate, served_with
from vestal.backend import EmbedRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import BackendUnavailable, WireError
from vestal.values import Message, MessageV2, TextBlock
from vestal_adapters.remote import http
from vestal_adapters.remote.ollama.backend import OllamaBackend
from vestal_adapters.remote.ollama.options import OllamaOptions
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions

SECRET = "sk-secret-1234"
V1 = GenerateRequest(messages=[Message("user", "Hello there")], cache_scope="1")
V2 = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("Hello there")])], cache_scope="1")
LONGEST_MESSAGE = 450  # characters: a server's own words are cut at 300

Hostile = Callable[[Dialect], Callable[[Asked], Any]]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", SECRET)


# --- what such a server does ----------------------------------------------------------------------------------


def begun(*then: str) -> Hostile:
    """A stream that begins well, goes on with those of the dialect's pieces, and comes to an orderly end."""

    def hostile(dialect: Dialect) -> Any:
        async def answer(asked: Asked) -> None:
            await asked.stream(dialect.piece, *(getattr(dialect, name) for name in then), kind=dialect.kind)
            await asked.end_stream()

        return answer

    return hostile


def sent(*bytes_: bytes) -> Hostile:
    async def answer(asked: Asked) -> None:
        await asked.send(*bytes_)

    return lambda _dialect: answer


def replied(body: Any, status: int = 200, kind: str = "application/json", **headers: str) -> Hostile:
    async def answer(asked: Asked) -> None:
        await asked.reply(body, status, kind, **headers)

    return lambda _dialect: answer


def chunk_of_another_length(dialect: Dialect) -> Any:
    async def answer(asked: Asked) -> None:
        await asked.stream(dialect.piece, kind=dialect.kind)
        await asked.send(b"zz\r\nwhat\r\n")

    return answer


def less_than_its_length(dialect: Dialect) -> Any:
    async def answer(asked: Asked) -> None:
        await asked.send(head(200, **{"Content-Type": dialect.kind, "Content-Length": "100000"}), dialect.piece)

    return answer


def broken_off(dialect: Dialect) -> Any:
    async def answer(asked: Asked) -> None:
        await asked.stream(dialect.piece, kind=dialect.kind)
        asked.writer.transport.abort()

    return answer


def for_ever(what: str, pause: float) -> Hostile:
    """A stream without an end. The pause is the drip itself, not a wait for anything."""

    def hostile(dialect: Dialect) -> Any:
        async def answer(asked: Asked) -> None:
            await asked.stream(dialect.piece, kind=dialect.kind)
            while not asked.gone.is_set():
                await asked.more(b"x" * 65_536 if what == "line" else getattr(dialect, what))
                await asyncio.sleep(pause)

        return answer

    return hostile


def huge_refusal(_dialect: Dialect) -> Any:
    async def answer(asked: Asked) -> None:
        await asked.send(head(500, **{"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}))
        while not asked.gone.is_set():
            await asked.more("\N{SNOWMAN}".encode() * 8192)

    return answer


def silence(_dialect: Dialect) -> Any:
    async def answer(asked: Asked) -> None:
        await asked.gone.wait()

    return answer


ELSEWHERE = {"Location": "http://127.0.0.1:1/v1"}
REPEATED = {"error": {"message": f"no such key: {SECRET}"}}
NONSENSE = b"SSH-2.0-OpenSSH_9.9\r\n"

HOSTILE: dict[str, tuple[Hostile, dict[str, Any], str, bool, str]] = {
    # what it does, options against it, the error's code, whether to try again, and what it says
    "redirect": (replied({}, 307, **ELSEWHERE), {}, "backend_refused", False, "answered 307"),
    "a page of HTML": (replied(b"<html>", kind="text/html"), {}, "backend_crashed", False, "text/html instead"),
    "error as a page": (replied(REPEATED), {}, "backend_crashed", False, r"instead of .*: no such key: \[key"),
    "endless stream": (for_ever("piece", 0.01), {"total_timeout": "1s"}, "deadline_exceeded", False, "longer than"),
    "endless line": (for_ever("line", 0), {}, "backend_crashed", False, "sent too much"),
    "half an event": (begun("half"), {}, "backend_crashed", True, "in the middle of an event"),
    "no end": (begun(), {}, "backend_crashed", True, "without the end marker, after 1 pieces"),
    "bad JSON": (begun("misshapen"), {}, "backend_crashed", False, "not a chunk of an answer"),
    "error in a 200": (begun("failing"), {}, "backend_crashed", True, "out of memory"),
    "wrong chunk length": (chunk_of_another_length, {}, "backend_crashed", False, "did not answer in HTTP"),
    "less than its length": (less_than_its_length, {}, "backend_crashed", True, "broke off"),
    "broken off": (broken_off, {}, "backend_crashed", True, "broke off"),
    "no HTTP": (sent(NONSENSE), {}, "backend_crashed", False, "did not answer in HTTP"),
    "drip of nothing": (for_ever("filler", 0.01), {"between_tokens_timeout": "500ms"}, "backend_unavailable", True,
                        "was silent for 0.5"),
    "silence": (silence, {"first_byte_timeout": "500ms"}, "backend_unavailable", True, "was silent for 0.5"),
    "huge refusal": (huge_refusal, {}, "backend_crashed", True, "answered 500: \N{SNOWMAN}"),
    "the key repeated": (replied(REPEATED, 401), {}, "backend_refused", False, r"no such key: \[key\]"),
    "compressed": (replied(b"\x1f\x8b", kind="text/event-stream", Content_Encoding="gzip"), {}, "backend_crashed",
                   False, "compressed"),
}  # fmt: skip


@every_dialect
@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("request_", [V1, V2], ids=["v1", "v2"])
def test_what_it_does_is_one_bounded_error_and_the_next_request_is_answered(
    dialect: Dialect, what: str, request_: Any
) -> None:
    hostile, options, code, retryable, why = HOSTILE[what]
    hostilities, over = iter([hostile(dialect)]), asyncio.Event()

    async def once(asked: Asked) -> None:
        try:
            await next(hostilities, dialect.serve)(asked)
        finally:
            over.set()

    async def run() -> WireError:
        async with Server(dialect.like(once)) as server:
            backend = dialect.make(server.url, api_key_env="FAR_KEY", **options)
            await backend.start(lambda _: None)
            try:
                with pytest.raises(WireError) as failed:
                    await collected(backend.generate(V1) if request_ is V1 else backend.generate_v2(V2))
                await over.wait()  # the connection is closed, or what goes on for ever would
                end = (await collected(backend.generate(V1)))[-1]
                assert end.stop_reason == "end"
                return failed.value
            finally:
                await backend.stop(5)

    error = asyncio.run(run())
    assert (error.code, error.retryable) == (code, retryable)
    assert re.search(why, error.message)
    assert len(error.message) < LONGEST_MESSAGE
    assert SECRET not in f"{error!r} {error} {error.hint} {error.details}"


@every_dialect
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000], ids=range(5))
def test_pages_that_are_none_fail_the_start_with_one_error(dialect: Dialect, body: bytes) -> None:
    async def run() -> WireError:
        async with Server(lambda asked: asked.reply(body)) as server:
            backend = dialect.make(server.url)
            with pytest.raises(WireError) as failed:
                await backend.start(lambda _: None)
            assert not backend.ready
            return failed.value

    error = asyncio.run(run())
    assert (error.code, error.retryable) == ("backend_crashed", False)
    assert "not the JSON it should be" in error.message


@every_dialect
def test_an_untrusted_certificate_fails_the_start_at_once_and_sends_nothing(dialect: Dialect, tmp_path: Path) -> None:
    file = certificate(tmp_path / "cert.pem")
    tls = served_with(file)

    async def run() -> None:
        async with Server(dialect.serve, tls=tls) as server:
            with pytest.raises(BackendUnavailable, match="TLS failed") as failed:
                await dialect.make(server.url, api_key_env="FAR_KEY").start(lambda _: None)
            assert not failed.value.retryable
            assert server.asked == []
            trusting = dialect.make(server.url, api_key_env="FAR_KEY", ca_file=str(file))
            await trusting.start(lambda _: None)
            assert trusting.ready
            await trusting.stop(5)

    asyncio.run(run())


# --- vectors --------------------------------------------------------------------------------------------------


def _openai(url: str) -> OpenAIBackend:
    return OpenAIBackend("far", OpenAIOptions(preset="vllm", model="small", base_url=url, kind="embeddings"))


def _ollama(url: str) -> OllamaBackend:
    return OllamaBackend("far", OllamaOptions(base_url=url.removesuffix("/v1")))


def _rows(openai: bool, rows: Any) -> Any:
    if not openai:
        return {"embeddings": rows}
    return {"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)]}


@pytest.mark.parametrize("openai", [True, False], ids=["openai", "ollama"])
@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([[1.0, 2.0]], "1 vectors for 2 texts"),
        ([[1.0, 2.0]] * 3, "3 vectors for 2 texts"),
        ([[1.0, 2.0], [1.0]], "dimensions instead of 2"),
        ([[1.0, 2.0, 3.0]] * 2, "3 dimensions instead of 2"),
        ([[], []], "0 dimensions"),
        ([[0.0, 0.0]] * 2, "no direction"),
        ([[1.7e308, 1.7e308]] * 2, "no direction"),
        ("huge", "more than 1048576 bytes"),
    ],
)
def test_vectors_that_are_none_are_one_error(
    openai: bool, rows: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 1 << 20)

    async def answer(asked: Asked) -> None:
        if asked.path.startswith(("/v1/embeddings", "/api/embed")) and asked.json["input"] != ["probe"]:
            if rows == "huge":
                await asked.send(head(200, **{"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
                while not asked.gone.is_set():
                    await asked.more(b" " * 65_536)
            else:
                await asked.reply(_rows(openai, rows))
        else:
            await (model.serve(asked) if openai else ollama.serve(asked, shown=ollama.VECTORS))

    async def run() -> WireError:
        async with Server(answer) as server:
            backend = (_openai if openai else _ollama)(server.url)
            await backend.start(lambda _: None)
            try:
                with pytest.raises(WireError) as failed:
                    await backend.embed(EmbedRequest(input=["a", "b"]))
                return failed.value
            finally:
                await backend.stop(5)

    error = asyncio.run(run())
    assert error.code == "backend_crashed"
    assert why in error.message
