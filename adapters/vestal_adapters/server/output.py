"""What a server prints: its last lines in memory, and all of it in a file if the operator names one.

Unasked nothing goes to disk: servers quote what they are sent. The file is the daemon's user's alone, and it is one
of three that are 16 MiB long at most. A disk that is full costs the log, not the server, and is told once.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from vestal.errors import VestalError
from vestal_adapters.worker.process import StderrTail

__all__ = ["Output", "RotatedLog"]


class RotatedLog:
    """`path`, and what came before in `path.1` and `path.2`. Raises `VestalError` if it cannot be written."""

    SIZE = 16 << 20
    KEPT = 3

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fault = ""
        try:
            self._open()
        except OSError as exc:
            raise VestalError(
                f"log_file {path} cannot be written: {exc.strerror}",
                hint="name a file of the daemon's user in a directory that it may write to",
            ) from exc

    def _open(self) -> None:
        # Without following a link, and without waiting for the reader of a pipe.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise OSError(0, "it is not a regular file")
        os.fchmod(self._descriptor, 0o600)
        self._size = found.st_size

    def write(self, data: bytes) -> None:
        if self._descriptor < 0:
            return
        try:
            if self._size and self._size + len(data) > self.SIZE:
                self._rotate()
            self._size += os.write(self._descriptor, data)
        except OSError as exc:
            self.fault = f"log_file {self._path} is not written any more: {exc.strerror}"
            self.close()

    def _rotate(self) -> None:
        self.close()
        for number in range(self.KEPT - 1, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            with suppress(FileNotFoundError):
                older.replace(self._numbered(number))
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __repr__(self) -> str:
        return f"<RotatedLog {self._path.name} {self._size} of {self.SIZE} bytes{self.fault and ', failed'}>"


class Output(StderrTail):
    """The tail of one process, and the log of all of them."""

    def __init__(self, log: RotatedLog | None) -> None:
        super().__init__()
        self._log = log

    def feed(self, data: bytes) -> None:
        super().feed(data)
        if self._log is not None:
            self._log.write(data)
