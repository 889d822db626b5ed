"""A bound socket with an accept loop behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from vestald.entrance.sockets import BACKLOG, BoundSocket, bind

__all__ = ["Listener"]


class Listener:
    """Open until `close`; closing takes the name away first, so that nobody connects to a daemon that leaves."""

    def __init__(self, bound: BoundSocket, server: asyncio.AbstractServer) -> None:
        self._bound = bound
        self._server = server

    @property
    def path(self) -> Path:
        return self._bound.path

    @classmethod
    async def open(cls, path: Path, mode: int, group: str | None, session: Callable[[], asyncio.Protocol]) -> Listener:
        """Bind `path` and accept on it, one `session()` a connection. Raises `BadConfiguration`."""
        bound = bind(path, mode, group)
        try:
            loop = asyncio.get_running_loop()  # which calls listen() again, by default for 100
            server = await loop.create_unix_server(session, sock=bound.sock, backlog=BACKLOG)
        except BaseException:
            bound.unlink()
            bound.sock.close()
            raise
        return cls(bound, server)

    def hide(self) -> None:
        """Take the name away and go on accepting those who have connected. Idempotent."""
        self._bound.unlink()

    def close(self) -> None:
        """Unlink and stop accepting; connections that were made stay. Idempotent."""
        self._bound.unlink()
        self._server.close()

    def __repr__(self) -> str:
        return f"<Listener {self.path}>"
