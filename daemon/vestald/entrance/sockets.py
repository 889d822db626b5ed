"""The runtime directory, its lock, and the sockets in it.

The daemon locks the *directory*, not a file in it: a lock file that is unlinked and made anew can be held twice.
A socket appears under its name by `rename`, bound, listening and with its final mode, so whoever sees the name
can connect; it is unlinked only while the name still leads to the inode that was bound.
"""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
from pathlib import Path

from vestal.paths import MAX_SOCKET_PATH
from vestald.failures import AlreadyRunning, BadConfiguration

__all__ = ["BACKLOG", "BoundSocket", "RuntimeDir", "bind"]

BACKLOG = 1024  # connections that wait to be accepted


class RuntimeDir:
    """A directory that this process owns, alone, from `open` to `close`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path, group: str | None = None) -> RuntimeDir:
        """Create or check the directory and lock it.

        Raises `BadConfiguration` (not ours, a symlink, a path too long for a socket) or `AlreadyRunning`.
        """
        path = path.absolute()
        _check_length(path / "infer.sock")
        fd = _open_directory(path)
        try:
            _check_owner(path, fd)
            _lock(path, fd)
            os.fchmod(fd, 0o750 if group else 0o700)
            if group:
                _give_to_group(fd, path, group)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    def close(self) -> None:
        """Give the lock back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"<RuntimeDir {self.path} {'locked' if self._fd >= 0 else 'closed'}>"


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise BadConfiguration(
            f"socket path {path} has {size} bytes, this system allows {MAX_SOCKET_PATH}",
            hint="choose a shorter directory: --runtime-dir, VESTAL_RUNTIME_DIR or daemon.runtime_dir",
        )


def _open_directory(path: Path) -> int:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise BadConfiguration(
            f"cannot use {path} as the runtime directory: {exc.strerror}",
            hint="it must be a directory of this user's (no symlink); choose one with --runtime-dir",
        ) from exc


def _check_owner(path: Path, fd: int) -> None:
    info = os.fstat(fd)
    if info.st_uid != os.geteuid():
        raise BadConfiguration(
            f"runtime directory {path} belongs to uid {info.st_uid}, this is uid {os.geteuid()}",
            hint="choose a directory of your own with --runtime-dir",
        )


def _lock(path: Path, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(
            f"another vestald owns {path}",
            hint=f"see it with `vestal --runtime-dir {path} status`, or start this one with another --runtime-dir",
        ) from None


def gid_of(group: str) -> int:
    """The number of a group's name. Raises `BadConfiguration`."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise BadConfiguration(
            f"sockets.group: there is no group {group!r}",
            hint=f"create it (groupadd {group}) or leave the key out",
        ) from None


def _give_to_group(target: int | Path, path: Path, group: str) -> None:
    gid = gid_of(group)
    try:
        os.chown(target, -1, gid)
    except PermissionError as exc:
        raise BadConfiguration(
            f"sockets.group: uid {os.geteuid()} may not give {path} to group {group!r}",
            hint="only a member of the group may: add the user to it, or leave the key out",
        ) from exc


class BoundSocket:
    """A listening socket and the name it has in the runtime directory."""

    def __init__(self, path: Path, sock: socket.socket, inode: tuple[int, int]) -> None:
        self.path = path
        self.sock = sock
        self._inode = inode
        self._named = True

    def unlink(self) -> None:
        """Remove the name, if it still leads to this socket. Idempotent."""
        if not self._named:
            return  # once it is closed, its inode's number may be another's, under the same name
        self._named = False
        try:
            info = os.lstat(self.path)
        except FileNotFoundError:
            return
        if (info.st_dev, info.st_ino) == self._inode:
            self.path.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<BoundSocket {self.path} fd={self.sock.fileno()}>"


def bind(path: Path, mode: int, group: str | None = None) -> BoundSocket:
    """Bind, listen, set mode and group, and only then take the name `path`.

    The caller owns the directory's lock, so a socket already there is a dead daemon's and is replaced. Anything
    else there is refused with `BadConfiguration`.
    """
    _check_length(path)
    refuse_foreign(path)
    try:
        return _bind(path, mode, group)
    except OSError as exc:
        raise BadConfiguration(f"cannot bind {path}: {exc}", hint="choose another directory: --runtime-dir") from exc


def _bind(path: Path, mode: int, group: str | None) -> BoundSocket:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    previous = os.umask(0o177)
    try:
        sock.bind(os.fspath(temporary))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(previous)
    try:
        if group is not None:
            _give_to_group(temporary, path, group)
        temporary.chmod(mode)
        sock.listen(BACKLOG)
        info = os.lstat(temporary)
        temporary.rename(path)
    except BaseException:
        sock.close()
        temporary.unlink(missing_ok=True)
        raise
    return BoundSocket(path, sock, (info.st_dev, info.st_ino))


def refuse_foreign(path: Path) -> None:
    """Raise `BadConfiguration` if something that is no socket has the name `path`."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.geteuid():
        raise BadConfiguration(
            f"{path} exists and is not a socket of uid {os.geteuid()}",
            hint="move it away; the daemon replaces only its own stale sockets",
        )
