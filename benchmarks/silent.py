"""A good client beside a thousand connections that never say hello, each opened again as soon as it is dropped.

The deadline is a fifth of the default, so that a thousand are dropped and a thousand come every second. Beside the
ratio stands the promise: 99 of 100 requests are answered within 50 ms.
"""

from __future__ import annotations

import resource
import selectors
import socket
import time
from pathlib import Path
from statistics import quantiles

from benchmarks.crowd import Link
from benchmarks.private import private_daemon
from benchmarks.report import Row

__all__ = ["run"]

_SILENT = 1000
_ROUNDS = 5
_SECONDS = 4.0
_BUDGET_MS = 50.0
_CONFIG = f"""[sockets]
handshake_timeout = "1s"
connections_per_uid = {2 * _SILENT + 10}
[[backend]]
name = "echo"
adapter = "echo"
slots = 4
"""


class _Silent:
    """Connections that say nothing. `renew` opens again those that were dropped, and counts them."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = str(path)
        self._selector = selectors.DefaultSelector()
        self.dropped = 0
        for _ in range(count):
            self._open()

    def _open(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._path)
        self._selector.register(sock, selectors.EVENT_READ)

    def renew(self) -> None:
        for key, _ in self._selector.select(0):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if not sock.recv(1 << 16):
                self._selector.unregister(sock)
                sock.close()
                self.dropped += 1
                self._open()

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


def _slowest_of_a_hundred(link: Link, silent: _Silent) -> float:
    """The 99th percentile of the time from a request to its end, in milliseconds."""
    times: list[float] = []
    ends = time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        silent.renew()
        began = time.perf_counter()
        link.ask(len(times))
        while link.connection.requests:
            link.receive()
        times.append(1000 * (time.perf_counter() - began))
        time.sleep(0.002)  # a client that does something with its answer
    return quantiles(times, n=100)[98]


def run() -> list[Row]:
    """Rows: the 99th percentile beside the silent, against alone and against the promise."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pairs = []
    with private_daemon(_CONFIG) as (runtime, _):
        path = runtime / "infer.sock"
        link = Link(path)
        for _ in range(_ROUNDS):
            nobody, silent = _Silent(path, 0), _Silent(path, _SILENT)
            beside = _slowest_of_a_hundred(link, silent)
            if silent.dropped < _SILENT:
                raise SystemExit(f"{silent.dropped} of {_SILENT} silent connections were dropped in {_SECONDS:g} s")
            silent.close()
            pairs.append((beside, _slowest_of_a_hundred(link, nobody)))
            nobody.close()
        link.sock.close()
    name = f"p99 of a request beside {_SILENT:,} silent connections"
    return [
        Row.of(name, "ms", pairs, "alone"),
        Row.of("  of what is promised", "ms", [(beside, _BUDGET_MS) for beside, _ in pairs], "promise", target="≤ 1"),
    ]
