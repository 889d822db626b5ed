"""A hostile server costs one bounded error: never a hang, a redirect, a leak of the key or a foreign exception."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.adapters.remote.web import Asked, Server, head, sse
from tests.tls import certificate, served_with
from vestal.errors import VestalError, WireError
from vestal_adapters.remote import http
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.openai.options import OpenAIOptions

SECRET = "sk-secret-1234"
JSON = "application/json"
STREAM = "text/event-stream"

Run = Callable[[Any], Any]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param  # type: ignore[no-any-return]  # one of the two above


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_KEY", SECRET)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be used: nothing is asked for by it


def upstream(url: str, **options: Any) -> Upstream:
    return Upstream("cluster", OpenAIOptions(preset="vllm", base_url=url, api_key_env="CLUSTER_KEY", **options))


async def events(server: Upstream) -> list[str]:
    stream = server.events("chat/completions", {"ask": "x"})
    try:
        return [event.data async for event in stream]
    finally:
        await stream.aclose()


async def failure(answer: Any, ask: Any = events, tls: ssl.SSLContext | None = None, **options: Any) -> WireError:
    """The error that asking a server ends in which answers so."""
    async with Server(answer, tls=tls) as server:
        asking = upstream(server.url, **options)
        try:
            with pytest.raises(WireError) as failed:
                await ask(asking)
        finally:
            await asking.close()
    assert SECRET not in f"{failed.value!r} {failed.value} {failed.value.details}"
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__ or failed.value.__context__ is None
    return failed.value


async def page(server: Upstream) -> object:
    return await server.get("models", dict[str, Any], timeout=20)


async def posted(server: Upstream) -> object:
    return await server.post("embeddings", {"input": ["a"]}, dict[str, Any])


# --- what goes well -------------------------------------------------------------------------------------------


def test_a_request_carries_the_key_and_no_more_than_it_must(run: Run) -> None:
    async def ask() -> Asked:
        async with Server(lambda asked: asked.reply(sse("a", "b"), kind=STREAM)) as server:
            asking = upstream(server.url)
            assert await events(asking) == ["a", "b"]
            assert SECRET not in repr(asking)
            await asking.close()
            return server.asked[0]

    asked = run(ask())
    assert (asked.method, asked.path, asked.json) == ("POST", "/v1/chat/completions", {"ask": "x"})
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.headers["accept-encoding"] == "identity"
    assert set(asked.headers) == {
        "host", "accept", "accept-encoding", "authorization", "connection", "content-length", "content-type",
        "user-agent",
    }  # fmt: skip


def test_a_unix_socket_is_as_good_as_an_address(run: Run, short_dir: Path) -> None:
    async def ask() -> object:
        path = short_dir / "up.sock"
        async with Server(lambda asked: asked.reply({"data": []}), path=path) as server:
            asking = upstream(server.url, unix_socket=str(path))
            try:
                return await page(asking)
            finally:
                await asking.close()

    assert run(ask()) == {"data": []}


def test_a_body_of_megabytes_is_sent_whole(run: Run) -> None:
    async def ask() -> int:
        async with Server(lambda asked: asked.reply({})) as server:
            asking = upstream(server.url)
            await asking.post("embeddings", {"input": "x" * (3 << 20)}, dict[str, Any])
            await asking.close()
            return len(server.asked[0].json["input"])

    assert run(ask()) == 3 << 20


def test_closing_the_stream_closes_the_connection(run: Run) -> None:
    async def hold(asked: Asked) -> None:
        await asked.stream(sse("a"))
        await asked.gone.wait()

    async def ask() -> None:
        async with Server(hold) as server:
            asking = upstream(server.url)
            stream = asking.events("chat/completions", {})
            assert (await anext(stream)).data == "a"
            assert not server.asked[0].gone.is_set()
            await stream.aclose()
            await server.asked[0].gone.wait()
            await asking.close()

    run(ask())


@pytest.mark.parametrize("begun", [True, False])
def test_cancelling_the_task_closes_the_connection(run: Run, begun: bool) -> None:
    arrived = asyncio.Event()

    async def hold(asked: Asked) -> None:
        if begun:
            await asked.stream(sse("a"))
        arrived.set()
        await asked.gone.wait()

    async def ask() -> None:
        async with Server(hold) as server:
            asking = upstream(server.url)
            task = asyncio.create_task(events(asking))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.asked[0].gone.wait()
            await asking.close()

    run(ask())


def test_closing_the_stream_of_a_server_that_goes_on_talking_over_tls_closes_the_connection(
    run: Run, tmp_path: Path
) -> None:
    """It never reads, so it would not hear a farewell; and it would be listened to for half a minute."""
    file = certificate(tmp_path / "cert.pem")
    tls, over = served_with(file), threading.Event()

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with tls.wrap_socket(connection, server_side=True) as talking, suppress(OSError):
            talking.recv(65_536)
            talking.sendall(head(200, **{"Content-Type": STREAM}))
            while True:
                talking.sendall(sse("a"))
                over.wait(0.001)  # its pace, not a wait for anything
        over.set()

    async def ask(port: int) -> None:
        asking = upstream(f"https://127.0.0.1:{port}/v1", ca_file=str(file))
        stream = asking.events("chat/completions", {})
        await anext(stream)
        await stream.aclose()
        assert await asyncio.to_thread(over.wait, 20)
        await asking.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        talking = threading.Thread(target=talk, args=(listener,))
        talking.start()
        run(ask(listener.getsockname()[1]))
        talking.join()


def test_closing_the_upstream_ends_what_is_under_way(run: Run) -> None:
    async def hold(asked: Asked) -> None:
        await asked.stream(sse("a"))
        await asked.gone.wait()

    async def ask() -> WireError:
        async with Server(hold) as server:
            asking = upstream(server.url)
            stream = asking.events("chat/completions", {})
            await anext(stream)
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            await asking.close()
            with pytest.raises(WireError) as failed:
                await waiting
            return failed.value

    assert "stopping" in run(ask()).message


# --- nobody there ---------------------------------------------------------------------------------------------


def test_a_refused_connection_is_unreachable(run: Run) -> None:
    async def ask() -> WireError:
        async with Server(lambda asked: asked.reply({})) as server:
            url = server.url
        asking = upstream(url)
        with pytest.raises(WireError) as failed:
            await events(asking)
        await asking.close()
        return failed.value

    error = run(ask())
    assert (error.code, error.retryable, error.details["unreachable"]) == ("backend_unavailable", True, True)
    assert "refused" in error.message


def test_a_connection_that_is_never_taken_is_given_up(run: Run) -> None:
    """Of a listener whose queue is full: the kernel lets further connections hang."""

    async def ask() -> WireError:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first:
            first.connect(listener.getsockname())
            seconds = []
            for _ in range(2):  # what the kernel takes beyond the backlog
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                seconds.append(filler)
            asking = upstream(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connect_timeout="100ms")
            with pytest.raises(WireError) as failed:
                await events(asking)
            await asking.close()
            for filler in seconds:
                filler.close()
            return failed.value

    error = run(ask())
    assert "no connection within 0.1 s" in error.message
    assert error.details["unreachable"]


def test_an_address_that_is_not_found_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On asyncio alone: uvloop asks for addresses where no test reaches."""
    found = threading.Event()

    def never(*_: Any, **__: Any) -> Any:
        found.wait(30)
        raise OSError

    async def ask() -> WireError:
        monkeypatch.setattr(socket, "getaddrinfo", never)
        asking = upstream("http://far.example/v1", connect_timeout="100ms", plain_http=True)
        with pytest.raises(WireError) as failed:
            await events(asking)
        await asking.close()
        found.set()
        return failed.value

    error = asyncio.run(ask())
    assert "no connection within 0.1 s" in error.message
    assert error.details["unreachable"]


