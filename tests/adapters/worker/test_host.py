"""A worker that loads and serves: real processes, on both loops."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vestal.backend import (
    CountRequest,
    EmbedRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Loading,
    TextEvent,
    TokenEventV2,
)
from vestal.errors import BackendUnavailable, InternalError, InvalidRequest, Unsupported, VestalError
from vestal.values import Message, MessageV2, TextBlock
from vestal_adapters.echo import EchoBackend, EchoOptions
from vestal_adapters.worker import host
from vestal_adapters.worker.host import WorkerBackend
from vestal_adapters.worker.options import WorkerOptions
from vestal_adapters.worker.process import Process

if TYPE_CHECKING:
    from tests.adapters.reports import Reports
    from tests.adapters.worker.conftest import PuppetBackend

Ask = Callable[..., GenerateRequest]
Serving = Callable[..., Any]


def echo(**options: Any) -> EchoBackend:
    return EchoBackend("echo", EchoOptions(isolation="process", **options))


async def text_of(events: AsyncIterator[TokenEventV2]) -> str:
    return "".join([event.text async for event in events if isinstance(event, TextEvent)])


def test_a_worker_imports_nothing_from_the_directory_that_the_daemon_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: type[Reports]
) -> None:
    """It may be anybody's."""
    for name in ("argparse", "ctypes", "msgspec"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not the one that was meant')")
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        backend = echo()
        await backend.start(reports())
        await backend.stop(5)

    asyncio.run(main())


def test_a_worker_leaves_no_core_even_without_a_sandbox(puppet: type[PuppetBackend], reports: type[Reports]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("nobody here may have cores, so that a worker that wants one has none either")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    async def main() -> str:
        backend = puppet()
        backend._rules = WorkerOptions(sandbox="off")
        await backend.start(reports())
        limits = Path(f"/proc/{(await backend.health()).pid}/limits").read_text()
        await backend.stop(5)
        return limits

    try:
        limits = asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]


async def jobs_in(backend: WorkerBackend) -> int:
    """How many jobs the puppet has; asked after whatever was sent before."""
    return await backend.count(CountRequest(messages=[Message("user", "")]))


def test_start_reports_progress_that_never_falls_and_takes_the_capabilities_from_the_child(
    run: Any, reports: type[Reports], puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        backend, heard = puppet(), reports()
        ready = [backend.ready]
        await backend.start(heard)
        ready.append(backend.ready)
        assert heard.seen == [
            Loading(10, "first part"),
            Loading(90, "second part"),
            Loading(90, "an engine that counts back"),
        ]
        assert backend.capabilities.slots == 8
        await backend.stop(5)
        assert [*ready, backend.ready] == [False, True, False]

    run(main())


def test_streams_at_the_same_time_are_told_apart(run: Any, serving: Serving, ask: Ask) -> None:
    async def main() -> None:
        async with serving(echo(slots=16)) as backend:
            texts = [f"{number} " * (50 * number) + "end" for number in range(16)]
            answers = await asyncio.gather(*(text_of(backend.generate(ask(text))) for text in texts))
            assert answers == texts

    run(main())


def test_v2_embeddings_and_counts_share_the_pipe_with_streams(run: Any, serving: Serving, ask: Ask) -> None:
    async def main() -> None:
        async with serving(echo(slots=4, embed=True)) as backend:
            v2 = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("typed "), TextBlock("blocks")])])
            long = "a b c " * 500 + "d"
            first, second, counted, vectors = await asyncio.gather(
                text_of(backend.generate(ask(long))),
                text_of(backend.generate_v2(v2)),
                backend.count(CountRequest(messages=[Message("user", "four words are here")])),
                backend.embed(EmbedRequest(input=["one", "two", "one"])),
            )
            assert (first, second, counted) == (long, "typed blocks", 4)
            rows = [vectors.data[at : at + 32] for at in (0, 32, 64)]
            assert rows[0] == rows[2] != rows[1]
            assert sum(part * part for part in struct.unpack("<8f", rows[0])) == pytest.approx(1)

    run(main())


