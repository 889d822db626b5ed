"""Every adapter keeps every promise of the port: one suite for all of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.remote import model
from tests.adapters.remote.anthropic import model as anthropic
from tests.adapters.remote.ollama import model as ollama
from tests.adapters.remote.web import Server
from tests.adapters.server import real
from vestal.backend import Backend
from vestal.testing import CHECKS, Report, check_backend
from vestal_adapters.echo import EchoBackend, EchoOptions
from vestal_adapters.llamacpp.backend import LlamaCppBackend
from vestal_adapters.llamacpp.options import LlamaCppOptions
from vestal_adapters.remote.anthropic.backend import AnthropicBackend
from vestal_adapters.remote.anthropic.options import AnthropicOptions
from vestal_adapters.remote.ollama.backend import OllamaBackend
from vestal_adapters.remote.ollama.options import OllamaOptions
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions

ALWAYS = {
    "capabilities",
    "health",
    "generate",
    "generate_v2",
    "embed",
    "count",
    "stable_capabilities",
    "readiness",
    "restart",
    "stop_while_starting",
}
LOST = {"loss"}  # of those whose engine can be taken away
ANSWERING = {"max_tokens", "closing", "cancelling", "concurrency", "options", "stop_strings", "stop_while_running"}


@asynccontextmanager
async def killed(backend: Backend) -> AsyncGenerator[None]:
    """Its process, as the kernel would for want of memory."""
    pid = (await backend.health()).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    yield


def away(server: Server) -> Any:
    """The server, which is killed and comes back to the same place."""

    @asynccontextmanager
    async def outage(_backend: Backend) -> AsyncGenerator[None]:
        server.kill()
        try:
            yield
        finally:
            await server.listen()

    return outage


@pytest.fixture
def api(short_dir: Path) -> Path:
    """Where a server is found again after it was away."""
    return short_dir / "api.sock"


def checked(make: Callable[[], Backend], **how: Any) -> Report:
    report = asyncio.run(check_backend(make, **how))
    print(report)
    assert [outcome.check for outcome in report.outcomes] == list(CHECKS)
    return report


@pytest.mark.parametrize("isolation", ["none", "process"])
@pytest.mark.parametrize("v2", [True, False])
def test_echo(isolation: str, v2: bool) -> None:
    options = EchoOptions(isolation=isolation, v2=v2, embed=v2, slots=3, ready_delay="20ms", token_delay="1ms")  # type: ignore[arg-type]  # a literal
    report = checked(lambda: EchoBackend("echo", options), outage=killed if isolation == "process" else None)
    assert report.passed >= ALWAYS | ANSWERING | (LOST if isolation == "process" else set())


@pytest.mark.model
@pytest.mark.timeout(300)
def test_llamacpp(smollm2_path: str) -> None:
    options = LlamaCppOptions(model=smollm2_path, slots=2, context_length=256, threads=1)
    report = checked(lambda: LlamaCppBackend("chat", options), patience=120, outage=killed)
    assert report.passed >= ALWAYS | ANSWERING | LOST | {
        "context_overflow", "response_format", "grammar", "logprobs", "tool_choice"
    }  # fmt: skip


@pytest.mark.model
@pytest.mark.timeout(120)
def test_llamacpp_with_an_embedding_model(minilm_path: str) -> None:
    options = LlamaCppOptions(model=minilm_path, slots=1, threads=1)
    report = checked(lambda: LlamaCppBackend("vectors", options), patience=60, outage=killed)
    assert report.passed >= ALWAYS | LOST


@pytest.mark.parametrize("preset", ["vllm", "openai"])
def test_openai(preset: Any, api: Path) -> None:
    async def check() -> Report:
        async with Server(model.serve, path=api) as server:
            options = OpenAIOptions(
                preset=preset, model="small", base_url=server.url, unix_socket=str(api), slots=3, tools=True
            )
            return await check_backend(lambda: OpenAIBackend("cluster", options), outage=away(server))

    report = asyncio.run(check())
    assert report.passed >= ALWAYS | ANSWERING | LOST | {"response_format", "logprobs", "tool_choice"}
    assert ("context_overflow" in report.passed) == (preset == "vllm")  # whose listing says how long it is


def test_openai_with_an_embedding_model() -> None:
    async def check() -> Report:
        async with Server(model.serve) as server:
            options = OpenAIOptions(preset="openai", model="small", base_url=server.url, kind="embeddings")
            return await check_backend(lambda: OpenAIBackend("vectors", options))

    assert asyncio.run(check()).passed >= ALWAYS


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("profile", real.PROFILES)
def test_server(profile: str, model_home: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESTAL_HOME", str(model_home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    slots = 2 if profile == "llama-server" else 1
    report = checked(lambda: real.made(profile, slots=slots), patience=60, outage=killed)
    assert report.passed >= ALWAYS | LOST | (ANSWERING - {"concurrency", "options"}) | {"context_overflow"}


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("profile", real.PROFILES)
def test_server_with_an_embedding_model(
    profile: str, model_home: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESTAL_HOME", str(model_home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    options = {"model": "minilm-l6-v2", "kind": "embeddings", "embedding_batch": 8, "slots": 1}
    report = checked(lambda: real.made(profile, **options), patience=60, outage=killed)
    assert report.passed >= ALWAYS | LOST


def test_anthropic(api: Path) -> None:
    async def check() -> Report:
        async with Server(anthropic.serve, path=api) as server:
            options = AnthropicOptions(model="small", base_url=server.url, unix_socket=str(api), slots=3)
            return await check_backend(lambda: AnthropicBackend("cloud", options), outage=away(server))

    more = {"context_overflow", "response_format", "tool_choice"}
    assert asyncio.run(check()).passed >= ALWAYS | ANSWERING | LOST | more


@pytest.mark.parametrize("shown", [ollama.SHOWN, ollama.VECTORS], ids=["chat", "vectors"])
def test_ollama(shown: dict[str, Any], api: Path) -> None:
    async def check() -> Report:
        async with Server(ollama.chat_like(None, shown=shown), path=api) as server:
            options = OllamaOptions(base_url=server.url.removesuffix("/v1"), unix_socket=str(api), slots=3)
            outage = away(server) if shown is ollama.SHOWN else None  # nothing of a request for vectors is in between
            return await check_backend(lambda: OllamaBackend("local", options), outage=outage)

    more = ANSWERING | LOST | {"context_overflow", "response_format", "tool_choice"} if shown is ollama.SHOWN else set()
    assert asyncio.run(check()).passed >= ALWAYS | more
