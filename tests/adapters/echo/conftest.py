"""Both event loops, both isolations, and started backends that are always stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from vestal.backend import Loading, Ready, Unavailable
from vestal_adapters.echo import EchoBackend, EchoOptions


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    """Runs a coroutine on either loop."""
    return request.param


@asynccontextmanager
async def _serving(**options: Any) -> AsyncIterator[EchoBackend]:
    backend = EchoBackend("echo", EchoOptions(**options))
    await backend.start(_ignore)
    try:
        yield backend
    finally:
        await backend.stop(5)


def _ignore(event: Loading | Ready | Unavailable) -> None:
    pass


@pytest.fixture
def serving() -> Any:
    """`async with serving(**options) as backend`."""
    return _serving


@pytest.fixture(params=["none", "process"])
def isolation(request: pytest.FixtureRequest) -> Any:
    return request.param
