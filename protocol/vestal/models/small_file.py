"""Small files that decide much: manifests, signatures, keys, the versions seen.

Each is read whole or not at all, from a regular file under a bound, and written whole or not at all, by rename.
What may not come from others' hands is read with `owned=True`: a file that another user owns or may write to is
no better than a stranger's word.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["read_small", "sync_directory", "write_small"]

_MAX_SIZE = 65_536


def read_small(file: Path, *, limit: int = _MAX_SIZE, owned: bool = False) -> bytes | None:
    """The bytes of a small file, `None` if there is none; neither a link nor a FIFO nor a huge file is followed.

    `ValueError` says what stands in its place.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        if file.is_symlink():
            raise ValueError("it is a symbolic link") from None
        raise
    with os.fdopen(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if owned:
            _check_hands(status)
        data = opened.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")
    return data


def _check_hands(status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise ValueError(f"it belongs to user {status.st_uid}, and this is user {os.geteuid()}")
    if status.st_mode & 0o022:
        raise ValueError(f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})")


def write_small(file: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` in place of whatever has that name, with `mode` from the first byte on.

    Callers hold a lock: one temporary name a directory is then enough, and a dead writer's is written over.
    """
    incoming = file.parent / ".incoming"
    incoming.unlink(missing_ok=True)
    descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    incoming.replace(file)
    sync_directory(file.parent)


def sync_directory(path: Path) -> None:
    """Put the names in a directory on the disk: a rename survives a power cut only after this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
