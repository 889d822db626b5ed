"""One asyncio connection that several tasks of one event loop share.

The protocol sorts what arrives to the calls and wakes whoever waits; it needs no task of its own. Frames of a
call that nobody reads stay in memory: holding the socket back for one would starve its neighbours, and a
disconnect would go unnoticed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import cast

from vestal import messages as m
from vestal.connection import SocketKind
from vestal.errors import LocalProtocolError
from vestal.multiplex import Call, Multiplexer, answer_of

__all__ = ["AsyncLink", "open_link"]

_BACKLOG_PAUSE = 0.01


async def open_link(kind: SocketKind, path: str) -> AsyncLink:
    """A connected link, before its handshake. Raises `OSError`; waits while the daemon's backlog is full."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Not loop.sock_connect(): it takes EAGAIN for "under way", but a Unix socket means "backlog full, nothing
        # begun" by it, and has no event for the end of that. So this is tried again; the caller has the deadline.
        while not _connected(sock, path):  # noqa: ASYNC110  # see above: there is no event
            await asyncio.sleep(_BACKLOG_PAUSE)
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: AsyncLink(kind, path), sock=sock)
    except BaseException:
        sock.close()
        raise
    return link


def _connected(sock: socket.socket, path: str) -> bool:
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


class AsyncLink(asyncio.Protocol):
    """A connected transport and the calls on it. For one event loop; only `abandon_soon` is for any thread."""

    def __init__(self, kind: SocketKind, path: str) -> None:
        self.mux = Multiplexer(kind, path)
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiters: dict[Call, asyncio.Future[None]] = {}
        self._room: asyncio.Future[None] | None = None  # set while the transport's buffer is full
        self._gone = self.loop.create_future()

    # --- calls ----------------------------------------------------------------------------------------------------

    async def greet(self, hello: m.Hello) -> m.Welcome:
        """Shake hands. Raises the daemon's error or the loss."""
        call = self.mux.hello(hello)
        self._flush()
        return answer_of(await self.wait(call), m.Welcome)

    async def open(self, message: m.AnyMessage) -> Call:
        """Send a request or a ping. Raises the loss, `LocalProtocolError` or `FrameTooLarge`."""
        while self._room is not None and self.mux.loss is None:
            await asyncio.shield(self._room)
        call = self.mux.open(message)
        self._flush()
        return call

    async def wait(self, call: Call) -> list[m.AnyMessage]:
        """All frames of `call` that are there, at least one; waits until then. Raises the loss of the connection."""
        if call.waited:
            raise LocalProtocolError(f"another task already waits for {call.name}; iterate it in one task")
        while not call.frames:
            if call.ended or self.mux.loss is not None:
                raise self.mux.lost(call)
            waiter = self._waiters[call] = self.loop.create_future()
            call.waited = True
            try:
                await waiter
            finally:
                call.waited = False
                del self._waiters[call]
        return call.take()

    def cancel(self, call: Call) -> None:
        """Ask the daemon to end `call`. No effect on a call that has ended."""
        self.mux.cancel(call)
        self._flush()

    def abandon(self, call: Call) -> None:
        """Cancel `call` and forget it."""
        if not call.ended:
            self.mux.abandon(call)
            self._wake([call])
            self._flush()

    def abandon_soon(self, call: Call) -> None:
        """`abandon`, from a finaliser: in any thread, at any moment."""
        if not call.ended and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.abandon, call)

    async def aclose(self) -> None:
        """End the connection; calls in flight lose it. Idempotent."""
        self._wake(self.mux.lose("this client closed it"))
        if self._transport is not None:
            self._transport.abort()  # what is still to be written is of no use to a daemon that loses the client
            await asyncio.shield(self._gone)

    # --- the transport's side -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._wake(self.mux.receive(data))
        if self.mux.loss is not None and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wake(self.mux.eof(exc if isinstance(exc, OSError) else None))
        self.resume_writing()
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._room = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # --- inside ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self.mux.connection.pending and self._transport is not None and self.mux.loss is None:
            self._transport.write(self.mux.connection.data_to_send())

    def _wake(self, calls: Iterable[Call]) -> None:
        for call in calls:
            waiter = self._waiters.get(call)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<AsyncLink {self.mux!r} waiting={len(self._waiters)}{' full' if self._room else ''}>"
