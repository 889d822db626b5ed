"""The daemon in front of a server: the gate, an answer, and one error for a server that dies in the middle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import vestal
from tests.adapters.remote.anthropic import model as anthropic
from tests.adapters.remote.ollama import model as ollama
from tests.adapters.remote.threaded import running
from tests.adapters.remote.web import Asked, chat_like, chunk, sse
from tests.e2e.harness import Daemon, toml
from vestal import messages as m

SECRET = "sk-secret-1234"


@contextmanager
def vestald(home: Path, url: str, **options: object) -> Iterator[Daemon]:
    table = {"name": "cluster", "adapter": "openai", "preset": "vllm", "base_url": url, "api_key_env": "CLUSTER_KEY"}
    daemon = Daemon(home, toml(table | options), environ={"CLUSTER_KEY": SECRET})
    try:
        yield daemon.ready()
    finally:
        daemon.kill()
        assert SECRET not in daemon.stderr
        assert "Traceback" not in daemon.stderr


def test_an_app_is_answered_by_the_server_and_sees_which_backend_it_was(short_dir: Path) -> None:
    with running(chat_like()) as server, vestald(short_dir, server.url) as daemon:
        with vestal.Client(runtime_dir=daemon.runtime_dir) as client:
            answer = client.generate("Hi")
        assert (answer.text, answer.backend, answer.model) == ("Hello", "cluster", "small")
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 2)
        assert daemon.stop() == 0


def test_a_server_that_dies_in_the_middle_costs_one_error_and_the_next_request_is_served(short_dir: Path) -> None:
    deaths = iter([True])

    async def mortal(asked: Asked) -> None:
        if next(deaths, False):
            await asked.stream(sse(chunk("Hel")))
            asked.writer.transport.abort()
        else:
            await asked.stream(sse(chunk("alive", "stop"), "[DONE]"))
            await asked.end_stream()

    with running(chat_like(mortal)) as server, vestald(short_dir, server.url) as daemon:
        with vestal.Client(runtime_dir=daemon.runtime_dir) as client:
            with pytest.raises(vestal.BackendCrashed, match="broke off its answer"):
                client.generate("Hi")
            again = client.generate("Hi")
        assert again.text == "alive"
        assert [notice.code for notice in again.notices] == ["usage_estimated"]


def test_a_server_that_is_gone_is_seen_at_once_and_its_return_too(short_dir: Path) -> None:
    """Nobody asks for a status: the daemon tells whoever watches. The breaker counts the one request that failed."""
    api, begun, ends = short_dir / "api.sock", threading.Event(), []

    async def held(asked: Asked) -> None:
        if not begun.is_set():
            await asked.stream(sse(chunk("Hel")))
            begun.set()
            await asked.gone.wait()
        else:
            await chat_like()(asked)

    with (
        running(chat_like(held), api) as first,
        vestald(short_dir, "http://localhost/v1", unix_socket=str(api)) as daemon,
        daemon.admin() as watching,
        vestal.Client(runtime_dir=daemon.runtime_dir) as client,
    ):
        watching.send(m.Subscribe(id=0))
        watching.take(m.Snapshot)
        asking = threading.Thread(target=lambda: ends.append(ended(client)))
        asking.start()
        assert begun.wait(20)
        first.kill_soon()
        watching.event("backend_state", backend="cluster", state="unavailable")
        asking.join()
        assert ends == ["backend_crashed"]
        breaker = daemon.backend("cluster").breaker
        assert breaker is not None
        assert (breaker.state, breaker.failures) == ("closed", 1)
        with running(chat_like(), api):
            watching.event("backend_state", backend="cluster", state="ready")
            assert client.generate("Hi").text == "Hello"


def ended(client: vestal.Client) -> str:
    """How a request ends."""
    try:
        return client.generate("Hi").stop_reason
    except vestal.WireError as error:
        return error.code


@pytest.mark.parametrize(
    ("adapter", "serve", "path"), [("anthropic", anthropic.serve, "/v1"), ("ollama", ollama.serve, "")]
)
def test_an_app_is_answered_by_other_apis_in_the_same_words(
    short_dir: Path, adapter: str, serve: Any, path: str
) -> None:
    with running(serve) as server:
        url = f"http://127.0.0.1:{server.port}{path}"
        daemon = Daemon(short_dir, toml({"name": "other", "adapter": adapter, "model": "small", "base_url": url}))
        try:
            with vestal.Client(runtime_dir=daemon.ready().runtime_dir) as client:
                answer = client.generate("Hello there")
                with pytest.raises(vestal.ContextOverflow):
                    client.generate("x " * (anthropic.CONTEXT + 1))
            assert (answer.text, answer.backend) == ("Hello there", "other")
            assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 2)
            assert daemon.stop() == 0
        finally:
            daemon.kill()
