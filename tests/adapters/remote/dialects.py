"""The three APIs side by side, for tests of what holds of all: how each backend is made, and what its server says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Struct

from tests.adapters.remote import model
from tests.adapters.remote.anthropic import model as anthropic
from tests.adapters.remote.ollama import model as ollama
from tests.adapters.remote.web import Asked, chunk, sse
from vestal_adapters.remote.anthropic.backend import AnthropicBackend
from vestal_adapters.remote.anthropic.options import AnthropicOptions
from vestal_adapters.remote.backend import RemoteBackend
from vestal_adapters.remote.ollama.backend import OllamaBackend
from vestal_adapters.remote.ollama.options import OllamaOptions
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions

__all__ = ["DIALECTS", "Dialect", "every_dialect"]

_Answer = Callable[[Asked], Any]


class Dialect(Struct, frozen=True, kw_only=True):
    """One API. `piece` is what its stream says before the text "Hi" has come whole."""

    name: str
    make: Callable[..., RemoteBackend]
    """`make(url, **options)`: of a URL that ends in /v1."""
    like: Callable[[_Answer], _Answer]
    """A server that is well, but lets an answer be given by another."""
    serve: _Answer
    kind: str
    piece: bytes
    half: bytes
    """The beginning of something whose end never comes."""
    misshapen: bytes
    failing: bytes
    """An error inside the stream."""
    filler: bytes
    """What may be sent for ever and says nothing."""


def _openai(url: str, **options: Any) -> OpenAIBackend:
    return OpenAIBackend("far", OpenAIOptions(preset="vllm", model="small", base_url=url, **options))


def _anthropic(url: str, **options: Any) -> AnthropicBackend:
    return AnthropicBackend("far", AnthropicOptions(model="small", base_url=url, **options))


def _ollama(url: str, **options: Any) -> OllamaBackend:
    return OllamaBackend("far", OllamaOptions(model="small", base_url=url.removesuffix("/v1"), **options))


def _chat_like(answer: _Answer) -> _Answer:
    async def like(asked: Asked) -> None:
        await (answer if asked.path == "/v1/chat/completions" else model.serve)(asked)

    return like


_BEGUN = sse(anthropic.begin(), anthropic.block(0, "text", text=""), anthropic.delta(0, text="Hi"))

DIALECTS = [
    Dialect(
        name="openai",
        make=_openai,
        like=_chat_like,
        serve=model.serve,
        kind="text/event-stream",
        piece=sse(chunk("Hi")),
        half=b'data: {"choices": [',
        misshapen=sse({"choices": [{"delta": {"content": 7}}]}),
        failing=sse({"error": {"message": "out of memory"}}),
        filler=b": still here\n\n",
    ),
    Dialect(
        name="anthropic",
        make=_anthropic,
        like=anthropic.message_like,
        serve=anthropic.serve,
        kind="text/event-stream",
        piece=_BEGUN,
        half=b'data: {"type": "content_block',
        misshapen=sse({"type": 7}),
        failing=sse({"type": "error", "error": {"type": "api_error", "message": "out of memory"}}),
        filler=b": still here\n\n",
    ),
    Dialect(
        name="ollama",
        make=_ollama,
        like=ollama.chat_like,
        serve=ollama.serve,
        kind="application/x-ndjson",
        piece=ollama.lines(ollama.line("Hi")),
        half=b'{"message": {"cont',
        misshapen=ollama.lines({"message": {"content": 7}}),
        failing=ollama.lines({"error": "out of memory"}),
        filler=b"\n",
    ),
]

every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