@pytest.mark.parametrize("host", ["far..example", "x" * 64])
def test_a_host_that_is_none_is_said_once(run: Run, host: str) -> None:
    async def ask() -> WireError:
        asking = upstream(f"http://{host}/v1", plain_http=True)
        with pytest.raises(WireError) as failed:
            await events(asking)
        await asking.close()
        return failed.value

    error = run(ask())
    assert (error.code, error.retryable) == ("backend_unavailable", False)
    assert "base_url is no address" in error.message


def test_an_untrusted_certificate_is_refused_and_a_trusted_one_taken(run: Run, tmp_path: Path) -> None:
    file = certificate(tmp_path / "cert.pem")
    tls = served_with(file)

    async def ask() -> object:
        async with Server(lambda asked: asked.reply({"data": []}), tls=tls) as server:
            asking = upstream(server.url, ca_file=str(file))
            try:
                return await page(asking)
            finally:
                await asking.close()

    error = run(failure(lambda asked: asked.reply({}), page, tls=tls))
    assert (error.code, error.retryable) == ("backend_unavailable", False)
    assert "TLS failed" in error.message
    assert run(ask()) == {"data": []}


def test_a_server_without_tls_fails_https_without_sending_the_key(run: Run) -> None:
    async def ask() -> tuple[WireError, list[Asked]]:
        async with Server(lambda asked: asked.reply({})) as server:
            asking = upstream(server.url.replace("http://", "https://"), connect_timeout="300ms")
            with pytest.raises(WireError) as failed:
                await page(asking)
            await asking.close()
            return failed.value, server.asked

    error, asked = run(ask())
    assert error.code == "backend_unavailable"
    assert asked == []


