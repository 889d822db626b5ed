"""Both event loops, backends with a puppet for an engine, and a recorder of what a backend reports."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import uvloop

from tests.adapters.reports import Reports
from vestal.backend import Backend, BackendOptions, GenerateRequest, Report
from vestal.values import GenerateOptions, Message
from vestal_adapters.worker.host import WorkerBackend
from vestal_adapters.worker.restarts import RestartPolicy

HERE = Path(__file__).parent


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    """Runs a coroutine on either loop."""
    return request.param


@pytest.fixture
def reports() -> type[Reports]:
    return Reports


B = TypeVar("B", bound=Backend)


@asynccontextmanager
async def _serving(backend: B, report: Report | None = None) -> AsyncIterator[B]:
    await backend.start(report or Reports())
    try:
        yield backend
    finally:
        await backend.stop(2)


@pytest.fixture
def serving() -> Any:
    """`async with serving(backend) as backend`: started, and stopped whatever happens."""
    return _serving


class PuppetBackend(WorkerBackend):
    """A worker backend whose engine is one of `puppets`."""

    engine = "puppets:Puppet"

    def __init__(self, engine: str = "Puppet", **options: Any) -> None:
        super().__init__("puppet", BackendOptions())
        self._puppet = options
        self.engine = f"puppets:{engine}"

    def engine_options(self) -> BackendOptions:
        made = msgspec.defstruct("Made", list(self._puppet), bases=(BackendOptions,))(**self._puppet)
        assert isinstance(made, BackendOptions)
        return made

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def puppet() -> type[PuppetBackend]:
    return PuppetBackend


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy's shape with a thousandth of its pauses."""
    monkeypatch.setattr(RestartPolicy, "FIRST_PAUSE", 0.001)


def asking(text: str = "hello", **options: Any) -> GenerateRequest:
    return GenerateRequest(messages=[Message("user", text)], options=GenerateOptions(**options))


@pytest.fixture
def ask() -> Callable[..., GenerateRequest]:
    return asking


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Whether the process of a pidfd has ended, waiting up to ten seconds for it."""

    def wait(pidfd: int) -> bool:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = bool(poll.poll(10_000))
        os.close(pidfd)
        return ended

    return wait
