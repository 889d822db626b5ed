"""What an operator says of a server, and what is concluded from where it is: whether it runs here, what it embeds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.adapters.remote.dialects import DIALECTS, Dialect, every_dialect
from tests.adapters.remote.ollama import model as ollama
from tests.adapters.remote.started import started
from tests.adapters.remote.web import Server
from tests.adapters.server import puppets
from vestal.errors import VestalError
from vestal.values import Capabilities
from vestal_adapters.remote.anthropic.options import AnthropicOptions
from vestal_adapters.remote.ollama.backend import OllamaBackend
from vestal_adapters.remote.ollama.options import OllamaOptions
from vestal_adapters.remote.openai.options import OpenAIOptions
from vestal_adapters.server.options import ServerOptions


@pytest.mark.parametrize(
    ("table", "here"),
    [
        ({"base_url": "http://127.0.0.1:8000/v1"}, True),
        ({"base_url": "http://127.1.2.3/v1"}, True),
        ({"base_url": "http://[::1]:8000/v1"}, True),
        ({"base_url": "https://localhost/v1"}, True),
        ({"base_url": "https://10.0.0.7/v1"}, False),
        ({"base_url": "https://localhost.example.org/v1"}, False),
        ({"base_url": "https://api.example.org/v1", "unix_socket": "/run/api.sock"}, True),
        ({"base_url": "http://127.0.0.1:4000/v1", "local": False}, False),  # a proxy that forwards to a cloud
        ({"base_url": "https://workstation/v1", "local": True}, True),
        ({"preset": "vllm"}, True),  # by its default base_url
        ({"preset": "openrouter"}, False),
    ],
)
def test_a_server_runs_here_if_it_is_reached_here_unless_the_operator_knows_better(
    table: dict[str, Any], here: bool
) -> None:
    assert OpenAIOptions(**({"preset": "openai"} | table)).runs_here is here


def test_what_runs_far_by_default() -> None:
    assert not AnthropicOptions(model="m").runs_here
    assert OllamaOptions().runs_here


def capabilities_at(dialect: Dialect, **options: Any) -> Capabilities:
    async def run() -> Capabilities:
        async with Server(dialect.serve) as server:
            backend = dialect.make(server.url, **options)
            await backend.start(lambda _: None)
            await backend.stop(5)
            return backend.capabilities

    return asyncio.run(run())


@every_dialect
def test_capabilities_say_whether_it_runs_here(dialect: Dialect) -> None:
    assert capabilities_at(dialect).local
    assert not capabilities_at(dialect, local=False).local


def test_a_model_that_an_ollama_here_only_passes_on_runs_elsewhere() -> None:
    async def run(**options: Any) -> bool:
        shown = ollama.SHOWN | {"remote_host": "https://ollama.com:443"}

        def make(url: str) -> OllamaBackend:
            return OllamaBackend("cloud", OllamaOptions(base_url=url.removesuffix("/v1"), **options))

        async with started(ollama.chat_like(None, shown=shown), make) as (backend, _, _):
            return backend.capabilities.local

    assert not asyncio.run(run())
    assert asyncio.run(run(local=True))


def test_a_server_of_our_own_runs_here(short_dir: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))

    async def run(place: str) -> bool:
        backend = puppets.made(place=place)
        await backend.start(lambda _: None)
        await backend.stop(5)
        return backend.capabilities.local

    assert asyncio.run(run("socket"))
    assert asyncio.run(run("port"))


# --- the weight of a share ------------------------------------------------------------------------------------


def test_the_batch_of_a_model_that_embeds_is_told(serving: Any) -> None:
    async def run() -> tuple[Any, Any]:
        openai = DIALECTS[0]
        async with serving(openai.serve, kind="embeddings", embedding_batch=32) as (backend, _, _):
            told = backend.capabilities.embedding_batch

        def make(url: str) -> OllamaBackend:
            return OllamaBackend("near", OllamaOptions(base_url=url.removesuffix("/v1"), embedding_batch=16))

        async with started(ollama.chat_like(None, shown=ollama.VECTORS), make) as (other, _, _):
            return told, other.capabilities.embedding_batch

    assert asyncio.run(run()) == (32, 16)


def test_a_batch_of_a_model_that_does_not_embed_is_refused() -> None:
    with pytest.raises(ValueError, match='embedding_batch: kind = "chat" embeds nothing'):
        OpenAIOptions(preset="vllm", embedding_batch=32)
    with pytest.raises(ValueError, match='embedding_batch: kind = "chat" embeds nothing'):
        ServerOptions(profile="llama-server", model="small", embedding_batch=32)

    async def run() -> None:
        async with Server(ollama.serve) as server:
            options = OllamaOptions(base_url=server.url.removesuffix("/v1"), embedding_batch=32)
            with pytest.raises(VestalError, match="makes text, and embedding_batch is set"):
                await OllamaBackend("near", options).start(lambda _: None)

    asyncio.run(run())