def test_a_file_that_holds_no_certificates_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")

    async def make() -> None:
        with pytest.raises(VestalError, match=r"ca_file .* cannot be used"):
            upstream("https://127.0.0.1/v1", ca_file=str(tmp_path / "ca.pem"))

    run(make())


# --- answers that are none ------------------------------------------------------------------------------------


def test_a_redirect_is_an_error_and_is_not_followed(run: Run) -> None:
    async def ask() -> tuple[WireError, int]:
        async with Server(lambda asked: asked.reply({}, 307, Location="/elsewhere")) as server:
            asking = upstream(server.url)
            with pytest.raises(WireError) as failed:
                await events(asking)
            await asking.close()
            return failed.value, len(server.asked)

    error, asked = run(ask())
    assert (error.code, error.details["status"], asked) == ("backend_refused", 307, 1)
    assert "redirects are not followed" in str(error.hint)


async def _hang_up(asked: Asked) -> None:
    asked.writer.close()


async def _nonsense(asked: Asked) -> None:
    await asked.send(b"SSH-2.0-OpenSSH_9.9\r\n")


async def _endless_head(asked: Asked) -> None:
    while True:
        await asked.send(b"X" * 65536)


async def _half_an_event(asked: Asked) -> None:
    await asked.stream(sse("a"), b"data: hal")
    await asked.end_stream()


async def _cut_chunk(asked: Asked) -> None:
    await asked.stream(sse("a"))
    await asked.send(b"100\r\nshort")


async def _bad_chunk(asked: Asked) -> None:
    await asked.stream(sse("a"))
    await asked.send(b"zz\r\nwhat\r\n")


async def _short_of_its_length(asked: Asked) -> None:
    await asked.send(head(200, **{"Content-Type": STREAM, "Content-Length": "1000"}), sse("a"))


async def _endless_line(asked: Asked) -> None:
    await asked.stream()
    while True:
        await asked.more(b"x" * 65536)


async def _no_stream(asked: Asked) -> None:
    await asked.reply(b"<html>", kind="text/html")


async def _compressed(asked: Asked) -> None:
    await asked.reply(b"\x1f\x8b", kind=STREAM, Content_Encoding="gzip")


@pytest.mark.parametrize(
    ("answer", "retryable", "why"),
    [
        (_hang_up, True, "broke off its answer"),
        (_nonsense, False, "did not answer in HTTP"),
        (_endless_head, False, "did not answer in HTTP"),
        (_half_an_event, True, "broke off its answer (in the middle of an event)"),
        (_cut_chunk, True, "broke off its answer"),
        (_bad_chunk, False, "did not answer in HTTP"),
        (_short_of_its_length, True, "broke off its answer"),
        (_endless_line, False, "sent too much: a line has more than"),
        (_no_stream, False, "text/html instead of an event stream"),
        (_compressed, False, "compressed its answer"),
    ],
)
def test_what_is_no_answer_is_one_error(run: Run, answer: Any, retryable: bool, why: str) -> None:
    error = run(failure(answer))
    assert (error.code, error.retryable) == ("backend_crashed", retryable)
    assert why in error.message


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_page_that_is_not_the_json_it_should_be(run: Run, body: bytes) -> None:
    error = run(failure(lambda asked: asked.reply(body), page))
    assert (error.code, error.retryable) == ("backend_crashed", False)
    assert "not the JSON it should be" in error.message


