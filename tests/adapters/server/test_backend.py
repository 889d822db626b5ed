"""A server's life under supervision: started, asked, killed, frozen, deaf, flooding, started again, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vestal.backend import Loading, Ready, TextEvent, Unavailable
from vestal.durations import parse_duration
from vestal.errors import BackendCrashed, BackendUnavailable, VestalError
from vestal_adapters.remote.openai.options import OpenAIOptions
from vestal_adapters.server.backend import ServerBackend
from vestal_adapters.server.options import ServerOptions
from vestal_adapters.server.output import RotatedLog
from vestal_adapters.server.process import ServerProcess
from vestal_adapters.worker.process import StderrTail
from vestal_adapters.worker.sandbox import landlock

ROOT = Path(__file__).parents[3]


def kernel_version() -> int:
    try:
        return landlock.version()
    except OSError:
        return 0


NEEDS_LANDLOCK = pytest.mark.skipif(kernel_version() < 6, reason="a kernel whose Landlock is older than version 6")


def gone(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended, waiting up to ten seconds for it."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = bool(poll.poll(10_000))
    os.close(pidfd)
    return ended


@pytest.mark.parametrize("place", ["socket", "port"])
def test_it_serves_on_its_socket_or_port_and_leaves_nothing(serving: Any, said: Any, homes: Path, place: str) -> None:
    async def run() -> None:
        async with serving(place=place) as (backend, _):
            assert backend.ready
            assert await said(backend, "one two") == "one two "
            health = await backend.health()
            assert (health.state, health.restarts) == ("ok", 0)
            assert "it answered in" in health.detail
            assert str(homes) not in health.detail
            pidfd = os.pidfd_open(int(await said(backend, "pid")))
            assert len(list(homes.iterdir())) == 1
            assert not (next(homes.iterdir()) / "key").exists()
        assert not backend.ready
        assert gone(pidfd)
        assert list(homes.iterdir()) == []

    asyncio.run(run())


def test_its_environment_is_an_allow_list_the_table_and_the_named(
    serving: Any, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET", "s")
    monkeypatch.setenv("PUPPET_NAMED", "n")

    async def run() -> tuple[dict[str, str], list[str]]:
        async with serving(inherit=["PUPPET_NAMED"], environment={"PUPPET_GIVEN": "g"}) as (backend, _):
            return json.loads(await said(backend, "environment")), json.loads(await said(backend, "arguments"))

    environment, arguments = asyncio.run(run())
    assert (environment["PUPPET_NAMED"], environment["PUPPET_GIVEN"]) == ("n", "g")
    assert "AWS_SECRET" not in environment
    assert len(environment["PUPPET_KEY"]) > 40
    assert environment["PUPPET_KEY"] not in arguments


def test_a_named_variable_that_is_not_set_is_said(puppet: Any) -> None:
    with pytest.raises(VestalError, match="PUPPET_MISSING is not set"):
        asyncio.run(puppet(inherit=["PUPPET_MISSING"]).start(lambda _: None))


@pytest.mark.usefixtures("quick_restarts")
def test_a_killed_server_costs_each_request_one_error_and_comes_back(serving: Any, ask: Any, said: Any) -> None:
    async def run() -> None:
        async with serving() as (backend, reports):
            pid = int(await said(backend, "pid"))
            streams = [backend.generate(ask("hold")) for _ in range(3)]
            for stream in streams:
                assert isinstance(await anext(stream), TextEvent)
            os.kill(pid, signal.SIGKILL)
            for stream in streams:
                with pytest.raises(BackendCrashed, match=r"the server of backend 'served' was killed by SIGKILL"):
                    await anext(stream)
                assert isinstance(reports.seen[-1], Unavailable | Ready)  # said before any request heard of it
            lost = await reports.until(Unavailable)
            assert lost.recovering
            assert (await reports.until(Ready)).renewed  # the failures of the old one say nothing about it
            assert int(await said(backend, "pid")) != pid
            health = await backend.health()
            assert (health.state, health.restarts) == ("ok", 1)

    asyncio.run(run())


@pytest.mark.usefixtures("quick_restarts")
def test_a_death_is_noticed_also_where_the_kernel_reaps(serving: Any, said: Any) -> None:
    """Which it does for a process that ignores SIGCHLD, and that is inherited from whoever started it."""

    async def run() -> None:
        async with serving() as (backend, reports):
            os.kill(int(await said(backend, "pid")), signal.SIGKILL)
            await reports.until(Unavailable)
            await reports.until(Ready)

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        asyncio.run(run())
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("quick_restarts")
def test_the_cause_is_told_in_words(serving: Any, ask: Any) -> None:
    async def run() -> None:
        async with serving() as (backend, reports):
            with pytest.raises(BackendCrashed, match=r"aborted \(SIGABRT\).*\(a check in llama.cpp failed\)"):
                [event async for event in backend.generate(ask("abort"))]
            assert "GGML_ASSERT" not in (await reports.until(Unavailable)).reason

    asyncio.run(run())


@pytest.mark.usefixtures("quick_restarts")
def test_a_server_that_takes_its_time_to_end_is_still_the_cause(serving: Any, ask: Any) -> None:
    """Its connections close before its memory is freed."""

    async def run() -> None:
        async with serving() as (backend, _):
            with pytest.raises(BackendCrashed, match=r"aborted \(SIGABRT\)"):
                [event async for event in backend.generate(ask("linger"))]

    asyncio.run(run())


@pytest.mark.usefixtures("quick_restarts")
def test_while_it_is_away_requests_are_told_so(serving: Any, ask: Any, said: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving("--at-start", f"once:{tmp_path}/marker", sandbox="off") as (backend, reports):
            os.kill(int(await said(backend, "pid")), signal.SIGKILL)
            while (await reports.until(Unavailable)).recovering:
                with pytest.raises(BackendUnavailable, match=r"is (recovering|failed)"):
                    await anext(backend.generate(ask("one")))
            with pytest.raises(BackendUnavailable, match="given up after 5 restarts in 60 s"):
                await anext(backend.generate(ask("one")))
            assert (await backend.health()).state == "unavailable"

    asyncio.run(run())


@pytest.mark.usefixtures("quick_restarts")
def test_a_frozen_server_is_found_out_and_replaced(serving: Any, ask: Any, said: Any) -> None:
    async def run() -> None:
        async with serving(heartbeat="1s") as (backend, reports):
            pid = int(await said(backend, "pid"))
            stream = backend.generate(ask("freeze"))
            await anext(stream)
            await stream.aclose()
            assert "gave no answer for 1 s" in (await reports.until(Unavailable)).reason
            await reports.until(Ready)
            assert int(await said(backend, "pid")) != pid

    asyncio.run(run())


@pytest.mark.parametrize("deed", ["deaf", ""])
def test_stopping_kills_what_does_not_hear_and_all_that_it_made(serving: Any, said: Any, ask: Any, deed: str) -> None:
    async def run() -> None:
        async with serving("--at-start", deed) as (backend, _):
            pidfds = [os.pidfd_open(int(await said(backend, what))) for what in ("pid", "offspring")]
            held = backend.generate(ask("hold"))
            await anext(held)
            await backend.stop(1.0)
            with pytest.raises(BackendUnavailable, match="was stopped during the request"):
                await anext(held)
            assert all(gone(pidfd) for pidfd in pidfds)

    asyncio.run(run())


@pytest.mark.parametrize(("deed", "ends_by"), [("", signal.SIGINT), ("busy", signal.SIGTERM), ("deaf", signal.SIGKILL)])
def test_a_stop_interrupts_then_terminates_then_kills(serving: Any, deed: str, ends_by: int) -> None:
    """Each signal only if the one before was not enough: half of what is left of the timeout is given to each."""

    async def run() -> int:
        async with serving("--at-start", deed) as (backend, _):
            process = backend._process
            await backend.stop({"deaf": 1.0, "busy": 4.0}.get(deed, 20.0))
            return int(process.returncode)

    assert asyncio.run(run()) == -ends_by


def test_a_daemon_in_the_background_of_a_shell_does_not_hand_its_deafness_down(serving: Any) -> None:
    async def run() -> int:
        async with serving() as (backend, _):
            process = backend._process
            await backend.stop(20)
            return int(process.returncode)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert asyncio.run(run()) == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("quick_restarts")
def test_what_a_killed_server_made_is_ended_with_it(serving: Any, said: Any) -> None:
    async def run() -> None:
        async with serving() as (backend, reports):
            pidfd = os.pidfd_open(int(await said(backend, "offspring")))
            os.kill(int(await said(backend, "pid")), signal.SIGKILL)
            await reports.until(Ready)
            assert gone(pidfd)

    asyncio.run(run())


@pytest.mark.usefixtures("quick_restarts")
def test_a_frozen_server_that_is_never_without_a_request_is_found_out_by_the_next(serving: Any, ask: Any) -> None:
    """One that may answer nothing while it is busy is not asked meanwhile, and clients give up before it does."""

    async def run() -> None:
        async with serving(slots=1, heartbeat="1s") as (backend, reports):
            asked = backend.generate(ask("freeze"))
            await anext(asked)
            await asked.aclose()
            with pytest.raises(BackendCrashed, match="gave no answer for 1 s"):
                while True:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.6):
                            await anext(backend.generate(ask("one")))
            await reports.until(Ready)

    asyncio.run(run())


def test_a_slow_start_is_waited_for_with_its_reason(serving: Any) -> None:
    async def run() -> None:
        async with serving("--at-start", "slow") as (backend, reports):
            assert backend.ready
            assert any(isinstance(seen, Loading) and "Loading model" in seen.detail for seen in reports.seen)

    asyncio.run(run())


@pytest.mark.parametrize(("deed", "why"), [("never", r": .*Loading model"), ("mute", ": .*cannot be reached")])
def test_a_start_has_a_deadline(puppet: Any, homes: Path, deed: str, why: str) -> None:
    async def run() -> None:
        backend = puppet("--at-start", deed, ready_timeout="6s")
        with pytest.raises(VestalError, match=rf"did not serve within 6 s of its start{why}"):
            await backend.start(lambda _: None)
        assert backend._process.returncode == -signal.SIGKILL
        assert list(homes.iterdir()) == []
        await backend.stop(1)

    asyncio.run(run())


def test_a_start_that_fails_is_told_with_cause_and_last_words(puppet: Any, homes: Path) -> None:
    async def run() -> None:
        with pytest.raises(
            VestalError, match=r"status 3 while loading .*\(its port was taken by somebody else\)"
        ) as no:
            await puppet("--at-start", "fail").start(lambda _: None)
        assert no.value.hint == "its last words: bind: Address already in use"

    asyncio.run(run())
    assert list(homes.iterdir()) == []


def test_a_stop_while_it_loads_ends_it(puppet: Any, homes: Path) -> None:
    async def run() -> None:
        backend, loading = puppet("--at-start", "never"), asyncio.Event()
        starting = asyncio.create_task(backend.start(lambda _: loading.set()))
        await loading.wait()
        await backend.stop(5)
        with pytest.raises(BackendUnavailable, match="stopped while it was loading"):
            await starting
        assert not backend.ready

    asyncio.run(run())
    assert list(homes.iterdir()) == []


def test_a_flood_blocks_nobody_and_is_kept_within_bounds(serving: Any, said: Any, tmp_path: Path) -> None:
    log = tmp_path / "served.log"

    async def run() -> None:
        async with serving("--at-start", "flood", log_file=str(log)) as (backend, _):
            assert await said(backend, "one") == "one "
            assert backend._process.stderr.lines[-1] == "end of the flood"
            assert log.read_bytes().endswith(b"end of the flood\n")

    asyncio.run(run())
    sizes = {found.name: found.stat().st_size for found in tmp_path.glob("served.log*")}
    assert sizes["served.log.1"] > RotatedLog.SIZE - 65_536
    assert 26_000_000 < sum(sizes.values()) < 27_000_000


def test_nothing_of_its_output_is_on_disk_unasked(serving: Any, said: Any, homes: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving() as (backend, _):
            await said(backend, "one")
            assert [path.name for path in homes.glob("*/*")] == ["api.sock"]

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_not_there_or_may_be_changed_by_anybody_is_not_run(puppet: Any, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    for binary, why in ((str(program), "may be changed by anybody"), ("no-such-program", "no program .* on PATH")):
        with pytest.raises(VestalError, match=why):
            asyncio.run(puppet(binary=binary).start(lambda _: None))


def test_a_program_that_cannot_be_run_is_said_by_the_launcher(puppet: Any, tmp_path: Path, homes: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no program")
    program.chmod(0o755)
    with pytest.raises(VestalError, match="cannot be run: Exec format error"):
        asyncio.run(puppet(binary=str(program)).start(lambda _: None))
    assert list(homes.iterdir()) == []


@NEEDS_LANDLOCK
@pytest.mark.parametrize("sandbox", ["required", "off"])
@pytest.mark.parametrize("place", ["socket", "port"])
def test_what_its_sandbox_keeps_it_from(serving: Any, said: Any, tmp_path: Path, sandbox: str, place: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    with socket.create_server(("127.0.0.1", 0)) as neighbour:
        port = str(neighbour.getsockname()[1])
        table = {"PUPPET_NEIGHBOUR": port, "PUPPET_FILE": str(secret)}

        async def run() -> tuple[dict[str, str], Any, str]:
            async with serving(place=place, sandbox=sandbox, environment=table) as (backend, _):
                health = await backend.health()
                status = Path(f"/proc/{health.pid}/status").read_text()
                return json.loads(await said(backend, "forbidden")), health, status

        tries, health, status = asyncio.run(run())
    if sandbox == "off":
        assert set(tries.values()) == {"done"}
        assert health.unsandboxed == ('everything: sandbox = "off"',)
        return
    assert set(tries.values()) == {"PermissionError"}, tries
    assert [layer.partition("/")[0] for layer in health.sandbox] == [
        "no_new_privs",
        "limits",
        "capabilities",
        "landlock",
    ]
    assert [layer.partition(":")[0] for layer in health.unsandboxed] == ["undumpable", "seccomp"]
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status


def test_it_dies_with_the_daemon(homes: Path) -> None:
    """As the launcher, whose tie to its parent outlives its exec."""
    program = (
        "import asyncio, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from tests.adapters.server.puppets import made\n"
        "async def run():\n"
        "    backend = made()\n"
        "    await backend.start(lambda _: None)\n"
        "    print(backend._process.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(run())\n"
    )

    async def run() -> None:
        command = [sys.executable, "-c", program, str(ROOT)]
        parent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(await parent.stdout.readline()))
        parent.kill()
        await parent.wait()
        assert gone(pidfd)

    asyncio.run(run())
    assert [path.name for path in homes.glob("*/*")] == ["api.sock"]  # swept by the next: see test_home


def test_a_group_whose_leader_was_reaped_is_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        ends: list[None] = []
        process = ServerProcess(StderrTail(), lambda: ends.append(None))
        process.channel.close()  # no plan will come
        await process.ended()
        assert len(ends) == 1
        monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("a group that may be anybody's was signalled"))
        process.kill()
        process.terminate()
        assert process.reap()
        assert len(ends) == 1

    asyncio.run(run())


def test_a_server_that_lives_and_cannot_be_reached_is_replaced(
    serving: Any, ask: Any, said: Any, quick_restarts: None, homes: Path
) -> None:
    async def run() -> None:
        async with serving() as (backend, reports):
            pid = int(await said(backend, "pid"))
            next(homes.glob("*/api.sock")).unlink()
            with pytest.raises(BackendCrashed, match="runs, and cannot be reached"):
                await anext(backend.generate(ask("one")))
            await reports.until(Ready)
            assert int(await said(backend, "pid")) != pid

    asyncio.run(run())


def test_a_prompt_may_take_as_long_as_an_answer_where_a_heartbeat_sees_that_the_server_lives() -> None:
    """On few cores a long one takes longer than a server elsewhere may be silent."""
    watched = ServerOptions(profile="llama-server", model="m")
    blind = ServerOptions(profile="llama_cpp.server", model="m")
    longest, other = (
        parse_duration(ServerBackend("served", options)._inner_options(8080, Path("key")).first_byte_timeout)
        for options in (watched, blind)
    )
    assert longest == parse_duration(OpenAIOptions(preset="llamacpp").total_timeout)
    assert other < longest


def test_the_examination_finds_program_and_model() -> None:
    options = ServerOptions(profile="llama-server", model="/no/such.gguf", binary="/no/llama-server")
    found = ServerBackend.examine(options, running=False, thorough=False)
    assert [(finding.about, finding.level) for finding in found] == [("program", "fail"), ("model", "fail")]
