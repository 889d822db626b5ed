"""A directory of its own for each start of a server: its socket and, while it starts, its key are in there.

Nobody but the daemon's user may enter. A daemon that is killed leaves its directories behind, sockets and all, so
each is held by a lock on the directory itself: the next one that makes a home sweeps those that nobody holds. A new
directory is nobody's for an instant, and may be swept in it: then another is made.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vestal.errors import VestalError
from vestal.paths import MAX_SOCKET_PATH

__all__ = ["Home"]

_PREFIX = "vestal-server-"
_TRIES = 16


class Home:
    """Made, locked and empty. `close` removes it with all that is in it. Raises `VestalError`."""

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent or Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        try:
            self._sweep()
            self.path, self._lock = self._made()
        except OSError as exc:
            raise VestalError(
                f"no directory for a server's socket can be made in {self._parent}: {exc.strerror}",
                hint="set XDG_RUNTIME_DIR or TMPDIR to a directory that this user may write to",
            ) from exc
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            self.close()
            raise VestalError(
                f"{self.socket} is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's path may have",
                hint="set XDG_RUNTIME_DIR or TMPDIR to a directory with a shorter path",
            )

    @property
    def socket(self) -> Path:
        """Where the server listens. llama-server takes for a socket what ends like this."""
        return self.path / "api.sock"

    @contextmanager
    def holding(self, key: str) -> Iterator[Path]:
        """A file with the key, for as long as somebody has to read it."""
        file = self.path / "key"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as opened:
                opened.write(key)
            yield file
        finally:
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """Idempotent."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def _made(self) -> tuple[Path, int]:
        for _ in range(_TRIES):
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            with suppress(FileNotFoundError):  # swept before it was opened
                lock = _locked(path)
                if lock is not None and path.exists():  # else swept between that and the lock
                    return path, lock
                if lock is not None:
                    os.close(lock)
        raise FileNotFoundError(0, f"each of {_TRIES} was removed at once")

    def _sweep(self) -> None:
        for path in self._parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):  # somebody else's, or gone by now
                if path.lstat().st_uid == os.geteuid() and (lock := _locked(path)) is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(lock)

    def __repr__(self) -> str:
        return f"<Home {self.path}{'' if self._lock >= 0 else ' closed'}>"


def _locked(path: Path) -> int | None:
    """The directory, open and locked; `None` if somebody holds it. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
