"""What the kernel tells of the daemon's processes: their memory, and where their log goes.

Both are for operators. The daemon reads them, and not the client, as its pids and paths are its own: a client in a
container with the socket mounted into it would look at other processes.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["log_place", "resident"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int | None) -> int | None:
    """Bytes of memory that the process has resident, shared pages included; None if there is none to ask."""
    if pid is None:
        return None
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE  # proc_pid_statm(5)
    except (OSError, ValueError, IndexError):
        return None


def log_place(number: int = 2) -> str:
    """Where what is written to a descriptor, by default standard error, goes; the words are SPEC.md's."""
    try:
        info = os.fstat(number)
        path = str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return ""
    if os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}":  # systemd.exec(5)
        return f"journal:{_unit()}"
    if stat.S_ISREG(info.st_mode):
        return f"file:{path}"
    if stat.S_ISCHR(info.st_mode):
        return "none" if path == os.devnull else f"terminal:{path}"
    return "pipe"


def _unit() -> str:
    """The systemd unit of this process: the innermost of its control group that is a service."""
    try:
        names = Path("/proc/self/cgroup").read_text().replace("\n", "/").split("/")
    except OSError:
        return ""
    return next((name for name in reversed(names) if name.endswith(".service")), "")
