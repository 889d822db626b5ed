"""A web server for tests: real sockets, real TLS, and the faults that servers have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec

from tests.tls import served_with

__all__ = ["Handler", "Site", "site"]


class Handler(BaseHTTPRequestHandler):
    """What a site's `answer` is handed: the request, and ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.site.asked.append((self.path, self.headers.get("Range")))
        self.server.site.answer(self)

    def do_HEAD(self) -> None:
        self.server.site.answer(self)

    def json(self, value: object) -> None:
        self.whole(msgspec.json.encode(value))

    def ranged(self, data: bytes, most: int | None = None) -> None:
        """Answer as a server does that knows ranges; `most` bytes of it, then the connection breaks."""
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:] if most is None else data[start : start + most])
        self.close_connection = most is not None or self.close_connection

    def whole(self, data: bytes) -> None:
        """Answer as one that does not know ranges."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def moved(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def refuse(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Not on the test's terminal."""


class Site:
    """`answer` may be exchanged between two requests; `asked` is each path with its Range."""

    def __init__(self, answer: Callable[[Handler], None], scheme: str) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str | None]] = []
        self.scheme = scheme
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    site: Site


@contextmanager
def site(answer: Callable[[Handler], None], tls: Path | None = None) -> Iterator[Site]:
    """Serve until the end of the block; over TLS with the certificate and key in the file `tls`."""
    made = Site(answer, "https" if tls else "http")
    with _Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = served_with(tls).wrap_socket(server.socket, server_side=True)
        made.port, server.site = server.server_port, made
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
