"""The daemon's life when something goes wrong in the middle of it: what was started is stopped, and the reason told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.inside import END, Scripted, daemon, scripted_backends
from vestal.errors import VestalError
from vestald.app import App
from vestald.config import AuditConfig, Config, DaemonConfig, Duration
from vestald.entrance.sockets import RuntimeDir
from vestald.failures import AlreadyRunning, BackendAbandoned, BackendFailed, BadConfiguration


class Life:
    """An `App` in `directory`, run to its end."""

    def __init__(self, directory: Path, *backends: Scripted, drain_deadline: float = 1.0) -> None:
        daemon = DaemonConfig(str(directory), Duration(drain_deadline), Duration(5))
        config = Config(daemon=daemon, audit=AuditConfig(enabled=False))
        with scripted_backends(*backends):
            self.app = App(config)
        self.states: list[str] = []
        self.app.house.events.subscribe(self._note)

    def _note(self, _seq: int, kind: str, facts: dict[str, Any]) -> None:
        if kind == "daemon_state":
            self.states.append(facts["state"])

    async def run(self) -> None:
        async with asyncio.timeout(10):
            await self.app.run()


def play(make: Callable[[], Any]) -> None:
    asyncio.run(make())


def test_a_life_without_incident(short_dir: Path) -> None:
    async def main() -> None:
        life = Life(short_dir, Scripted())
        life.app.house.events.subscribe(
            lambda _s, _k, facts: life.app.request_stop(None, "test") if facts.get("state") == "ready" else None
        )
        await life.run()
        assert life.states[0] == "loading"
        assert life.states[-2:] == ["stopping", "stopped"]
        assert list(short_dir.iterdir()) == []

    play(main)


def test_a_stop_before_loading_has_begun_loads_nothing(short_dir: Path) -> None:
    async def main() -> None:
        backend = Scripted()
        life = Life(short_dir, backend)
        asyncio.get_running_loop().call_soon(life.app.request_stop, None, "a signal")
        await life.run()
        assert life.states == ["stopping", "stopped"]
        assert backend.starts == 0

    play(main)


@pytest.mark.parametrize("fault", [VestalError("no memory"), RuntimeError("oops")])
def test_a_backend_that_fails_ends_the_life_and_the_others_are_stopped(short_dir: Path, fault: Exception) -> None:
    async def main() -> None:
        stopped: list[str] = []

        async def bad(_report: Any) -> None:
            raise fault

        async def stop(_timeout: float) -> None:
            stopped.append("good")

        life = Life(short_dir, Scripted(name="good", stop=stop), Scripted(name="bad", start=bad))
        with pytest.raises(BackendFailed, match="bad"):
            await life.run()
        assert life.states == ["loading", "failed", "stopped"]
        assert stopped == ["good"]
        assert list(short_dir.iterdir()) == []
        RuntimeDir.open(short_dir).close()  # the lock is free

    play(main)


def test_a_gate_that_cannot_be_opened_ends_the_life_and_stops_what_was_loaded(short_dir: Path) -> None:
    async def main() -> None:
        stopped: list[float] = []

        async def start(_report: Any) -> None:
            (short_dir / "infer.sock").write_text("in the way, since the daemon looked")

        async def stop(timeout: float) -> None:
            stopped.append(timeout)

        life = Life(short_dir, Scripted(start=start, stop=stop))
        with pytest.raises(BadConfiguration, match=r"infer\.sock exists"):
            await life.run()
        assert len(stopped) == 1
        assert [path.name for path in short_dir.iterdir()] == ["infer.sock"]

    play(main)


def test_whatever_goes_wrong_what_was_loaded_is_stopped(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stopped: list[float] = []

        async def stop(timeout: float) -> None:
            stopped.append(timeout)

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        life = Life(short_dir, Scripted(stop=stop))
        monkeypatch.setattr(life.app, "_open_gate", broken)
        with pytest.raises(ZeroDivisionError):
            await life.run()
        assert len(stopped) == 1
        assert list(short_dir.iterdir()) == []

    play(main)


def test_backends_that_can_do_nothing_open_no_gate(short_dir: Path) -> None:
    async def main() -> None:
        with pytest.raises(BackendFailed, match="no backend can generate or embed"):
            await Life(short_dir, Scripted(generate=False)).run()

    play(main)


def test_a_backend_that_will_not_stop_is_named(short_dir: Path) -> None:
    async def main() -> None:
        async def stop(_timeout: float) -> None:
            await asyncio.get_running_loop().create_future()

        life = Life(short_dir, Scripted(name="stuck", stop=stop), Scripted(name="fine"), drain_deadline=0.1)
        life.app.house.events.subscribe(
            lambda _s, _k, facts: life.app.request_stop(None, "test") if facts.get("state") == "ready" else None
        )
        with pytest.raises(BackendAbandoned, match=r"did not stop within 0\.1 s .* backend stuck") as abandoned:
            await life.run()
        assert abandoned.value.exit_code == 70
        assert life.states[-1] == "stopped"

    play(main)


def test_a_second_life_in_one_directory_is_refused_and_touches_nothing(short_dir: Path) -> None:
    async def main() -> None:
        async def script(_request: Any) -> Any:
            yield END

        async with daemon(short_dir, Scripted(script)) as inside:
            with pytest.raises(AlreadyRunning):
                await Life(short_dir, Scripted()).run()
            caller = await inside.call()
            caller.ask(1)
            assert (await caller.done(1)).stop_reason == "end"

    play(main)