def test_leaving_a_stream_frees_its_job_in_the_worker(
    run: Any, serving: Serving, puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        async with serving(puppet()) as backend:
            left = backend.generate(ask())
            other = backend.generate(ask())
            assert [await anext(left), await anext(other)] == [TextEvent("x ")] * 2
            assert await jobs_in(backend) == 2
            await left.aclose()
            assert await jobs_in(backend) == 1
            assert await anext(other) == TextEvent("x ")
            await other.aclose()
            assert await jobs_in(backend) == 0

    run(main())


def test_cancelling_the_task_frees_the_job_and_a_fresh_request_completes(
    run: Any, serving: Serving, puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        async with serving(puppet()) as backend:
            task = asyncio.create_task(text_of(backend.generate(ask())))
            while await jobs_in(backend) == 0:
                pass
            task.cancel()
            ends = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(ends[0], asyncio.CancelledError)
            assert await jobs_in(backend) == 0
            assert await text_of(backend.generate(ask(max_tokens=2))) == "x x "

    run(main())


def test_an_embedding_that_nobody_waits_for_is_cancelled(
    run: Any, serving: Serving, puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        async with serving(puppet()) as backend:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(backend.embed(EmbedRequest(input=["never done"])), 0.05)
            assert await jobs_in(backend) == 0

    run(main())


def test_an_engine_s_refusal_reaches_the_caller_as_it_was_raised(
    run: Any, serving: Serving, puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        async with serving(puppet()) as backend:
            with pytest.raises(InvalidRequest) as caught:
                await text_of(backend.generate(ask("refuse")))
            assert (caught.value.message, caught.value.details) == ("not this one", {"field": "messages"})
            assert await text_of(backend.generate(ask(max_tokens=3))) == "x x x "

    run(main())


def test_a_bug_in_submit_costs_that_job_internal_and_quotes_no_prompt(
    run: Any, serving: Serving, puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        async with serving(puppet()) as backend:
            neighbour = backend.generate(ask())
            await anext(neighbour)
            with pytest.raises(InternalError) as caught:
                await text_of(backend.generate(ask("bug")))
            assert "KeyError at puppets.py:" in caught.value.message
            assert "prompt" not in str(caught.value)
            assert await anext(neighbour) == TextEvent("x ")
            await neighbour.aclose()

    run(main())


def test_a_bug_in_step_costs_every_job_internal_and_not_the_worker(
    run: Any, serving: Serving, puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        async with serving(puppet(at_step="raise:bug")) as backend:
            pid = (await backend.health()).pid
            ends = await asyncio.gather(*(text_of(backend.generate(ask())) for _ in range(3)), return_exceptions=True)
            assert [type(end) for end in ends] == [InternalError] * 3
            assert "prompt" not in str(ends)
            assert await jobs_in(backend) == 0
            assert (await backend.health()).pid == pid

    run(main())


@pytest.mark.parametrize("wrong", ["surrogate", "usage", "prompt"])
def test_an_event_that_cannot_be_carried_or_meant_costs_only_its_job(
    wrong: str, serving: Serving, puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        async with serving(puppet("Impossible")) as backend:
            neighbour = backend.generate(ask("fine"))
            await anext(neighbour)
            with pytest.raises(InternalError):
                await text_of(backend.generate(ask(wrong)))
            assert await anext(neighbour) == TextEvent("x ")
            await neighbour.aclose()
        assert (await backend.health()).restarts == 0

    asyncio.run(main())


def test_what_the_engine_cannot_do_is_unsupported(run: Any, serving: Serving, ask: Ask) -> None:
    async def main() -> None:
        async with serving(echo(v2=False, embed=False)) as backend:
            with pytest.raises(Unsupported, match="v2"):
                await text_of(backend.generate_v2(GenerateRequestV2(messages=[MessageV2("user", [TextBlock("x")])])))
            with pytest.raises(Unsupported, match="embed"):
                await backend.embed(EmbedRequest(input=["x"]))

    run(main())


def test_nothing_is_run_before_start_and_after_stop(reports: type[Reports], ask: Ask) -> None:
    async def main() -> None:
        backend = echo(embed=True)
        for _ in range(2):
            with pytest.raises(BackendUnavailable):
                await text_of(backend.generate(ask()))
            with pytest.raises(BackendUnavailable):
                await backend.embed(EmbedRequest(input=["x"]))
            with pytest.raises(BackendUnavailable):
                await backend.count(CountRequest(messages=[]))
            assert (await backend.health()).state == "stopped"
            await backend.start(reports())
            await backend.stop(5)

    asyncio.run(main())


def test_health_names_the_process_and_tells_whether_it_answers(
    run: Any, serving: Serving, puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        async with serving(puppet(at_step="sleep:3600")) as backend:
            idle = await backend.health()
            assert (idle.state, idle.restarts) == ("ok", 0)
            assert idle.pid is not None
            assert "answered in" in idle.detail
            stuck = asyncio.create_task(text_of(backend.generate(ask())))
            while "answered in" in (busy := await backend.health()).detail:
                pass  # the question may overtake the step
            assert (busy.state, busy.pid) == ("ok", idle.pid)
            assert "did not answer" in busy.detail
            stuck.cancel()
            await asyncio.gather(stuck, return_exceptions=True)

    run(main())


def test_the_child_inherits_an_allow_list_and_what_the_adapter_adds(
    serving: Serving, puppet: type[PuppetBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTER_KEY", "sk-secret")
    monkeypatch.setenv("LC_TIME", "C.UTF-8")

    async def main() -> None:
        async with serving(puppet(at_load="show")) as backend:
            names = json.loads(backend.capabilities.model)
            assert "CLUSTER_KEY" not in names
            assert {"PATH", "LC_TIME", "PYTHONPATH"} <= set(names)

    asyncio.run(main())


def test_ctrl_c_at_the_terminal_does_not_reach_the_worker(serving: Serving, puppet: type[PuppetBackend]) -> None:
    async def main() -> None:
        async with serving(puppet()) as backend:
            pid = (await backend.health()).pid
            assert pid is not None
            assert os.getpgid(pid) != os.getpgid(0)
            os.kill(pid, signal.SIGINT)
            assert await jobs_in(backend) == 0
            assert (await backend.health()).pid == pid

    asyncio.run(main())


# --- loading that fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_load", "words"),
    [
        ("kill:9", "was killed by SIGKILL while loading the model: likely out of memory"),
        ("kill:6", "aborted (SIGABRT) while loading the model"),
        ("kill:11", "crashed (SIGSEGV) while loading the model"),
        ("exit:3", "exited with status 3 while loading the model (its last words: file not readable: …/x)"),
        ("raise:vestal", "the model is of a family that nobody knows (take another one)"),
        ("raise:bug", "engine puppets:Puppet failed to load: KeyError at puppets.py"),
        ("shut", "closed its pipe"),
    ],
)
def test_a_load_that_fails_says_why(
    run: Any, at_load: str, words: str, reports: type[Reports], puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        backend, heard = puppet(at_load=at_load), reports()
        with pytest.raises(VestalError) as caught:
            await backend.start(heard)
        assert words in str(caught.value)
        assert heard.seen == [Loading(10, "first part")]
        health = await backend.health()
        assert (health.state, health.pid) == ("stopped", None)
        await backend.stop(5)

    run(main())


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("no_such_module:Engine", "needs the Python module 'no_such_module', which is not installed"),
        ("puppets:NoSuchEngine", "AttributeError"),
        ("puppets:PuppetOptions", "is not an Engine"),
        ("puppets", "ValueError|AttributeError"),
    ],
)
def test_an_engine_that_cannot_be_imported_says_why(
    engine: str, words: str, reports: type[Reports], puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        backend = puppet()
        backend.engine = engine
        with pytest.raises(VestalError, match=words):
            await backend.start(reports())

    asyncio.run(main())


def test_options_the_engine_does_not_know_are_an_error(reports: type[Reports], puppet: type[PuppetBackend]) -> None:
    async def main() -> None:
        with pytest.raises(VestalError, match="unknown field `nonsense`"):
            await puppet(nonsense=1).start(reports())

    asyncio.run(main())


def test_a_second_start_is_refused(serving: Serving, reports: type[Reports], puppet: type[PuppetBackend]) -> None:
    async def main() -> None:
        async with serving(puppet()) as backend:
            with pytest.raises(InternalError, match="cannot go from ready to loading"):
                await backend.start(reports())
            assert backend.ready

    asyncio.run(main())


def test_the_stream_s_end_is_its_last_event(serving: Serving, ask: Ask) -> None:
    async def main() -> None:
        async with serving(echo()) as backend:
            events = [event async for event in backend.generate(ask("a b", max_tokens=1))]
            assert events[0] == TextEvent("a")
            assert isinstance(events[1], EndEvent)
            assert (events[1].stop_reason, len(events)) == ("length", 2)

    asyncio.run(main())


def test_a_worker_that_is_dead_before_it_is_told_anything_says_how_it_died(
    run: Any, puppet: type[PuppetBackend], reports: type[Reports], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[dict[str, Any]] = []

    def dead_process(arguments: list[str], environment: Any) -> Process:
        process = Process(arguments, environment)
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        backend = puppet()
        with pytest.raises(VestalError, match="was killed by SIGKILL while loading the model"):
            await backend.start(reports())
        del backend
        gc.collect()  # a future whose exception nobody has asked for complains when it goes

    monkeypatch.setattr(host, "Process", dead_process)
    run(main())
    assert faults == []
