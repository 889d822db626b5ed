"""infer.sock and embed.sock: they appear with the first backend that can do the work, and go with the last.

Which sockets there are says what the daemon can do, so a door is there while a backend that has served can generate,
or embed; one that is away for a moment takes nothing away. A door that goes loses its name first: who had connected is
let in, and stays.
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
    """`bind` makes the listener of a kind; `sockets` holds the paths of those that are open, for reports."""

    def __init__(
        self, bind: Callable[[SocketKind], Awaitable[Listener]], sockets: dict[str, Path], events: EventHub
    ) -> None:
        self._bind = bind
        self._sockets = sockets
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
        async with self._binding:
            for kind in _ORDER:
                if kind in self._wanted and kind not in self._open:
                    await self._open_one(kind)

    def follow(self, wanted: Collection[SocketKind]) -> None:
        """As `settle`, in the background; a door that cannot be opened is told, and tried at the next change."""
        self._wanted = wanted
        self._shut_others()
        if self._open.keys() != set(wanted) and (self._following is None or self._following.done()):
            self._following = asyncio.create_task(self._follow(), name="doors")

    async def _follow(self) -> None:
        try:
            while self._open.keys() != set(self._wanted):
                await self.settle(self._wanted)
        except VestalError as error:
            self._events.emit("socket_failed", level="error", error=error.message)

    async def _open_one(self, kind: SocketKind) -> None:
        listener = await self._bind(kind)
        if kind not in self._wanted:
            listener.close()
            return
        self._open[kind] = listener
        self._sockets[kind] = listener.path
        self._events.emit("socket_opened", socket=kind)

    def _shut_others(self) -> None:
        for kind in [kind for kind in self._open if kind not in self._wanted]:
            listener = self._open.pop(kind)
            listener.hide()
            self._nameless.add(listener)
            asyncio.get_running_loop().call_later(_LINGER, self._let_go, listener)
            del self._sockets[kind]
            self._events.emit("socket_closed", socket=kind)

    def _let_go(self, listener: Listener) -> None:
        self._nameless.discard(listener)
        listener.close()

    def hide(self) -> None:
        """Take the names away, and go on accepting those who have connected."""
        for listener in self._open.values():
            listener.hide()

    async def show(self) -> None:
        """Bind those again that were hidden."""
        wanted = self._wanted
        self.close()
        await self.settle(wanted)

    def close(self) -> None:
        """Unlink all and accept nobody more. Idempotent."""
        self._wanted = ()
        self._shut_others()
        for listener in tuple(self._nameless):
            self._let_go(listener)

    def __repr__(self) -> str:
        return f"<Doors {', '.join(self._open) or 'none'}>"
