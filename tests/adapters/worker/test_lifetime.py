"""Every worker ends: when it is stopped, when it will not stop, when its parent dies, when nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import slack
from vestal.backend import GenerateRequest, Loading, Ready, Unavailable
from vestal.errors import BackendUnavailable
from vestal.values import Capabilities
from vestal_adapters.echo import EchoBackend, EchoOptions
from vestal_adapters.worker import wire

if TYPE_CHECKING:
    from tests.adapters.reports import Reports
    from tests.adapters.worker.conftest import PuppetBackend

Ask = Callable[..., GenerateRequest]
Gone = Callable[[int], bool]


def echo(**options: Any) -> EchoBackend:
    return EchoBackend("echo", EchoOptions(isolation="process", **options))


async def pidfd_of(backend: Any) -> int:
    pid = (await backend.health()).pid
    assert isinstance(pid, int)
    return os.pidfd_open(pid)


def no_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_stop_ends_the_worker_by_asking(run: Any, reports: type[Reports]) -> None:
    async def main() -> None:
        backend = echo()
        await backend.start(reports())
        await backend.stop(30)
        assert "exited with status 0" in repr(backend)
        assert no_children()

    run(main())


def test_a_stopped_process_is_killed_in_time(run: Any, reports: type[Reports], gone: Gone) -> None:
    async def main() -> None:
        backend = echo()
        await backend.start(reports())
        pidfd = await pidfd_of(backend)
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        began = time.monotonic()
        await backend.stop(1.0)
        assert time.monotonic() - began < 1.0 + slack()
        assert gone(pidfd)
        assert no_children()

    run(main())


def test_an_engine_that_ignores_stop_and_sigterm_is_killed_in_time(run: Any, reports: type[Reports]) -> None:
    async def main() -> None:
        backend = echo(fault="ignore_stop")
        await backend.start(reports())
        began = time.monotonic()
        await backend.stop(0.5)
        assert time.monotonic() - began < 0.5 + slack()
        assert "was killed by SIGKILL" in repr(backend)
        assert no_children()

    run(main())


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_a_timeout_of_nothing_still_kills_and_reaps(timeout: float, reports: type[Reports]) -> None:
    async def main() -> None:
        backend = echo()
        await backend.start(reports())
        await backend.stop(timeout)
        assert no_children()

    asyncio.run(main())


def test_stop_is_idempotent_and_two_at_once_agree(run: Any, reports: type[Reports]) -> None:
    async def main() -> None:
        backend = echo()
        await backend.stop(1)
        await backend.start(reports())
        await asyncio.gather(backend.stop(5), backend.stop(1))
        await backend.stop(1)
        assert no_children()
        await backend.start(reports())
        assert backend.ready
        await backend.stop(5)

    run(main())


def test_requests_that_run_at_stop_end_with_an_error(
    run: Any, reports: type[Reports], puppet: type[PuppetBackend], ask: Ask
) -> None:
    async def main() -> None:
        backend = puppet()
        await backend.start(reports())
        events = backend.generate(ask())
        await anext(events)
        stopping = asyncio.create_task(backend.stop(5))
        with pytest.raises(BackendUnavailable, match="was stopped during the request"):
            async for _ in events:
                pass
        await stopping

    run(main())


def test_stop_during_start_makes_start_raise(run: Any, reports: type[Reports]) -> None:
    async def main() -> None:
        backend, heard = echo(ready_delay="1h"), reports()
        starting = asyncio.create_task(backend.start(heard))
        await heard.until(Loading)
        assert (await backend.health()).state == "loading"
        began = time.monotonic()
        await backend.stop(60)
        assert time.monotonic() - began < slack()  # a loading worker is not asked politely
        with pytest.raises(BackendUnavailable, match="was stopped while it was loading"):
            await starting
        assert no_children()

    run(main())


def test_stop_at_any_moment_of_start_leaves_nothing(run: Any, reports: type[Reports]) -> None:
    async def main() -> None:
        for passes in range(12):
            backend = echo(ready_delay="1h")
            starting = asyncio.create_task(backend.start(reports()))
            for _ in range(passes + 1):
                await asyncio.sleep(0)
            await backend.stop(5)
            with pytest.raises(BackendUnavailable):
                await starting
            assert no_children()
            assert not backend.ready

    run(main())


def test_stop_between_the_worker_s_last_word_and_start_s_return(
    run: Any, reports: type[Reports], puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        together = wire.encode(wire.Progress(42.0)) + wire.encode(wire.Loaded(Capabilities()))
        backend = puppet(at_load="write", raw=together)
        stopping: list[asyncio.Task[None]] = []

        def report(event: Loading | Ready | Unavailable) -> None:
            if event == Loading(42.0):  # what comes with it is taken before the new task runs
                stopping.append(asyncio.create_task(backend.stop(5)))

        with pytest.raises(BackendUnavailable, match="was stopped while it was loading"):
            await backend.start(report)
        await stopping[0]
        assert no_children()
        assert not backend.ready

    run(main())


def test_a_cancelled_start_leaves_nothing(run: Any, reports: type[Reports]) -> None:
    async def main() -> None:
        for passes in range(12):
            backend, heard = echo(ready_delay="1h"), reports()
            starting = asyncio.create_task(backend.start(heard))
            if passes == 11:
                await heard.until(Loading)
            for _ in range(passes):
                await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert no_children()
            await backend.stop(1)

    run(main())


def test_stop_while_a_dead_worker_is_being_replaced(
    run: Any, reports: type[Reports], puppet: type[PuppetBackend]
) -> None:
    async def main() -> None:
        for passes in range(12):
            backend, heard = puppet(), reports()
            await backend.start(heard)
            backend._puppet = {"at_load": "sleep:3600"}
            signal.pidfd_send_signal(pidfd := await pidfd_of(backend), signal.SIGKILL)
            os.close(pidfd)
            for _ in range(passes * 3):
                await asyncio.sleep(0)
            await backend.stop(5)
            assert no_children()
            assert (await backend.health()).state == "stopped"

    run(main())


# --- no orphans -------------------------------------------------------------------------------------------------

PARENT = """
import asyncio, sys, uvloop
from vestal_adapters.echo import EchoBackend, EchoOptions

