"""Real servers with the small model: `llama_cpp.server` from PyPI, and `llama-server` where there is one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import vestal
from tests.adapters.server.real import PROFILES, made, table
from tests.e2e.harness import Daemon, toml
from vestal.backend import Ready, TextEvent, Unavailable
from vestal.errors import BackendCrashed, VestalError

pytestmark = [pytest.mark.model, pytest.mark.timeout(300), pytest.mark.parametrize("profile", PROFILES)]


@pytest.fixture(autouse=True)
def store(model_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESTAL_HOME", str(model_home))


@pytest.mark.usefixtures("quick_restarts")
def test_a_kill_in_the_middle_is_one_error_and_then_another_server(profile: str, ask: Any, reports: Any) -> None:
    async def run() -> None:
        backend, seen = made(profile), reports()
        await backend.start(seen)
        try:
            assert backend.capabilities.model == "smollm2-135m"
            stream = backend.generate(ask("Write a long story."))
            assert isinstance(await anext(stream), TextEvent)
            health = await backend.health()
            assert health.pid is not None
            assert [layer.partition("/")[0] for layer in health.sandbox][-1] == "landlock"
            os.kill(health.pid, signal.SIGKILL)
            with pytest.raises(BackendCrashed, match="was killed by SIGKILL"):
                [event async for event in stream]
            assert isinstance(await seen.until(Unavailable), Unavailable)
            await seen.until(Ready)
            assert (await backend.health()).restarts == 1
        finally:
            await backend.stop(10)

    asyncio.run(run())


def test_its_key_is_asked_for(profile: str) -> None:
    """Another process of this machine that finds the server is not served."""

    async def run() -> int:
        backend = made(profile)
        await backend.start(lambda _: None)
        try:
            assert backend._running is not None
            assert backend._running.inner is not None
            options = backend._running.inner.remote
            connector = aiohttp.UnixConnector(options.unix_socket) if options.unix_socket else None
            async with aiohttp.ClientSession(connector=connector) as session:
                body = {"messages": [{"role": "user", "content": "Hi"}]}
                async with session.post(f"{options.url}/chat/completions", json=body) as response:
                    return response.status
        finally:
            await backend.stop(10)

    assert asyncio.run(run()) == 401


def test_a_file_that_is_not_the_one_that_was_stored_is_not_served(
    profile: str, model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "store"
    shutil.copytree(model_home, home, symlinks=True)
    monkeypatch.setenv("VESTAL_HOME", str(home))
    (blob,) = (home / "blobs").glob("sha256-b179c9523d0e*")
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(50_000_000)
        file.write(b"changed")
    with pytest.raises(VestalError, match="is not what was stored"):
        asyncio.run(made(profile).start(lambda _: None))


def test_through_the_daemon_with_a_kill_while_others_wait(profile: str, short_dir: Path, model_home: Path) -> None:
    served = {"name": "served", "adapter": "server", **table(profile, slots=1, context_length=1024)}
    environ = {"VESTAL_HOME": str(model_home), "XDG_RUNTIME_DIR": str(short_dir)}
    daemon = Daemon(short_dir, toml(served), environ=environ)
    try:
        daemon.ready()
        asyncio.run(_killed_while_others_wait(daemon))
        assert daemon.stop() == 0
        assert list(short_dir.glob("vestal-server-*")) == []
        assert "Traceback" not in daemon.stderr
    finally:
        daemon.kill()


async def _killed_while_others_wait(daemon: Daemon) -> None:
    async with vestal.AsyncClient(runtime_dir=daemon.runtime_dir) as client:
        stream = aiter(client.stream("Write a long story.", temperature=0))
        await anext(stream)
        waiting = [asyncio.create_task(client.generate("Say hi.", max_tokens=4)) for _ in range(2)]
        while len(daemon.queue().entries) != 3:
            await asyncio.sleep(0)  # the daemon was asked: now the requests may leave
        os.kill(daemon.backend("served").pid or 0, signal.SIGKILL)
        with pytest.raises(vestal.BackendCrashed, match="was killed by SIGKILL"):
            [part async for part in stream]
        for answer in await asyncio.gather(*waiting):
            assert answer.backend == "served"
            assert answer.usage.output_tokens > 0
