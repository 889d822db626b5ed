"""What the tests of backends share: one that is started on a server, and stopped again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.adapters.remote.started import started
from tests.adapters.remote.web import Server
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions


@asynccontextmanager
async def _serving(answer: Any, **options: Any) -> AsyncGenerator[tuple[OpenAIBackend, Server, list[Any]]]:
    def make(url: str) -> OpenAIBackend:
        table = {"preset": "vllm", "model": "small", "base_url": url} | options
        return OpenAIBackend("cluster", OpenAIOptions(**table))

    async with started(answer, make) as (backend, server, reports):
        yield backend, server, reports


@pytest.fixture
def serving() -> Any:
    """`async with serving(answer, **options) as (backend, server, reports)`."""
    return _serving
