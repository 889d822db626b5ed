"""The runtime directory, and the other places that a daemon writes to.

Who holds the lock is read from /proc/locks and not tried: a lock that the doctor had for a moment would be one that
a daemon starting at that moment could not get.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vestal.endpoint import refuse_foreign
from vestal.errors import PermissionRefused
from vestal.findings import Finding, fail, failed, ok, warn
from vestal.paths import MAX_SOCKET_PATH, default_runtime_dir
from vestald.config import Config
from vestald.failures import Failure

__all__ = ["examine_directory", "lock_holder"]

_ABOUT = "runtime directory"
_OTHERS = 0o027
"""Rights that others do not have; the group may look in where `sockets.group` says so."""


def examine_directory(config: Config) -> Iterator[Finding]:
    """The directory of the sockets, its lock, and the places of the audit log and the metrics."""
    try:
        directory = config.runtime_dir()
        places = [("audit log", config.audit_dir())] if config.audit.enabled else []
        if (file := config.metrics_file()) is not None:
            places.append(("metrics file", file.parent))
    except Failure as error:
        yield failed(_ABOUT, error)
        return
    if (host := _host(directory)) is not None:
        yield ok(_ABOUT, f"{directory} belongs to {_name_of(host)}, whose daemon lets this user in")
        return
    yield _directory(directory)
    origin = config.origins.get("daemon.runtime_dir")
    if origin is not None and origin.kind == "file" and directory != default_runtime_dir().absolute():
        says = f"clients look in {default_runtime_dir()}, and {origin.place} says {directory}"
        yield warn(_ABOUT, says, f"export VESTAL_RUNTIME_DIR={directory}")
    yield from _lock(directory)
    yield from _writable(places)


def _host(path: Path) -> int | None:
    """Whose daemon it is whose sockets this user may use, and whose directory is none of this user's business."""
    with suppress(OSError, PermissionRefused):
        refuse_foreign(path)
        owner = path.stat().st_uid
        if owner != os.geteuid() and any(_listens(path / f"{kind}.sock") for kind in ("infer", "embed")):
            return owner
    return None


def _listens(path: Path) -> bool:
    """Whether this user reaches somebody there."""
    return _connected(path) == 0


def _directory(path: Path) -> Finding:
    size = len(os.fsencode(path / "infer.sock"))
    if size > MAX_SOCKET_PATH:
        says = f"{path} is too long: its sockets' paths have {size} bytes, and {MAX_SOCKET_PATH} are allowed"
        return fail(_ABOUT, says, "choose a shorter one with --runtime-dir")
    try:
        status = path.lstat()
    except FileNotFoundError:
        return _to_be_made(path)
    except OSError as error:
        return fail(_ABOUT, f"{path}: {error.strerror}", "choose another with --runtime-dir")
    if not stat.S_ISDIR(status.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
        return fail(_ABOUT, f"{path} is {what}", f"rm {path}")
    if status.st_uid != os.geteuid():
        says = f"{path} belongs to {_name_of(status.st_uid)}, and this is {_name_of(os.geteuid())}"
        return fail(_ABOUT, says, "choose another with --runtime-dir, or ask as its owner")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        says = f"{path} has the mode {mode:04o}, and the daemon sets 0700, or 0750 for a group"
        return warn(_ABOUT, says, f"chmod go-w,o= {path}")
    return ok(_ABOUT, f"{path} belongs to this user, mode {mode:04o}")


def _to_be_made(path: Path) -> Finding:
    above = next(parent for parent in path.parents if parent.exists())
    if os.access(above, os.W_OK | os.X_OK):
        return ok(_ABOUT, f"{path} is not there yet; the daemon makes it")
    says = f"{path} is not there, and this user may not make it in {above}"
    return fail(_ABOUT, says, "choose another with --runtime-dir")


def _lock(path: Path) -> Iterator[Finding]:
    holder = lock_holder(path)
    sockets = sorted(entry.name for entry in _entries(path) if entry.name.endswith(".sock") and _is_left(entry))
    if holder is not None:
        yield ok("lock", f"a daemon owns the directory: process {holder}")
    elif sockets:
        says = f"nobody owns the directory, and {', '.join(sockets)} {'is' if len(sockets) == 1 else 'are'} left over"
        yield warn("lock", says, "vestald replaces what a daemon that died has left")
    else:
        yield ok("lock", "free: no daemon owns the directory")


def _entries(path: Path) -> list[Path]:
    with suppress(OSError):  # said above
        return list(path.iterdir())
    return []


def _is_left(path: Path) -> bool:
    """Whether it is a socket at which nobody listens: not every file system shows its locks under its own number."""
    return _connected(path) == errno.ECONNREFUSED


def _connected(path: Path) -> int:
    """What comes of it: 0, or an error's number."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(0.0)
        return sock.connect_ex(os.fspath(path))


def lock_holder(path: Path) -> int | None:
    """The process that has the directory locked, by proc_locks(5); None if nobody is seen to."""
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        words = line.split()
        if "FLOCK" in words[1:2] and words[5:6] == [place]:
            return int(words[4])
    return None


def _writable(places: list[tuple[str, Path]]) -> Iterator[Finding]:
    for about, path in places:
        there = next(one for one in (path, *path.parents) if one.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield fail(about, f"{path} cannot be written to by {_name_of(os.geteuid())}", f"chown or chmod {there}")
        else:
            yield ok(about, f"{path} can be written to")


def _name_of(uid: int) -> str:
    with suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name} ({uid})"
    return f"user {uid}"
