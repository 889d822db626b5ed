"""Verify and load the same bytes: a model file that is opened once, checked, and held until its engine is gone.

A check of a path says nothing about what the path names a moment later, and a descriptor still shows what others
write into the file. So what is loaded is what was hashed:

    sealed   the file is copied into a memfd while it is hashed, and sealed: no process can change it again.
             Costs memory of the file's size once (the weights are mapped from it), and a copy at the start.
    lease    the file stays where it is, under a read lease: the kernel makes whoever opens it for writing wait
             (`/proc/sys/fs/lease-break-time`, 45 s) and tells us, and serving from it ends. For the file's owner.
    path     the file is opened and not looked at: neither a digest nor a later change is noticed.

Nothing of the content is parsed here. What holds a file gives it to engines as `/proc/self/fd/N`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from vestal.errors import ModelError
from vestal.models.blobs import Progress
from vestal.models.remedies import fetch_again

__all__ = ["HeldFile", "Integrity", "hold"]

Integrity = Literal["sealed", "lease", "path"]

_PIECE = 1 << 20
_INSTEAD = 'set integrity = "sealed", which copies the file into memory'


class HeldFile:
    """An open model file. `digest` is of the very bytes that `loadable` shows; `None` where nothing was checked."""

    def __init__(
        self, descriptor: int, path: Path, integrity: Integrity, digest: str | None, watch: _Watch | None = None
    ) -> None:
        self.descriptor = descriptor
        self.path = path
        self.integrity = integrity
        self.digest = digest
        self.size = os.fstat(descriptor).st_size
        self._watch = watch

    def __repr__(self) -> str:
        state = "closed" if self.descriptor < 0 else f"{self.integrity} as descriptor {self.descriptor}"
        return f"<HeldFile {self.path.name!r} {state}>"

    @property
    def loadable(self) -> Path:
        """The name by which this process, and only it, opens the held bytes."""
        return Path(f"/proc/self/fd/{self.descriptor}")

    @property
    def on_disk(self) -> bool:
        """Whether the descriptor is of a file on a file system: a sandbox needs a rule for it."""
        return self.integrity != "sealed"

    def close(self) -> None:
        """Let go of the file, and of its lease with it. Idempotent."""
        if self._watch is not None:
            self._watch.end()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def hold(
    path: Path,
    integrity: Integrity,
    *,
    name: str,
    digest: str | None = None,
    progress: Progress | None = None,
    on_broken: Callable[[], None] | None = None,
) -> HeldFile:
    """Open the file of the model `name`, and check that it has `digest` where one is known.

    With a digest the file is one of the store's, where no name is a link: a link is refused. `on_broken` is called
    from a signal handler, in the main thread, as soon as someone wants to write to a leased file. Raises
    `ModelError`.
    """
    from hmac import compare_digest

    if sys.platform != "linux" and integrity != "path":
        raise ModelError(f'{sys.platform} has nothing to do integrity = "{integrity}" with', hint='set it to "path"')
    with _translated(path):
        descriptor = _open(path, follow=digest is None)
    try:
        with _translated(path):
            if integrity == "sealed":
                held = _sealed(descriptor, path, progress)
            elif integrity == "lease":
                held = _leased(descriptor, path, progress, on_broken)
            else:
                held = HeldFile(descriptor, path, integrity, None)
    except BaseException:
        os.close(descriptor)
        raise
    if held.descriptor != descriptor:
        os.close(descriptor)
    if digest is not None and held.digest is not None and not compare_digest(held.digest, digest):
        held.close()
        message = f"model {name!r} is not what was stored: {path} has the digest {held.digest} instead of {digest}"
        raise ModelError(message, hint=fetch_again(name))
    return held


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOMEM, errno.ENOSPC)
        hint = 'integrity = "lease" needs no copy in memory' if full else "check the path and its permissions"
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", hint=hint) from error
    except ValueError as error:  # a NUL byte in the path
        raise ModelError(f"{str(path)!r} is not a path: {error}", hint="name a .gguf file") from error


def _open(path: Path, *, follow: bool) -> int:
    # Without O_NONBLOCK a FIFO under the name would hold the caller until somebody writes to it.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            message = f"{path} is a symbolic link, and no model of the store is one"
            raise ModelError(message, hint="remove it and pull the model again") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelError(f"{path}: not a regular file", hint="name a .gguf file")
    return descriptor


def _sealed(source: int, path: Path, progress: Progress | None) -> HeldFile:
    import hashlib

    memory = os.memfd_create("vestal-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        digest = hashlib.sha256()
        for piece in _pieces(source, path, progress):
            digest.update(piece)
            _write(memory, piece)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
        return HeldFile(memory, path, "sealed", f"sha256-{digest.hexdigest()}")
    except BaseException:
        os.close(memory)
        raise


def _pieces(source: int, path: Path, progress: Progress | None) -> Iterator[bytes]:
    """The whole file as it is now; `ModelError` if it becomes longer or shorter meanwhile."""
    size, done = os.fstat(source).st_size, 0
    while piece := os.pread(source, _PIECE, done):
        done += len(piece)
        if done > size:
            break
        yield piece
        if progress is not None:
            progress(done, size)
    if done != size:
        message = f"{path} changed while it was read: it had {size:,} bytes, then {done:,} or more"
        raise ModelError(message, hint="wait until whatever writes it is done")


def _write(target: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(target, left) :]


def _leased(descriptor: int, path: Path, progress: Progress | None, on_broken: Callable[[], None] | None) -> HeldFile:
    import hashlib

    # Before there is a lease: unheeded, SIGIO ends the process.
    watch = None if on_broken is None else _Watch(descriptor, on_broken)
    try:
        _take_lease(descriptor, path)
        digest = hashlib.sha256()
        for piece in _pieces(descriptor, path, progress):
            digest.update(piece)
        if not _is_leased(descriptor):
            message = f"{path} was opened for writing while it was read"
            raise ModelError(message, hint="wait until whatever writes it is done")
        return HeldFile(descriptor, path, "lease", f"sha256-{digest.hexdigest()}", watch)
    except BaseException:
        if watch is not None:
            watch.end()
        raise


def _take_lease(descriptor: int, path: Path) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        owner = os.fstat(descriptor).st_uid
        why = {
            errno.EAGAIN: "another process has it open for writing",
            errno.EACCES: f"it belongs to user {owner}, and only the owner may: this is user {os.geteuid()}",
            errno.EINVAL: "its file system has no leases",
        }.get(error.errno or 0, error.strerror or str(error))
        raise ModelError(f"the kernel refuses a read lease on {path}: {why}", hint=_INSTEAD) from error


def _is_leased(descriptor: int) -> bool:
    """Whether the lease is whole: while the kernel holds a writer back, it shows what the lease must become."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK


class _Watch:
    """Hears SIGIO for one leased descriptor, and passes on what is not about it."""

    def __init__(self, descriptor: int, on_broken: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._before = signal.signal(signal.SIGIO, self._heed)

    def __repr__(self) -> str:
        return f"<_Watch on descriptor {self._descriptor}>"

    def end(self) -> None:
        """Put back what was there. Idempotent."""
        if self._descriptor >= 0:
            self._descriptor = -1
            signal.signal(signal.SIGIO, self._before or signal.SIG_DFL)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self._descriptor >= 0 and not _is_leased(self._descriptor):
            self._on_broken()
        elif callable(self._before):
            self._before(number, frame)
