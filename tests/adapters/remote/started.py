"""A backend that is started on a scripted server, and stopped again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tests.adapters.remote.web import Server
from tests.adapters.reports import Reports
from vestal.backend import Backend, GenerateRequest, Loading, Ready, Unavailable

__all__ = ["closed_early", "collected", "reporting", "started"]

B = TypeVar("B", bound=Backend)


@asynccontextmanager
async def started(answer: Any, make: Callable[[str], B]) -> AsyncGenerator[tuple[B, Server, list[Any]]]:
    """`make` is given the server's URL, which ends in /v1."""
    reports: list[Loading | Ready | Unavailable] = []
    async with Server(answer) as server:
        backend = make(server.url)
        try:
            await backend.start(reports.append)
            yield backend, server, reports
        finally:
            await backend.stop(5)


@asynccontextmanager
async def reporting(backend: Backend) -> AsyncGenerator[Reports]:
    """What it reports from its start to its stop; for a server that the test keeps itself."""
    reports = Reports()
    await backend.start(reports)
    try:
        yield reports
    finally:
        await backend.stop(5)


async def closed_early(backend: Backend, server: Server, request: GenerateRequest) -> object:
    """The first event of an answer that is closed after it; returns once the server's client has left."""
    answer: Any = backend.generate(request)
    first = await anext(answer)
    await answer.aclose()
    async with asyncio.timeout(5):
        await server.asked[-1].gone.wait()
    return first


async def collected(events: Any) -> list[Any]:
    return [event async for event in events]
