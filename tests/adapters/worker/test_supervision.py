"""A worker that dies while it serves: what its requests get, what the daemon hears, and who comes next."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vestal.backend import CountRequest, EmbedRequest, GenerateRequest, Loading, Ready, TextEvent, Unavailable
from vestal.errors import BackendCrashed, BackendUnavailable, VestalError
from vestal.values import Capabilities, Message
from vestal_adapters.echo import EchoBackend, EchoOptions
from vestal_adapters.worker import wire
from vestal_adapters.worker.restarts import RestartPolicy

if TYPE_CHECKING:
    from tests.adapters.reports import Reports
    from tests.adapters.worker.conftest import PuppetBackend

Ask = Callable[..., GenerateRequest]
Serving = Callable[..., Any]
NOTHING = CountRequest(messages=[Message("user", "")])


class Consumer:
    """Reads one stream to its end and keeps what it got; `began` is set at the first event."""

    def __init__(self, events: AsyncIterator[Any]) -> None:
        self.began = asyncio.Event()
        self.texts: list[str] = []
        self.ends: list[Exception] = []
        self.task = asyncio.create_task(self._read(events))

    async def _read(self, events: AsyncIterator[Any]) -> None:
        try:
            async for event in events:
                self.texts.append(event.text)
                self.began.set()
        except Exception as exc:
            self.ends.append(exc)
        with pytest.raises(StopAsyncIteration):
            await anext(events)  # after its end there is nothing more


async def kill(backend: Any, number: int = signal.SIGKILL) -> int:
    pid = (await backend.health()).pid
    assert isinstance(pid, int)
    os.kill(pid, number)
    return pid


def test_killing_the_worker_ends_each_request_once_and_the_next_worker_serves(
    run: Any, serving: Serving, reports: type[Reports], puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        heard = reports()
        async with serving(puppet(), heard) as backend:
            consumers = [Consumer(backend.generate(ask())) for _ in range(3)]
            waiting = asyncio.create_task(backend.embed(EmbedRequest(input=["never done"])))
            for consumer in consumers:
                await consumer.began.wait()
            pid = await kill(backend)
            lost = await heard.until(Unavailable)
            assert lost.recovering
            assert "was killed by SIGKILL: likely out of memory" in lost.reason
            assert not backend.ready
            with pytest.raises(BackendUnavailable):
                await anext(backend.generate(ask()))
            await asyncio.gather(*(consumer.task for consumer in consumers))
            with pytest.raises(BackendCrashed):
                await waiting
            ends = [consumer.ends for consumer in consumers]
            assert [[type(end) for end in row] for row in ends] == [[BackendCrashed]] * 3
            assert len({id(row[0]) for row in ends}) == 3
            assert ends[0][0].retryable  # type: ignore[attr-defined]  # it is a BackendCrashed
            assert "SIGKILL" in str(ends[0][0])
            await heard.until(Ready)
            health = await backend.health()
            assert (health.state, health.restarts) == ("ok", 1)
            assert health.pid not in (None, pid)
            texts = [event.text async for event in backend.generate(ask(max_tokens=3)) if isinstance(event, TextEvent)]
            assert texts == ["x "] * 3

    run(main())


def test_what_was_sent_before_the_crash_arrives_before_the_error(
    run: Any, serving: Serving, reports: type[Reports], ask: Ask
) -> None:
    async def main() -> None:
        heard = reports()
        backend = EchoBackend("echo", EchoOptions(isolation="process", fault="crash:3"))
        async with serving(backend, heard):
            consumer = Consumer(backend.generate(ask("one two three four five")))
            await consumer.task
            assert consumer.texts == ["one", " two", " three"]
            assert [type(end) for end in consumer.ends] == [BackendCrashed]
            assert "aborted (SIGABRT)" in str(consumer.ends[0])
            await heard.until(Ready)
            again = Consumer(backend.generate(ask("a b c d")))
            await again.task
            assert (again.texts, len(again.ends)) == (["a", " b", " c"], 1)

    run(main())


def test_unavailable_is_said_before_any_request_ends(
    serving: Serving, reports: type[Reports], puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        order: list[str] = []
        heard = reports()

        def report(event: Loading | Ready | Unavailable) -> None:
            order.append(type(event).__name__)
            heard(event)

        async with serving(puppet(), report) as backend:
            consumer = Consumer(backend.generate(ask()))
            consumer.task.add_done_callback(lambda _: order.append("end"))
            await consumer.began.wait()
            await kill(backend)
            await heard.until(Ready)
        assert order[-3:] == ["Unavailable", "end", "Ready"]

    asyncio.run(main())


def test_a_worker_that_keeps_dying_is_given_up_until_an_operator_restarts_it(
    run: Any, reports: type[Reports], puppet: type[PuppetBackend], ask: Ask, quick_restarts: None
) -> None:
    async def main() -> None:
        backend, heard = puppet(), reports()
        await backend.start(heard)
        for _ in range(RestartPolicy.LIMIT):
            await kill(backend)
            assert (await heard.until(Unavailable)).recovering
            await heard.until(Ready)
        await kill(backend)
        last = await heard.until(Unavailable)
        assert not last.recovering
        assert "given up after 5 restarts in 60 s" in last.reason
        health = await backend.health()
        assert (health.state, health.pid, health.restarts) == ("unavailable", None, 6)
        with pytest.raises(BackendUnavailable, match="an operator must restart it"):
            await anext(backend.generate(ask()))
        await backend.stop(5)
        await backend.start(heard)
        assert backend.ready
        assert (await backend.health()).restarts == 0
        await backend.stop(5)

    run(main())


def test_a_restart_that_fails_to_load_is_tried_again(
    serving: Serving,
    reports: type[Reports],
    puppet: type[PuppetBackend],
    quick_restarts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        heard = reports()
        async with serving(puppet(), heard) as backend:
            backend._puppet = {"at_load": "raise:vestal"}
            await kill(backend)
            assert "SIGKILL" in (await heard.until(Unavailable)).reason
            assert "a family that nobody knows" in (await heard.until(Unavailable)).reason
            backend._puppet = {}
            await heard.until(Ready)
            assert await backend.count(NOTHING) == 0

    asyncio.run(main())


def test_a_broken_hook_of_the_adapter_does_not_end_supervision(
    serving: Serving, reports: type[Reports], puppet: type[PuppetBackend], quick_restarts: None
) -> None:
    async def main() -> None:
        heard = reports()
        async with serving(puppet(), heard) as backend:
            backend.engine_options = lambda: 1 / 0
            await kill(backend)
            await heard.until(Unavailable)
            assert "ZeroDivisionError" in (await heard.until(Unavailable)).reason
            del backend.engine_options
            await heard.until(Ready)

    asyncio.run(main())


def test_a_listener_that_raises_does_not_end_supervision(
    serving: Serving, reports: type[Reports], puppet: type[PuppetBackend], quick_restarts: None
) -> None:
    async def main() -> None:
        heard, failures = reports(), []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context["exception"]))

        def report(event: Loading | Ready | Unavailable) -> None:
            heard(event)
            raise KeyError("listener")

        async with serving(puppet(), report) as backend:
            await kill(backend)
            await heard.until(Ready)
            assert backend.ready
        assert len(failures) == len(heard.seen) == 5

    asyncio.run(main())


def frame(message: wire.ChildMessage) -> bytes:
    return wire.encode(message)


GARBAGE = {
    "noise": b"\xff" * 100,
    "no map": struct.pack(">I", 1) + b"\x01",
    "a prefix over the limit": b"\xff\xff\xff\xff",
    "an array bomb": struct.pack(">I", 5) + b"\xdd\xff\xff\xff\xff",
    "a nesting bomb": struct.pack(">I", 100_000) + b"\x91" * 100_000,
    "an unknown type": struct.pack(">I", 7) + b"\x81\xa4type\xa1",
    "loaded twice": frame(wire.LoadFailed("again")),
    "progress when it is loaded": frame(wire.Progress(50.0, "still at it")),
    "negative tokens": frame(wire.Outputs([(1, TextEvent("x", -1))])),
    "a host's message": wire.encode(wire.Cancel(1)),
    "an endless excuse": frame(wire.Failed(1, "internal", "x", details={"list": ["x"] * 50_000})),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_worker_that_breaks_the_protocol_is_killed_and_replaced(
    kind: str,
    serving: Serving,
    reports: type[Reports],
    puppet: type[PuppetBackend],
    ask: Ask,
    quick_restarts: None,
) -> None:
    async def main() -> None:
        heard = reports()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: pytest.fail(str(context)))
        async with serving(puppet(at_step="write", raw=GARBAGE[kind]), heard) as backend:
            pidfd = os.pidfd_open((await backend.health()).pid)
            consumer = Consumer(backend.generate(ask()))
            await consumer.task
            assert [type(end) for end in consumer.ends] == [BackendCrashed]
            assert "broke the worker protocol" in str(consumer.ends[0])
            assert (await heard.until(Unavailable)).recovering
            await heard.until(Ready)
            os.set_blocking(pidfd, False)
            with pytest.raises(ProcessLookupError):  # reaped before the next was spawned
                signal.pidfd_send_signal(pidfd, 0)
            os.close(pidfd)
            assert await backend.count(NOTHING) == 0

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["noise", "an unknown type", "negative tokens"])
def test_garbage_while_loading_is_a_load_that_failed(
    kind: str, reports: type[Reports], puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        backend = puppet(at_load="write", raw=GARBAGE[kind])
        if kind == "negative tokens":  # of no job: nobody's loss
            await backend.start(reports())
        else:
            with pytest.raises(VestalError, match="broke the worker protocol"):
                await backend.start(reports())
        await backend.stop(5)

    asyncio.run(main())


def test_garbage_right_behind_loaded_is_a_load_that_failed(
    run: Any, reports: type[Reports], puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        backend = puppet(at_load="write", raw=frame(wire.Loaded(Capabilities())) + GARBAGE["noise"])
        with pytest.raises(VestalError, match="broke the worker protocol"):
            await backend.start(reports())
        assert not backend.ready
        await backend.stop(5)

    run(main())


def test_vectors_that_nobody_asked_for_end_the_worker(
    serving: Serving, reports: type[Reports], puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        heard = reports()
        async with serving(puppet("BadVectors"), heard) as backend:
            with pytest.raises(BackendCrashed, match="3 x 1 vectors for 1 texts"):
                await backend.embed(EmbedRequest(input=["x"]))
            await heard.until(Ready)

    asyncio.run(main())


def test_a_worker_that_leaves_its_pipe_and_lives_on_is_killed(
    run: Any, serving: Serving, reports: type[Reports], puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        heard = reports()
        async with serving(puppet(at_step="shut"), heard) as backend:
            consumer = Consumer(backend.generate(ask()))
            await consumer.task
            assert [type(end) for end in consumer.ends] == [BackendCrashed]
            assert "closed its pipe" in str(consumer.ends[0])
            await heard.until(Ready)

    run(main())


def test_ten_restarts_leak_no_descriptor_and_no_process(
    run: Any,
    serving: Serving,
    reports: type[Reports],
    puppet: type[PuppetBackend],
    quick_restarts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RestartPolicy, "LIMIT", 100)
    monkeypatch.setattr(RestartPolicy, "LONGEST_PAUSE", 0.001)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # what other tests left in cycles is closed whenever the collector comes

    async def main() -> None:
        heard = reports()
        async with serving(puppet()):
            pass  # uvloop opens one descriptor of its own at the first
        before = descriptors()
        async with serving(puppet(), heard) as backend:
            serving_one = descriptors()
            for _ in range(10):
                await kill(backend)
                await heard.until(Ready)
                assert descriptors() == serving_one
        assert descriptors() == before
        with pytest.raises(ChildProcessError):  # no child is left, dead or alive
            os.waitpid(-1, os.WNOHANG)

    run(main())


def test_a_worker_takes_no_requests_for_a_model_that_it_was_not_to_serve(
    run: Any, puppet: type[PuppetBackend], reports: type[Reports], quick_restarts: None
) -> None:
    """Requests go where their model is said to be."""

    async def main() -> None:
        with pytest.raises(VestalError, match="says that it serves 'large', and was to serve 'small'"):
            await puppet(model="small", claims="large").start(reports())
        backend, heard = puppet(model="small", claims="nothing"), reports()
        await backend.start(heard)
        assert backend.capabilities.model == "small"
        backend._puppet["claims"] = "large"
        await kill(backend)
        await heard.until(Unavailable)
        assert "says that it serves 'large'" in (await heard.until(Unavailable)).reason
        assert not backend.ready
        await backend.stop(5)

    run(main())
