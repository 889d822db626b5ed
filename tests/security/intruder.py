"""An adapter whose worker has been taken over: asked to count, it does to the machine what the message says.

"read PATH", "list PATH", "write PATH", "remove PATH", "connect PATH", "signal PID" are answered by 1 if it could and
0 if it could not; "sockets" and "keys" by how many of them it has. `test_taken_over_worker` installs it by an entry
point, as any adapter is.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from vestal.backend import BackendOptions, CountRequest, EndEvent, GenerateRequest, GenerateRequestV2, TextEvent
from vestal.values import Capabilities, Usage
from vestal_adapters.worker.engine import Engine, Progress, StepOutput
from vestal_adapters.worker.host import WorkerBackend
from vestal_adapters.worker.options import WorkerOptions

__all__ = ["IntruderBackend", "IntruderEngine"]


class IntruderOptions(WorkerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Those of every worker."""


class IntruderBackend(WorkerBackend):
    Options: ClassVar[type[BackendOptions]] = IntruderOptions
    engine = "intruder:IntruderEngine"


class IntruderEngine(Engine):
    Options: ClassVar[type[BackendOptions]] = IntruderOptions

    def __init__(self, options: IntruderOptions) -> None:
        self._jobs: list[int] = []

    def load(self, progress: Progress) -> Capabilities:
        return Capabilities(count=True, slots=4)

    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        self._jobs.append(job)

    def count(self, request: CountRequest) -> int:
        assert request.messages is not None
        content = request.messages[0].content
        assert isinstance(content, str)
        verb, _, what = content.partition(" ")
        if verb in TALLIES:
            return TALLIES[verb]()
        try:
            DEEDS[verb](what)
        except OSError:
            return 0
        return 1

    def cancel(self, job: int) -> None:
        if job in self._jobs:
            self._jobs.remove(job)

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def step(self) -> StepOutput:
        jobs, self._jobs = self._jobs, []
        return [event for job in jobs for event in ((job, TextEvent("ok")), (job, EndEvent("end", Usage(1, 0, 1))))]

    def close(self) -> None:
        """It holds nothing."""


def _read(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


DEEDS: dict[str, Callable[[str], object]] = {
    "read": _read,
    "list": os.listdir,
    "write": lambda path: Path(path).write_text("the intruder was here"),
    "remove": os.unlink,
    "connect": _connect,
    "signal": lambda pid: os.kill(int(pid), 0),  # which asks whether it could
}


def _sockets() -> int:
    """How many of its descriptors are sockets: those of clients would be worth having."""
    found = 0
    for number in range(4096):
        try:
            found += stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:  # not open
            continue
    return found


TALLIES: dict[str, Callable[[], int]] = {
    "sockets": _sockets,
    "keys": lambda: sum("KEY" in name or "TOKEN" in name for name in os.environ),
}
