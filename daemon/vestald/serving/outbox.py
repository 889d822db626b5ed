"""The bytes of large answers that one client is owed: promised, being made, or made and not yet read.

A producer that can tell the size of its answer beforehand takes a place for it here first. Pausing only once the
answer is there would be too late: each of a connection's requests could then hold one of the largest frame's size.
In the order asked for; a client that reads makes room, one that does not is ended as `slow_consumer`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

__all__ = ["LIMIT", "Outbox"]

LIMIT = 8 * 2**20
"""Bytes owed to one client, unless a single answer is larger."""


class _Reader(Protocol):
    """What an outbox sees of its connection."""

    @property
    def congested(self) -> bool: ...
    @property
    def buffered(self) -> int: ...
    async def room(self) -> None: ...


class Outbox:
    """`place(size)` waits until `size` more bytes may be owed, and holds them until the answer was handed over."""

    __slots__ = ("_changed", "_line", "_promised", "_reader")

    def __init__(self, reader: _Reader) -> None:
        self._reader: _Reader = weakref.proxy(reader)  # which owns this
        self._promised = 0
        self._line: deque[object] = deque()
        self._changed: asyncio.Future[None] | None = None

    @property
    def owed(self) -> int:
        """Bytes promised, and bytes waiting to be read."""
        return self._promised + self._reader.buffered

    @asynccontextmanager
    async def place(self, size: int) -> AsyncIterator[None]:
        """Raises `SlowConsumer` if the client reads nothing for too long meanwhile."""
        await self._wait(size)
        self._promised += size
        try:
            yield
        finally:
            self._promised -= size
            self._wake()

    async def _wait(self, size: int) -> None:
        me = object()
        self._line.append(me)
        try:
            while self._line[0] is not me or not self._fits(size):
                await self._change()
        finally:
            self._line.remove(me)
            self._wake()

    def _fits(self, size: int) -> bool:
        if self._promised == 0 and not self._reader.congested:
            return True
        return self.owed + size <= LIMIT

    async def _change(self) -> None:
        if self._reader.congested:
            await self._reader.room()
            return
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    def __repr__(self) -> str:
        return f"<Outbox {self._promised} promised, {self._reader.buffered} unread, {len(self._line)} wait>"
