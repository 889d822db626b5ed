"""The echo backend: the same behaviour in the daemon's process and in a worker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from vestal.backend import (
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Loading,
    Ready,
    TextEvent,
    TokenEventV2,
    Unavailable,
    check_supported,
)
from vestal.errors import BackendCrashed, BackendRefused, BackendUnavailable, Unsupported, VestalError
from vestal.values import GenerateOptions, Message, MessageV2, TextBlock, Tool, Usage
from vestal_adapters.echo import EchoBackend, EchoOptions

Serving = Callable[..., Any]


def ask(text: str = "one two three", **options: Any) -> GenerateRequest:
    return GenerateRequest(messages=[Message("user", text)], options=GenerateOptions(**options))


async def gather(events: AsyncIterator[TokenEventV2]) -> tuple[list[str], EndEvent | Exception | None]:
    """The texts, and how it ended."""
    texts: list[str] = []
    try:
        async for event in events:
            if isinstance(event, EndEvent):
                return texts, event
            assert isinstance(event, TextEvent)
            texts.append(event.text)
    except Exception as exc:
        return texts, exc
    return texts, None


def ignore(event: Loading | Ready | Unavailable) -> None:
    pass


def test_it_echoes(run: Any, isolation: str, serving: Serving) -> None:
    async def main() -> None:
        async with serving(isolation=isolation, embed=True) as backend:
            assert await gather(backend.generate(ask())) == (
                ["one", " two", " three"],
                EndEvent("end", Usage(3, 0, 3)),
            )
            v2 = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("typed blocks")])])
            assert (await gather(backend.generate_v2(v2)))[0] == ["typed", " blocks"]
            assert await backend.count(CountRequest(messages=[Message("system", "a b"), Message("user", "c")])) == 3
            result = await backend.embed(EmbedRequest(input=["x", "y"]))
            assert (result.count, result.dimensions, len(result.data)) == (2, 8, 64)
            assert (await backend.health()).state == "ok"

    run(main())


def test_both_isolations_give_the_same_vectors_and_capabilities(serving: Serving) -> None:
    async def main() -> None:
        request = EmbedRequest(input=["some text", "another"])
        async with serving(embed=True, slots=3) as here, serving(embed=True, slots=3, isolation="process") as there:
            assert await here.embed(request) == await there.embed(request)
            assert here.capabilities == there.capabilities == here._runs_in.capabilities == there._runs_in.capabilities
            assert (here.capabilities.slots, here.capabilities.embedding_dimensions) == (3, 8)
            assert here.capabilities.local

    asyncio.run(main())


def test_every_sampling_option_is_supported_and_changes_nothing(isolation: str, serving: Serving) -> None:
    options: dict[str, Any] = {
        "max_tokens": 9, "temperature": 2.0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "repeat_penalty": 1.5,
        "presence_penalty": 1.0, "frequency_penalty": 1.0, "seed": 7, "stop": ["never said"],
    }  # fmt: skip

    async def main() -> None:
        async with serving(isolation=isolation) as backend:
            assert set(backend.capabilities.options) == set(options)
            request = ask(**options)
            check_supported(request, backend.capabilities)
            assert await gather(backend.generate(request)) == await gather(backend.generate(ask()))

    asyncio.run(main())


def test_what_it_cannot_do_is_unsupported(isolation: str, serving: Serving) -> None:
    async def main() -> None:
        async with serving(isolation=isolation, v2=False) as backend:
            for request in (ask(grammar='root ::= "x"'), ask(logprobs=1)):
                with pytest.raises(Unsupported):
                    check_supported(request, backend.capabilities)
            v2 = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("x")])], tools=[Tool("f", {})])
            with pytest.raises(Unsupported, match="v2"):
                await gather_raising(backend.generate_v2(v2))
            with pytest.raises(Unsupported, match="embed"):
                await backend.embed(EmbedRequest(input=["x"]))

    asyncio.run(main())


async def gather_raising(events: AsyncIterator[TokenEventV2]) -> None:
    async for _ in events:
        pass


def test_loading_takes_ready_delay_and_reports_percent(run: Any, isolation: str) -> None:
    async def main() -> None:
        seen: list[Loading | Ready | Unavailable] = []
        backend = EchoBackend("echo", EchoOptions(ready_delay="100ms", isolation=isolation))  # type: ignore[arg-type]
        began = time.monotonic()
        starting = asyncio.create_task(backend.start(seen.append))
        await asyncio.sleep(0)
        assert not backend.ready
        await starting
        assert time.monotonic() - began >= 0.09  # uvloop counts in whole milliseconds
        assert [event.percent for event in seen if isinstance(event, Loading)] == [5 * step for step in range(20)]
        await backend.stop(5)

    run(main())


def test_stop_during_start_makes_start_raise(run: Any, isolation: str) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        backend = EchoBackend("echo", EchoOptions(ready_delay="1h", isolation=isolation))  # type: ignore[arg-type]
        starting = asyncio.create_task(backend.start(lambda event: begun.set()))
        await begun.wait()
        assert (await backend.health()).state == "loading"
        await backend.stop(5)
        with pytest.raises(BackendUnavailable, match="stopped while it was loading"):
            await starting
        assert (await backend.health()).state == "stopped"

    run(main())


def test_before_start_and_after_stop_it_is_unavailable(isolation: str) -> None:
    async def main() -> None:
        backend = EchoBackend("echo", EchoOptions(isolation=isolation))  # type: ignore[arg-type]
        ready = []
        for _ in range(2):
            ready.append(backend.ready)
            assert isinstance((await gather(backend.generate(ask())))[1], BackendUnavailable)
            await backend.start(ignore)
            ready.append(backend.ready)
            await backend.stop(5)
            await backend.stop(5)
        assert ready == [False, True, False, True]

    asyncio.run(main())


def test_token_delay_is_waited_before_each_token(isolation: str, serving: Serving) -> None:
    async def main() -> None:
        async with serving(isolation=isolation, token_delay="30ms") as backend:
            began = time.monotonic()
            texts, _ = await gather(backend.generate(ask()))
            assert time.monotonic() - began >= 0.09
            assert len(texts) == 3

    asyncio.run(main())


def test_streams_at_once_wait_side_by_side(run: Any, isolation: str, serving: Serving) -> None:
    async def main() -> None:
        async with serving(isolation=isolation, token_delay="20ms", slots=8) as backend:
            begun: set[int] = set()

            async def begun_at_the_end_of(number: int) -> int:
                async for _ in backend.generate(ask("a b c d e")):
                    begun.add(number)
                return len(begun)

            assert await asyncio.gather(*map(begun_at_the_end_of, range(8))) == [8] * 8

    run(main())


# --- faults -----------------------------------------------------------------------------------------------------


def test_fault_start(run: Any, isolation: str) -> None:
    async def main() -> None:
        backend = EchoBackend("echo", EchoOptions(fault="start", isolation=isolation))  # type: ignore[arg-type]
        with pytest.raises(VestalError, match="fault = 'start'"):
            await backend.start(ignore)
        assert not backend.ready
        await backend.stop(5)

    run(main())


@pytest.mark.parametrize(("fault", "texts"), [("before", []), ("after:0", []), ("after:2", ["one", " two"])])
def test_faults_that_raise(run: Any, isolation: str, fault: str, texts: list[str], serving: Serving) -> None:
    async def main() -> None:
        async with serving(isolation=isolation, fault=fault) as backend:
            for _ in range(2):
                got, end = await gather(backend.generate(ask()))
                assert got == texts
                assert isinstance(end, BackendRefused)

    run(main())


def test_fault_hang_gives_nothing_and_can_be_cancelled(run: Any, isolation: str, serving: Serving) -> None:
    async def main() -> None:
        async with serving(isolation=isolation, fault="hang") as backend:
            hanging = asyncio.create_task(gather(backend.generate(ask())))
            assert await backend.count(CountRequest(messages=[Message("user", "others are served")])) == 3
            assert not hanging.done()
            hanging.cancel()
            assert isinstance((await asyncio.gather(hanging, return_exceptions=True))[0], asyncio.CancelledError)

    run(main())


def test_fault_ignore_stop_does_not_return_in_process_and_is_killed_in_a_worker(run: Any) -> None:
    async def main() -> None:
        here = EchoBackend("echo", EchoOptions(fault="ignore_stop"))
        await here.start(ignore)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(here.stop(0.01), 0.1)
        there = EchoBackend("echo", EchoOptions(fault="ignore_stop", isolation="process"))
        await there.start(ignore)
        await asyncio.wait_for(there.stop(0.2), 20)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    run(main())


def test_fault_crash_kills_the_worker_after_n_tokens(run: Any, serving: Serving) -> None:
    async def main() -> None:
        async with serving(isolation="process", fault="crash:2") as backend:
            texts, end = await gather(backend.generate(ask()))
            assert texts == ["one", " two"]
            assert isinstance(end, BackendCrashed)
            assert "SIGABRT" in end.message

    run(main())


# --- the reference for speed ------------------------------------------------------------------------------------


def test_a_long_answer_lets_other_tasks_run(serving: Serving) -> None:
    async def main() -> None:
        async with serving() as backend:
            turns = 0

            async def neighbour() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(neighbour())
            texts, _ = await gather(backend.generate(ask("word " * 10_000)))
            task.cancel()
            assert len(texts) == 10_000
            assert turns >= 10

    asyncio.run(main())


def test_options_of_another_adapter_are_a_bug() -> None:
    with pytest.raises(TypeError, match="expected EchoOptions, got BackendOptions"):
        EchoBackend("echo", BackendOptions())


def test_repr_is_honest() -> None:
    async def main() -> None:
        backend = EchoBackend("echo", EchoOptions(slots=2, isolation="process"))
        assert repr(backend) == "<EchoBackend <_Worker 'echo' stopped, slots=1, no process>>"
        await backend.start(ignore)
        pid = (await backend.health()).pid
        assert repr(backend) == f"<EchoBackend <_Worker 'echo' ready, slots=2, <Process pid={pid} running>>>"
        await backend.stop(5)

    asyncio.run(main())
