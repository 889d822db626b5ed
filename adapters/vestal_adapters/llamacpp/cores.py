"""How many threads can usefully compute: one per core this process may use, and no more than its CPU quota.

A second thread on the same core shares its arithmetic units, and more threads than the quota grants wait for
each other at every barrier of a step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["usable_cores"]

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpus: Path = _CPUS, quota: Path = _QUOTA) -> int:
    """At least 1. Where the machine does not tell, every logical processor counts as a core."""
    cores = _cores(_allowed(), cpus)
    limit = _quota(quota)
    return max(1, cores if limit is None else min(cores, limit))


def _allowed() -> Iterable[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)  # macOS


def _cores(allowed: Iterable[int], cpus: Path) -> int:
    """Groups of processors that share a core; the list of its siblings is the same for all of them."""
    return len({_read(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list") or f"cpu{cpu}" for cpu in allowed})


def _quota(path: Path) -> int | None:
    """Processors' worth of time per period, rounded up (cgroup v2: `QUOTA PERIOD` in microseconds, or `max`)."""
    words = _read(path).split()
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None
    return -(-int(words[0]) // int(words[1]))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
