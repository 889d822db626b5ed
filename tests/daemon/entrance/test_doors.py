"""Doors: which sockets exist follows what is wanted, whatever the order in which it is asked for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest

from vestal.connection import SocketKind
from vestald.entrance.doors import Doors
from vestald.entrance.listener import Listener
from vestald.events import EventHub
from vestald.failures import BadConfiguration


class Session(asyncio.Protocol):
    """Says back what it hears."""

    def __init__(self, gone: asyncio.Event) -> None:
        self._gone = gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()


class House:
    """Doors in a directory, and what was told of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.paths: dict[str, Path] = {}
        self.faults: dict[str, str] = {}
        self.gone = asyncio.Event()
        self.before_bind: Callable[[], Awaitable[None]] | None = None
        hub = EventHub()
        hub.subscribe(lambda _seq, kind, facts: self.told.append((kind, facts)))
        self.doors = Doors(self._bind, self.paths, self.faults, hub)

    async def _bind(self, kind: SocketKind) -> Listener:
        listener = await Listener.open(self.directory / f"{kind}.sock", 0o600, None, lambda: Session(self.gone))
        if self.before_bind is not None:
            await self.before_bind()
        return listener

    async def follow(self, *wanted: SocketKind) -> None:
        self.doors.follow(wanted)
        if self.doors._following is not None:
            await self.doors._following

    @property
    def there(self) -> set[str]:
        names = {path.stem for path in self.directory.iterdir()}
        assert names == self.paths.keys()
        return names


@pytest.fixture
def play(short_dir: Path) -> Callable[[Callable[[House], Awaitable[None]]], None]:
    def run(scene: Callable[[House], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(10):
                await scene(house := House(short_dir))
                house.doors.close()
                assert house.there == set()

        asyncio.run(main())

    return run


def test_embed_is_there_before_infer_is(play: Any) -> None:
    async def scene(house: House) -> None:
        await house.doors.settle({"infer", "embed"})
        assert house.told == [("socket_opened", {"socket": "embed"}), ("socket_opened", {"socket": "infer"})]
        assert house.there == {"infer", "embed"}

    play(scene)


def test_doors_follow_what_is_wanted(play: Any) -> None:
    async def scene(house: House) -> None:
        steps: list[list[SocketKind]] = [["infer"], ["infer", "embed"], ["embed"], [], ["infer"]]
        for wanted in steps:
            await house.follow(*wanted)
            assert house.there == set(wanted)

    play(scene)


def test_a_door_that_is_not_wanted_any_more_when_it_is_bound_is_not_opened(play: Any) -> None:
    async def scene(house: House) -> None:
        binding, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> None:
            binding.set()
            await go_on.wait()

        house.before_bind = slowly
        opening = asyncio.ensure_future(house.doors.settle({"infer"}))
        await binding.wait()
        house.doors.follow({"embed"})
        go_on.set()
        await opening
        while house.paths.keys() != {"embed"}:
            await asyncio.sleep(0)
        assert house.there == {"embed"}
        assert ("socket_opened", {"socket": "infer"}) not in house.told

    play(scene)


def test_who_has_connected_is_let_in_and_stays_though_the_door_goes(play: Any) -> None:
    async def scene(house: House) -> None:
        await house.doors.settle({"infer"})
        reader, writer = await asyncio.open_unix_connection(house.directory / "infer.sock")
        await house.follow()
        with pytest.raises(FileNotFoundError), socket.socket(socket.AF_UNIX) as late:
            late.connect(str(house.directory / "infer.sock"))
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()
        await house.gone.wait()

    play(scene)


def test_hidden_doors_are_shown_again(play: Any) -> None:
    async def scene(house: House) -> None:
        await house.doors.settle({"infer", "embed"})
        house.doors.hide()
        assert list(house.directory.iterdir()) == []
        await house.doors.show()
        assert house.there == {"infer", "embed"}

    play(scene)


def test_a_door_that_cannot_be_opened_is_told_once_keeps_no_other_shut_and_is_tried_again(play: Any) -> None:
    async def scene(house: House) -> None:
        obstacle = house.directory / "embed.sock"
        obstacle.write_text("somebody else's")
        for _ in range(2):
            await house.follow("infer", "embed")
        assert house.paths.keys() == {"infer"}
        ((_, facts),) = [told for told in house.told if told[0] == "socket_failed"]
        assert facts["socket"] == "embed"
        assert "embed.sock exists and is not a socket" in facts["error"]
        assert "move it away" in facts["error"], "it says what to do"
        assert house.faults == {"embed": facts["error"]}
        with pytest.raises(BadConfiguration):
            await house.doors.settle({"infer", "embed"})
        obstacle.unlink()
        await house.follow("infer", "embed")
        assert house.there == {"infer", "embed"}
        assert house.faults == {}

    play(scene)


def test_a_door_that_nobody_wants_any_more_is_no_fault(play: Any) -> None:
    async def scene(house: House) -> None:
        obstacle = house.directory / "embed.sock"
        obstacle.write_text("somebody else's")
        await house.follow("embed")
        assert house.faults.keys() == {"embed"}
        await house.follow()
        assert house.faults == {}
        obstacle.unlink()

    play(scene)


def test_a_door_that_was_let_go_of_before_its_time_takes_no_other_away(play: Any) -> None:
    """A file system may give the number of the socket that is closed to the next, under the same name."""

    async def scene(house: House) -> None:
        timers: list[Callable[[], None]] = []
        loop = asyncio.get_running_loop()
        with patch.object(loop, "call_later", lambda _delay, act, *args: timers.append(partial(act, *args))):
            await house.doors.settle({"infer"})
            old = house.doors._open["infer"]
            await house.doors.show()
        info = (house.directory / "infer.sock").stat()
        old._bound._inode = (info.st_dev, info.st_ino)
        (too_late,) = timers
        too_late()
        assert house.there == {"infer"}
        old.close()
        assert house.there == {"infer"}

    play(scene)
