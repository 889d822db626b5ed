"""What counts frames: the same reader for every server under test, so that only the servers differ.

It runs in a process of its own, reads with large `recv`s, cuts and decodes every frame, and reports frames per
second over a steady stretch: from the first byte of the answer to the last terminal frame.
"""

from __future__ import annotations

import selectors
import socket
import time
from pathlib import Path

from vestal import messages as m
from vestal.connection import ClientConnection
from vestal.values import Message

__all__ = ["count_frames"]

_CHUNK = 1 << 18


def _connect(path: Path) -> tuple[socket.socket, ClientConnection]:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    connection = ClientConnection("infer")
    connection.hello(versions=[1], client="benchmark")
    sock.sendall(connection.data_to_send())
    while connection.welcome is None:
        connection.receive(sock.recv(_CHUNK))
    return sock, connection


def count_frames(path: Path, tokens: int, *, requests: int = 1, connections: int = 1) -> float:
    """Frames per second to this process, for `requests` answers of `tokens` tokens over `connections`."""
    text = " ".join(["token"] * tokens)
    links = [_connect(path) for _ in range(connections)]
    for number in range(requests):
        sock, connection = links[number % connections]
        connection.send(m.Generate(id=number, messages=[Message(role="user", content=text)]))
        sock.sendall(connection.data_to_send())
    return _drain(links)


def _drain(links: list[tuple[socket.socket, ClientConnection]]) -> float:
    frames, first = 0, 0.0
    with selectors.DefaultSelector() as selector:
        for sock, connection in links:
            selector.register(sock, selectors.EVENT_READ, connection)
        while any(connection.requests for _, connection in links):
            for key, _ in selector.select():
                data = key.fileobj.recv(_CHUNK)  # type: ignore[union-attr]  # a socket, registered above
                first = first or time.perf_counter()
                frames += len(key.data.receive(data))
    elapsed = time.perf_counter() - first
    for sock, _ in links:
        sock.close()
    return frames / elapsed
