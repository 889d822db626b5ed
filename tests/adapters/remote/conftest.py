"""What the tests of backends share: one that is started on a server, and stopped again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.adapters.remote.web import Server
from vestal.backend import Loading, Ready, Unavailable
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions


@asynccontextmanager
async def _serving(answer: Any, **options: Any) -> AsyncGenerator[tuple[OpenAIBackend, Server, list[Any]]]:
    reports: list[Loading | Ready | Unavailable] = []
    async with Server(answer) as server:
        table = {"preset": "vllm", "model": "small", "base_url": server.url} | options
        backend = OpenAIBackend("cluster", OpenAIOptions(**table))
        try:
            await backend.start(reports.append)
            yield backend, server, reports
        finally:
            await backend.stop(5)


@pytest.fixture
def serving() -> Any:
    """`async with serving(answer, **options) as (backend, server, reports)`."""
    return _serving
