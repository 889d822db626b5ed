"""`metrics.sock`: one answer over HTTP, for scrapers that speak nothing else. `GET /metrics`, and no more.

This is no way into the daemon: it takes a request line, and what follows is counted and thrown away. The socket is 0600
in the runtime directory, there is no TCP (docs/adr/0006), connections are few and short, and each is closed after its
answer. `curl --unix-socket metrics.sock http://vestal/metrics`
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from prometheus_client import CONTENT_TYPE_LATEST

__all__ = ["Endpoint"]

_MOST = 8  # connections at once
_PATIENCE = 5.0  # seconds that a connection has to ask, and to read
_LONGEST = 8 * 1024  # bytes of a request
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 431: "Header Too Large"}


class Endpoint:
    """Makes the protocol of each connection; `text` is asked at each request."""

    def __init__(self, text: Callable[[], str]) -> None:
        self.text = text
        self.open: set[_Exchange] = set()

    def __call__(self) -> asyncio.Protocol:
        return _Exchange(self)

    def close(self) -> None:
        """End what is open."""
        for exchange in tuple(self.open):
            exchange.abort()

    def __repr__(self) -> str:
        return f"<Endpoint {len(self.open)} of {_MOST} connections>"


class _Exchange(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._endpoint.open) >= _MOST:
            self._transport.abort()
            return
        self._endpoint.open.add(self)
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" in self._received:
            self._answer(*_reply(bytes(self._received), self._endpoint.text))
        elif len(self._received) > _LONGEST:
            self._answer(431, "")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._endpoint.open.discard(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, status: int, text: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return  # more came after the request, and it was answered
        body = text.encode() or f"{_REASONS[status]}\n".encode()
        kind = CONTENT_TYPE_LATEST if status == 200 else "text/plain; charset=utf-8"
        allow = "Allow: GET\r\n" if status == 405 else ""
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"{allow}Connection: close\r\n\r\n"
        )
        self._transport.write(head.encode("ascii") + body)
        self._transport.close()


def _reply(request: bytes, text: Callable[[], str]) -> tuple[int, str]:
    """The status, and the body where it is 200."""
    words = request.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        return 400, ""
    if words[0] != b"GET":
        return 405, ""
    if words[1].partition(b"?")[0] != b"/metrics":
        return 404, ""
    return 200, text()
