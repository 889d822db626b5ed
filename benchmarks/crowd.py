"""Many clients at once: every request ends once, the memory comes back, and who does not read holds up nobody.

Memory is measured twice. `vestal_python_blocks` counts what is alive in the daemon, and must be back where it was.
Resident memory is what the system sees: the interpreter keeps the arenas that a crowd made it ask for, each with a
few live objects in it, and uses them for the next; so it is compared with what the crowd before left.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median

import vestal
from benchmarks.private import private_daemon
from benchmarks.report import Row
from vestal import messages as m
from vestal.connection import ClientConnection
from vestal.values import Message

__all__ = ["Link", "crowd", "run"]

_CONNECTIONS, _REQUESTS = 1000, 5000
_FEW = 50
_ROUNDS = 5
_SLEEPERS = 100
_TOKENS = 200
_CHUNK = 1 << 18
_BOUNDS = """[admission]
queue_depth = 10000
per_caller = 10000
requests_per_connection = 10000
write_timeout = "5m"
[sockets]
connections_per_uid = 2000
"""
_FOUR_SLOTS = _BOUNDS + '[[backend]]\nname = "echo"\nadapter = "echo"\nslots = 4\n'
_FLOOD = f"""{_BOUNDS}[[backend]]
name = "steady"
adapter = "echo"
token_delay = "2ms"
[[backend]]
name = "flood"
adapter = "echo"
slots = {_SLEEPERS}
"""


class Link:
    """One client connection and the ends of its requests. A second end of one request raises in the engine."""

    def __init__(self, path: Path) -> None:
        self.ends: Counter[str] = Counter()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.connection = ClientConnection("infer")
        self.connection.hello(versions=[1], client="crowd")
        self.send()
        while self.connection.welcome is None:
            self.connection.receive(self.sock.recv(_CHUNK))

    def send(self, *messages: m.AnyMessage) -> None:
        for message in messages:
            self.connection.send(message)
        self.sock.sendall(self.connection.data_to_send())

    def ask(self, id: int, text: str = "one two three four five", model: str | None = None) -> None:
        self.send(m.Generate(id=id, messages=[Message("user", text)], model=model))

    def receive(self) -> list[m.AnyMessage]:
        """What has come, at least one byte of it; the ends of requests are counted by how they ended."""
        frames = self.connection.receive(self.sock.recv(_CHUNK))
        for frame in frames:
            if isinstance(frame, m.Done):
                self.ends[frame.stop_reason] += 1
            elif isinstance(frame, m.Error):
                self.ends[frame.code] += 1
        return frames


def crowd(path: Path, connections: int, requests: int) -> tuple[Counter[str], float]:
    """All connections at once, all requests at once: how they ended, and the seconds from the first to the last."""
    links = [Link(path) for _ in range(connections)]
    began = time.perf_counter()
    for number in range(requests):
        links[number % connections].ask(number)
    with selectors.DefaultSelector() as selector:
        for link in links:
            selector.register(link.sock, selectors.EVENT_READ, link)
        while any(link.connection.requests for link in links):
            for key, _ in selector.select():
                key.data.receive()
    elapsed = time.perf_counter() - began
    for link in links:  # what came after a request's end would have raised, and is here before the pong
        link.send(m.Ping(nonce=1))
        while not any(isinstance(frame, m.Pong) for frame in link.receive()):
            pass
        link.sock.close()
    return sum((link.ends for link in links), Counter()), elapsed


def _ended_once(path: Path, connections: int, requests: int) -> float:
    ends, elapsed = crowd(path, connections, requests)
    if ends != Counter(end=requests):
        raise SystemExit(f"of {requests} requests on {connections} connections ended: {dict(ends)}")
    return elapsed


def _resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:"))


def _alive(admin: vestal.AdminClient) -> float:
    """Blocks in use in the daemon, once it has let the crowd go."""
    while admin.status().connections > 1:
        time.sleep(0.01)
    name = "vestal_python_blocks "
    return next(float(line.removeprefix(name)) for line in admin.metrics().splitlines() if line.startswith(name))


def _crowds() -> list[Row]:
    speed, alive, resident = [], [], []
    with private_daemon(_FOUR_SLOTS) as (runtime, pid), vestal.AdminClient(runtime_dir=runtime) as admin:
        path = runtime / "infer.sock"
        _ended_once(path, _FEW, 250)  # what the first of anything leaves is no crowd's
        before, resident_before = _alive(admin), _resident_kib(pid)
        _ended_once(path, _CONNECTIONS, _REQUESTS)
        left = first = _resident_kib(pid)
        for _ in range(_ROUNDS):
            many, few = (_ended_once(path, connections, _REQUESTS) for connections in (_CONNECTIONS, _FEW))
            speed.append((_REQUESTS / many, _REQUESTS / few))
            alive.append((_alive(admin), before))
            resident.append((float(_resident_kib(pid)), float(left)))
            left = _resident_kib(pid)
    name = f"crowd, {_REQUESTS:,} requests on {_CONNECTIONS:,} connections"
    return [
        Row.of(name, "requests/s", speed, f"on {_FEW} connections", target="one end each"),
        Row.of("  what is alive in the daemon afterwards", "blocks", alive, "before", target="≤ 1.05"),
        Row.of("  resident memory after each crowd", "KiB", resident, "after the one before", target="≤ 1.05"),
        Row.of("  resident memory after the first", "KiB", [(first, resident_before)], "before any"),
    ]


def _gaps(path: Path) -> float:
    """The median time between two tokens of an answer, in milliseconds."""
    link = Link(path)
    link.ask(1, "w " * _TOKENS, "steady")
    times: list[float] = []
    while link.connection.requests:
        link.receive()
        times.append(time.perf_counter())
    link.sock.close()
    return 1000 * median(later - earlier for earlier, later in pairwise(times))


def _beside_sleepers() -> Row:
    pairs = []
    text = ("w" * 99 + " ") * 5000
    for _ in range(_ROUNDS):
        with private_daemon(_FLOOD) as (runtime, _), ExitStack() as stack:
            path = runtime / "infer.sock"
            alone = _gaps(path)
            for _ in range(_SLEEPERS):
                link = Link(path)
                stack.callback(link.sock.close)
                link.ask(1, text, "flood")
            _gaps(path)  # in this time their answers have been made as far as they will be
            pairs.append((_gaps(path), alone))
    name = f"time between two tokens beside {_SLEEPERS} who do not read"
    return Row.of(name, "ms", pairs, "alone", target="≤ 1.10")


def run() -> list[Row]:
    """Rows: speed and memory of a crowd, then a reader beside those who do not read."""
    return [*_crowds(), _beside_sleepers()]
