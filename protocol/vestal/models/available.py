"""How much memory this process may still take: what the machine has, and what its control groups leave.

A limit of any group on the way from the process's own to the root counts. Of what a group uses, pages of files that
nobody has touched lately can be had back at once, and are not counted (`inactive_file`).

Sources: proc(5) for meminfo; the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from vestal.models.memory import Available

__all__ = ["available_memory"]

_Read = Callable[[Path], int | None]
_NO_LIMIT = 1 << 60  # version 1 says "none" with a number near 2**63


def available_memory(root: Path = Path("/")) -> Available | None:
    """The tightest bound; `None` where the system says nothing. `root` is where /proc and /sys are looked for."""
    bounds = [*_machine(root / "proc"), *_groups(root / "proc", root / "sys/fs/cgroup")]
    return min(bounds, key=lambda bound: bound.size, default=None)


def _machine(proc: Path) -> Iterator[Available]:
    for line in _lines(proc / "meminfo"):
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            yield Available(int(rest.split()[0]) * 1024, "MemAvailable of the machine")


def _groups(proc: Path, mount: Path) -> Iterator[Available]:
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for top in (mount, mount / "unified"):
                yield from _walk(top, path, _version_two)
        elif "memory" in controllers.split(","):
            yield from _walk(mount / "memory", path, _version_one)


def _walk(top: Path, path: str, read: _Read) -> Iterator[Available]:
    """Every group from the process's own up to the mount's root, which in a container may be its own."""
    inner = Path(path.strip("/"))
    for group in (inner, *inner.parents):
        if ".." in group.parts:  # a namespace shows groups above its own so; they are not in this mount
            continue
        free = read(top / group)
        if free is not None:
            yield Available(max(free, 0), f"memory limit of the control group /{'' if group == Path() else group}")


def _version_two(group: Path) -> int | None:
    limits = [_number(group / name) for name in ("memory.max", "memory.high")]
    return _free(group, limits, "memory.current", "inactive_file")


def _version_one(group: Path) -> int | None:
    return _free(group, [_number(group / "memory.limit_in_bytes")], "memory.usage_in_bytes", "total_inactive_file")


def _free(group: Path, limits: list[int | None], usage: str, reclaimable: str) -> int | None:
    limit = min((limit for limit in limits if limit is not None), default=_NO_LIMIT)
    used = _number(group / usage)
    if limit >= _NO_LIMIT or used is None:
        return None
    cached = 0
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        cached = int(value) if name == reclaimable else cached
    return limit - max(used - cached, 0)


def _number(file: Path) -> int | None:
    """The number in a file; `None` if there is no such file or it says `max`."""
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lines(file: Path) -> list[str]:
    with suppress(OSError):  # no such controller, or not for this process to see
        return file.read_text("utf-8", "replace").splitlines()
    return []
