"""infer.sock and embed.sock: they appear with the first backend that can do the work, and go with the last.

Which sockets there are says what the daemon can do, so a door is there while a backend that has served can generate,
or embed; one that is away for a moment takes nothing away. A door that goes loses its name first: who had connected is
let in, and stays. One that cannot be opened keeps no other shut, and is tried again whenever somebody asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from vestal.connection import SocketKind
from vestal.errors import VestalError
from vestald.entrance.listener import Listener
from vestald.events import EventHub

__all__ = ["Doors"]

_LINGER = 1.0  # seconds in which those who connected before the name went are let in
_ORDER: tuple[SocketKind, ...] = ("embed", "infer")  # whoever finds the second finds the first


class Doors:
    """`bind` makes the listener of a kind.

    For reports, `sockets` holds the paths of those that are open, and `faults` why one that is wanted is not.
    """

    def __init__(
        self,
        bind: Callable[[SocketKind], Awaitable[Listener]],
        sockets: dict[str, Path],
        faults: dict[str, str],
        events: EventHub,
    ) -> None:
        self._bind = bind
        self._sockets = sockets
        self._faults = faults
        self._events = events
        self._open: dict[SocketKind, Listener] = {}
        self._wanted: Collection[SocketKind] = ()
        self._nameless: set[Listener] = set()
        self._binding = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def settle(self, wanted: Collection[SocketKind]) -> None:
        """Open these doors, and no other. Raises `BadConfiguration` for one that cannot be bound."""
        self._wanted = wanted
        self._shut_others()
        for kind in _ORDER:
            await self._open_one(kind)

    def follow(self, wanted: Collection[SocketKind]) -> None:
        """As `settle`, in the background; a door that cannot be opened is told, and tried at the next call."""
        self._wanted = wanted
        self._shut_others()
        if self._open.keys() != set(wanted) and (self._following is None or self._following.done()):
            self._following = asyncio.create_task(self._follow(), name="doors")

    async def _follow(self) -> None:
        failed: set[SocketKind] = set()
        while shut := [kind for kind in _ORDER if self._lacks(kind) and kind not in failed]:
            try:
                await self._open_one(shut[0])
            except VestalError as error:
                failed.add(shut[0])
                self._failed(shut[0], str(error))

    def _lacks(self, kind: SocketKind) -> bool:
        return kind in self._wanted and kind not in self._open

    async def _open_one(self, kind: SocketKind) -> None:
        async with self._binding:
            if not self._lacks(kind):
                return
            listener = await self._bind(kind)
            if kind not in self._wanted:
                listener.close()
                return
            self._open[kind] = listener
        self._sockets[kind] = listener.path
        self._faults.pop(kind, None)
        self._events.emit("socket_opened", socket=kind)

    def _failed(self, kind: SocketKind, why: str) -> None:
        """Told once for each reason: it is tried again and again."""
        if kind in self._wanted and self._faults.get(kind) != why:
            self._faults[kind] = why
            self._events.emit("socket_failed", level="error", socket=kind, error=why)

    def _shut_others(self) -> None:
        for unwanted in self._faults.keys() - set(self._wanted):
            del self._faults[unwanted]
        for kind in [kind for kind in self._open if kind not in self._wanted]:
            listener = self._open.pop(kind)
            listener.hide()
            self._nameless.add(listener)
            asyncio.get_running_loop().call_later(_LINGER, self._let_go, listener)
            del self._sockets[kind]
            self._events.emit("socket_closed", socket=kind)

    def _let_go(self, listener: Listener) -> None:
        self._nameless.discard(listener)
        listener.close()  # for the second time, if it was let go of before its time was over

    def hide(self) -> None:
        """Take the names away, and go on accepting those who have connected."""
        for listener in self._open.values():
            listener.hide()

    async def show(self) -> None:
        """Bind those again that were hidden; one that cannot be is told, as by `follow`."""
        wanted = self._wanted
        self.close()
        self.follow(wanted)
        if self._following is not None:
            await asyncio.wait({self._following})

    def close(self) -> None:
        """Unlink all and accept nobody more. Idempotent."""
        self._wanted = ()
        self._shut_others()
        for listener in tuple(self._nameless):
            self._let_go(listener)

    def __repr__(self) -> str:
        return f"<Doors {', '.join(self._open) or 'none'}>"