def test_a_huge_answer_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 1 << 20)

    async def endless(asked: Asked) -> None:
        await asked.stream()
        while True:
            await asked.more(b" " * 65536)

    assert f"more than {1 << 20} bytes" in run(failure(endless, posted)).message


def test_a_page_of_what_it_says_of_itself_is_shorter_than_an_answer(run: Run) -> None:
    """A page of empty objects takes twenty times its size."""

    async def endless(asked: Asked) -> None:
        await asked.stream(b'{"data": [{}')
        while True:
            await asked.more(b",{}" * 65_536)

    assert f"more than {http.MAX_PAGE} bytes" in run(failure(endless, page)).message
    assert http.MAX_PAGE < http.MAX_ANSWER


def test_a_refusal_that_is_compressed_is_told_without_its_reason(run: Run) -> None:
    error = run(failure(lambda asked: asked.reply(b"\x1f\x8b\x08", 502, Content_Encoding="gzip")))
    assert error.message.endswith("answered 502 and says nothing of the reason")


def test_a_huge_refusal_is_bounded(run: Run) -> None:
    async def endless(asked: Asked) -> None:
        await asked.send(head(500, **{"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}))
        while True:
            await asked.more("\u2603".encode() * 8192)

    error = run(failure(endless))
    assert (error.code, error.details["status"]) == ("backend_crashed", 500)
    assert "\u2603" in error.message
    assert len(error.message) < 400


# --- slow -----------------------------------------------------------------------------------------------------


async def _silence(asked: Asked) -> None:
    await asked.gone.wait()


async def _silent_stream(asked: Asked) -> None:
    await asked.stream()
    await asked.gone.wait()


async def _drip(asked: Asked) -> None:
    await asked.stream(sse("a"))
    while not asked.gone.is_set():
        await asked.more(b"x")  # bytes that never make an event
        await asyncio.sleep(0.01)  # the drip itself, not a wait for anything


async def _comments(asked: Asked) -> None:
    await asked.stream(sse("a"))
    while not asked.gone.is_set():
        await asked.more(b": still here\n\n")
        await asyncio.sleep(0.01)  # the drip itself, not a wait for anything


async def _endless(asked: Asked) -> None:
    await asked.stream()
    while not asked.gone.is_set():
        await asked.more(sse("a"))
        await asyncio.sleep(0.01)  # the drip itself, not a wait for anything


@pytest.mark.parametrize(
    ("answer", "options", "code", "why"),
    [
        (_silence, {"first_byte_timeout": "100ms"}, "backend_unavailable", "was silent for 0.1"),
        (_silent_stream, {"first_byte_timeout": "100ms"}, "backend_unavailable", "was silent for"),
        (_drip, {"between_tokens_timeout": "200ms"}, "backend_unavailable", "was silent for"),
        (_comments, {"between_tokens_timeout": "200ms"}, "backend_unavailable", "was silent for"),
        (_endless, {"total_timeout": "300ms"}, "deadline_exceeded", "longer than 0.3 s in all"),
        (_silence, {"total_timeout": "100ms"}, "deadline_exceeded", "longer than 0.1 s in all"),
    ],
)
def test_each_deadline_ends_a_slow_answer(run: Run, answer: Any, options: dict[str, Any], code: str, why: str) -> None:
    error = run(failure(answer, **options))
    assert error.code == code
    assert why in error.message


def test_a_page_has_a_deadline_of_its_own(run: Run) -> None:
    async def ask(server: Upstream) -> None:
        await server.get("models", dict[str, Any], timeout=0.1)

    assert "did not answer within 0.1 s" in run(failure(_silence, ask)).message
