"""A worker that gives no answer: noticed while it is busy, idle or starting, and replaced in time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import slack
from vestal.backend import GenerateRequest, Ready, Unavailable
from vestal.errors import BackendCrashed, InvalidRequest, VestalError
from vestal_adapters.worker import host, supervision
from vestal_adapters.worker.options import WorkerOptions
from vestal_adapters.worker.process import Process

if TYPE_CHECKING:
    from tests.adapters.reports import Reports
    from tests.adapters.worker.conftest import PuppetBackend

Ask = Callable[..., GenerateRequest]
HEARTBEAT = 1.0


@pytest.fixture
def watched(puppet: type[PuppetBackend]) -> Callable[..., PuppetBackend]:
    def make(**options: Any) -> PuppetBackend:
        backend = puppet(**options)
        backend._rules = WorkerOptions(heartbeat=HEARTBEAT)
        return backend

    return make


async def pid_of(backend: Any) -> int:
    return int((await backend.health()).pid)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_a_stopped_worker_is_noticed_by_its_heartbeat_and_replaced(
    run: Any, watched: Any, reports: type[Reports], ask: Ask, busy: bool
) -> None:
    async def main() -> None:
        backend, heard = watched(), reports()
        await backend.start(heard)
        events = backend.generate(ask())
        if busy:
            await anext(events)
        pid = await pid_of(backend)
        begun = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        lost = await heard.until(Unavailable)
        noticed = time.monotonic() - begun
        assert "gave no answer for 1 s" in lost.reason
        assert lost.recovering
        assert 0.5 * HEARTBEAT < noticed < HEARTBEAT + slack()
        await heard.until(Ready)
        assert await pid_of(backend) != pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        if busy:
            with pytest.raises(BackendCrashed, match="gave no answer"):
                async for _ in events:
                    pass
        await backend.stop(5)

    run(main())


def test_a_step_that_never_ends_is_ended(watched: Any, reports: type[Reports], ask: Ask) -> None:
    async def main() -> None:
        backend, heard = watched(at_step="sleep:3600"), reports()
        await backend.start(heard)
        with pytest.raises(BackendCrashed, match="gave no answer for 1 s"):
            await anext(backend.generate(ask()))
        await backend.stop(5)

    asyncio.run(main())


def test_a_worker_that_answers_is_left_alone(run: Any, watched: Any, reports: type[Reports], ask: Ask) -> None:
    async def main() -> None:
        backend, heard = watched(), reports()
        backend._rules = WorkerOptions(heartbeat=2.0)
        await backend.start(heard)
        pid = await pid_of(backend)
        asked = 0
        ping = backend._channel.ping

        async def counted(timeout: float) -> float | None:
            nonlocal asked
            asked += 1
            return await ping(timeout)  # type: ignore[no-any-return]  # the channel's

        backend._channel.ping = counted
        events = backend.generate(ask())
        while asked < 5:  # through several questions, with a stream that keeps it busy
            await anext(events)
        await events.aclose()
        assert await pid_of(backend) == pid
        assert not [event for event in heard.seen if isinstance(event, Unavailable)]
        await backend.stop(5)

    run(main())


def test_a_worker_that_answers_others_first_is_left_alone(
    run: Any, watched: Any, reports: type[Reports], ask: Ask
) -> None:
    """The question stands behind them in the pipe: together they take longer than a heartbeat, each of them less."""

    async def main() -> None:
        backend, heard = watched(at_submit="sleep:0.25"), reports()
        backend._rules = WorkerOptions(heartbeat="2s")
        await backend.start(heard)
        pid = await pid_of(backend)
        jobs = [asyncio.ensure_future(anext(backend.generate(ask("refuse")))) for _ in range(12)]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {InvalidRequest}
        assert await pid_of(backend) == pid
        assert not [event for event in heard.seen if isinstance(event, Unavailable)]
        await backend.stop(5)

    run(main())


def test_a_worker_that_never_speaks_is_given_up(
    run: Any, puppet: type[PuppetBackend], reports: type[Reports], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "HANDSHAKE_PATIENCE", 0.3)
    monkeypatch.setattr(host, "Process", mute_process)

    async def main() -> None:
        with pytest.raises(VestalError, match=r"said nothing for 0\.3 s after it was started"):
            await puppet().start(reports())
        with pytest.raises(ChildProcessError):  # and it is gone
            os.waitpid(-1, os.WNOHANG)

    run(main())


def test_a_worker_that_hangs_while_it_is_loaded_again_is_ended(
    run: Any, watched: Any, reports: type[Reports], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "RELOAD_LEAST", 1.0)
    monkeypatch.setattr(supervision, "RELOAD_FACTOR", 0)

    async def main() -> None:
        backend, heard = watched(), reports()
        await backend.start(heard)
        backend._puppet = {"at_load": "sleep:3600"}
        os.kill(await pid_of(backend), signal.SIGKILL)
        await heard.until(Unavailable)
        assert "not loaded within 1 s" in (await heard.until(Unavailable)).reason
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        await backend.stop(5)

    run(main())


def mute_process(arguments: list[str], environment: Any) -> Any:
    """A process with a worker's pipe that says nothing: `mute` is beside this file, where the puppets are."""
    return Process(["mute"], environment)


@pytest.mark.parametrize("heartbeat", ["0s", -1, "soon"])
def test_a_heartbeat_that_is_none_is_refused(heartbeat: Any) -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        WorkerOptions(heartbeat=heartbeat)
