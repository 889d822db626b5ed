"""Servers that are puppets, and where their directories are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.reports import Reports
from tests.adapters.server.puppets import made, request
from vestal.backend import TextEvent
from vestal_adapters.server.backend import ServerBackend
from vestal_adapters.worker.restarts import RestartPolicy


@asynccontextmanager
async def _serving(*arguments: str, **options: Any) -> AsyncIterator[tuple[ServerBackend, Reports]]:
    backend, reports = made(*arguments, **options), Reports()
    try:
        await backend.start(reports)
        yield backend, reports
    finally:
        await backend.stop(10)


@pytest.fixture
def puppet() -> Any:
    """`puppet(*arguments, **options)`: a backend that was not started."""
    return made


@pytest.fixture
def serving() -> Any:
    """`async with serving(*arguments, **options) as (backend, reports)`."""
    return _serving


@pytest.fixture
def reports() -> type[Reports]:
    return Reports


async def _said(backend: ServerBackend, text: str) -> str:
    return "".join([event.text async for event in backend.generate(request(text)) if isinstance(event, TextEvent)])


@pytest.fixture
def ask() -> Any:
    return request


@pytest.fixture
def said() -> Any:
    """`await said(backend, text)`: the answer's text."""
    return _said


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy's shape with a thousandth of its pauses."""
    monkeypatch.setattr(RestartPolicy, "FIRST_PAUSE", 0.001)


@pytest.fixture(autouse=True)
def homes(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers' directories are made."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    return short_dir