async def main():
    backend = EchoBackend("echo", EchoOptions(isolation="process", ready_delay=sys.argv[1]))
    begun = asyncio.Event()
    starting = asyncio.create_task(backend.start(lambda event: begun.set()))
    if sys.argv[1] == "0s":
        await starting
    else:
        await begun.wait()
    print((await backend.health()).pid, flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


@pytest.mark.parametrize("ready_delay", ["0s", "1h"], ids=["serving", "loading"])
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_the_worker_dies_with_its_parent(ready_delay: str, stopped: bool, gone: Gone) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, ready_delay], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        if stopped:  # neither the end of the pipe nor anything else can be noticed by the worker itself
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        parent.kill()
        assert gone(pidfd)


def test_the_end_of_the_pipe_ends_the_child() -> None:
    ours, theirs = socket.socketpair()
    with ours, child(theirs, os.getpid()) as process:
        theirs.close()
        ours.shutdown(socket.SHUT_RDWR)
        assert process.wait(20) == 0


def test_a_child_whose_parent_is_already_gone_ends_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, child(theirs, parent=1) as process:
        assert process.wait(20) == 0


def child(channel: socket.socket, parent: int) -> subprocess.Popen[bytes]:
    arguments = ["--fd", str(channel.fileno()), "--parent", str(parent)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "vestal_adapters.worker.child", *arguments], pass_fds=(channel.fileno(),)
    )


def test_a_loop_that_ends_without_stop_leaves_no_worker(gone: Gone) -> None:
    """The last line of defence: nobody called `stop`, and the interpreter goes on."""

    script = "import asyncio\n" + PARENT.partition("uvloop.run")[0].replace("await asyncio.Event().wait()", "")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", f"{script}\nasyncio.run(main())\ninput()", "0s"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        with suppress(ProcessLookupError):  # gone already
            assert gone(os.pidfd_open(worker))
        assert parent.poll() is None  # it was not the parent's end that ended it
        parent.kill()


def test_output_of_the_worker_never_blocks_it(reports: type[Reports], puppet: type[PuppetBackend]) -> None:
    """A native library that talks more than a pipe holds must not hang: its words are read and mostly dropped."""

    async def main() -> None:
        backend = puppet(at_load="chatter:1000000")
        await backend.start(reports())
        assert backend._process is not None
        assert len(backend._process.stderr.lines) <= 50
        await backend.stop(5)

    asyncio.run(main())
