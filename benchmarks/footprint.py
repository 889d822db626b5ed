"""What Vestal costs when it does nothing: importing the client, and connections that are only open."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.private import private_daemon
from benchmarks.report import Row
from vestal.connection import ClientConnection

__all__ = ["run"]

_ROUNDS = 15
_CONNECTIONS = 1000
_ECHO = '[sockets]\nconnections_per_uid = 2000\n[[backend]]\nname = "echo"\nadapter = "echo"\n'


def _seconds(code: str) -> float:
    """Wall time of a fresh interpreter that runs `code`, as it measures it itself."""
    program = f"import time; begun = time.perf_counter(); {code}; print(time.perf_counter() - begun)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)


def _rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/{pid}/status has no VmRSS line")


def _idle(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    connection = ClientConnection("infer")
    connection.hello(client="idle")
    sock.sendall(connection.data_to_send())
    while connection.welcome is None:
        connection.receive(sock.recv(65536))
    return sock


def _per_connection() -> tuple[float, float]:
    with private_daemon(_ECHO) as (runtime, pid):
        path = runtime / "infer.sock"
        warm = [_idle(path) for _ in range(50)]
        before = _rss_kib(pid)
        held = [_idle(path) for _ in range(_CONNECTIONS)]
        time.sleep(0.2)  # the last welcome is sent; let the daemon finish its turn
        grown = _rss_kib(pid) - before
        for sock in warm + held:
            sock.close()
    return grown / _CONNECTIONS, 1.0


def run() -> list[Row]:
    """Rows: import time against importing msgspec and socket alone, and memory of an idle connection."""
    imports = [
        (1000 * _seconds("import vestal; vestal.Client"), 1000 * _seconds("import msgspec, socket, threading"))
        for _ in range(_ROUNDS)
    ]
    return [
        Row.of("import of the client library", "ms", imports, "import msgspec, socket, threading", target="≤ 60 ms"),
        Row.of("an idle connection", "KiB", [_per_connection()], "1 KiB", target="< 40 KiB"),
    ]
