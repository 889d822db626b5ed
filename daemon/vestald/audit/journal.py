"""The audit log's files: appended to, rotated, taken up again after a restart or a crash. Blocking; one thread's own.

A batch of lines is written whole or not at all: what a full disk cut short is cut off again, and the chain goes on
from the last whole line. So does a restart, which says how many bytes a crash had left unfinished. The directory is
locked, as two writers would make two chains of one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vestal.audit import BEFORE, Head, Record, read_line, seal
from vestal.audit_files import file_name, file_names
from vestald.failures import AlreadyRunning, BadConfiguration

__all__ = ["Journal"]

_HINT = "choose another with audit.directory, or turn the log off with audit.enabled = false"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Journal:
    """An audit log being written. `head` is its last line; `fault` why the last write failed, or empty."""

    def __init__(self, path: Path, directory: int, max_bytes: int, files: int) -> None:
        self.path = path
        self.head: Head = BEFORE
        self.fault = ""
        self._directory = directory
        self._max_bytes = max_bytes
        self._files = files
        self._fd = -1
        self._size = 0
        self._first = -1  # the number of the first line of the file that is written to

    @classmethod
    def open(cls, path: Path, max_bytes: int, files: int) -> Journal:
        """Lock the directory (0700, made if missing) and find the end of the chain.

        Raises `BadConfiguration` (not ours, a symlink, not a log) or `AlreadyRunning`. A disk that is merely full is
        no reason not to start: the lines it costs are counted.
        """
        directory = _open_directory(path)
        journal = cls(path, directory, max_bytes, files)
        try:
            journal._resume()
        except OSError as fault:
            if fault.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                os.close(directory)
                raise _unusable(path, fault) from fault
            journal._failed(fault)
        except BaseException:
            os.close(directory)
            raise
        return journal

    def append(self, records: Sequence[Record]) -> int:
        """Write the records in order; how many are on disk. With fewer than all of them, `fault` says why."""
        done = 0
        try:
            if self._fd < 0:
                self._resume()
            while done < len(records):
                done += self._write_some(records[done:])
        except (OSError, BadConfiguration) as fault:
            self._failed(fault)
        else:
            self.fault = ""
        return done

    def close(self) -> None:
        """Flush to the disk, as far as it can be, and give the lock back. Idempotent."""
        if self._fd >= 0:
            with suppress(OSError):  # a full or broken disk: what could not be kept has been counted
                os.fsync(self._fd)
        self._close_file()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    # --- writing ----------------------------------------------------------------------------------------------

    def _write_some(self, records: Sequence[Record]) -> int:
        """Write as many as the file has room for in one write, after a rotation if it has none; how many."""
        lines, head, size = list[bytes](), self.head, self._size
        for record in records:
            line, after = seal(head, record)
            if size + len(line) > self._max_bytes and (lines or head.seq > self._first):
                break
            lines.append(line)
            head, size = after, size + len(line)
        if lines:
            self._write(b"".join(lines), head)
        else:
            self._rotate()
        return len(lines)

    def _write(self, data: bytes, head: Head) -> None:
        try:
            written = os.write(self._fd, data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        self.head = head

    def _failed(self, fault: OSError | BadConfiguration) -> None:
        self.fault = (fault.strerror if isinstance(fault, OSError) else None) or str(fault)
        if self._fd >= 0 and os.fstat(self._fd).st_size != self._size:  # it could not be cut back: read it again
            self._close_file()

    # --- files ------------------------------------------------------------------------------------------------

    def _rotate(self) -> None:
        os.fsync(self._fd)
        self._begin_file()

    def _begin_file(self) -> None:
        """A new file, with the line that links it to those before it; then the oldest go."""
        first = self.head.seq + 1
        kept = [*file_names(self._directory), file_name(first)][-self._files :]
        header = {"previous": self.head.hash, "kept": _first_of(kept[0])}
        line, head = seal(self.head, Record(time.time(), "file", header))
        fd = os.open(file_name(first), _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)
        try:
            if os.write(fd, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.close(fd)
            os.unlink(file_name(first), dir_fd=self._directory)
            raise
        self._close_file()
        self._fd, self._size, self._first, self.head = fd, len(line), first, head
        for name in file_names(self._directory)[: -self._files]:
            os.unlink(name, dir_fd=self._directory)

    def _resume(self) -> None:
        """Go on behind the last whole line there is."""
        for name in reversed(file_names(self._directory)):
            fd = self._open_file(name)
            whole, head, torn = _end_of(fd)
            if head is None and whole + torn == 0:  # made, and never written to
                os.close(fd)
                os.unlink(name, dir_fd=self._directory)
                continue
            if head is None:
                os.close(fd)
                raise BadConfiguration(f"{self.path / name} has no line of an audit log", hint="move it away")
            self._fd, self._size, self._first, self.head = fd, whole, _first_of(name), head
            if torn:
                os.ftruncate(fd, whole)
                self._write_some([Record(time.time(), "recovered", {"file": name, "torn_bytes": torn})])
            return
        self._begin_file()

    def _open_file(self, name: str) -> int:
        fd = os.open(name, _FLAGS, dir_fd=self._directory)
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_nlink != 1:
            os.close(fd)
            raise BadConfiguration(
                f"{self.path / name} is not a file of uid {os.geteuid()} alone: uid {info.st_uid}, "
                f"{info.st_nlink} links",
                hint="move it away",
            )
        os.fchmod(fd, 0o600)
        return fd

    def _close_file(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __repr__(self) -> str:
        return f"<Journal {self.path} head={self.head.seq} {self.fault or 'ok'}>"


def _first_of(name: str) -> int:
    return int(name.removeprefix("audit-").removesuffix(".ndjson"))


def _end_of(fd: int) -> tuple[int, Head | None, int]:
    """Bytes of whole lines, the head the last readable one makes, and bytes of an unfinished line after them."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    whole = data.rfind(b"\n") + 1
    for line in reversed(data[:whole].splitlines(keepends=True)):
        if (read := read_line(line)) is not None:
            return whole, read[1], len(data) - whole
    return whole, None, len(data) - whole


def _open_directory(path: Path) -> int:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as fault:
        raise _unusable(path, fault) from fault
    try:
        if (owner := os.fstat(fd).st_uid) != os.geteuid():
            raise BadConfiguration(
                f"audit directory {path} belongs to uid {owner}, this is uid {os.geteuid()}", hint=_HINT
            )
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(fd, 0o700)
    except BlockingIOError:
        os.close(fd)
        raise AlreadyRunning(f"another vestald writes the audit log in {path}", hint=_HINT) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _unusable(path: Path, fault: OSError) -> BadConfiguration:
    return BadConfiguration(f"cannot write the audit log in {path}: {fault.strerror or fault}", hint=_HINT)
