"""What an engine on an NVIDIA GPU needs of the kernel beside what any engine needs, and nothing else.

The list was made by watching CUDA 13 (driver 580, H200) start, load a model and decode under a filter that asks about
every call; then each thing was taken away that it also works without. What is left opens the driver's devices and asks
things of them, listens on an abstract socket that nobody is let in by, and names threads. The driver is a large piece
of kernel code, and an engine that has been taken over may talk to it: that is what computing there costs. No program,
no connection and no file of the user's come with it, and no executable memory is mapped: code that has to be compiled
for the GPU at load (PTX) needs that, and fails. Where threads are named, root's worker can also write to its own
memory, read-only pages included, so that what it executes is no longer sure to be what was loaded. Another user's
cannot: an undumpable process's memory is root's file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from vestal_adapters.worker.sandbox.landlock import DEVICE, OVERWRITE, READ

__all__ = ["CALLS", "FCNTL_EQUAL", "IOCTL_EQUAL", "IOCTL_MASKED", "MEND", "NOT_THERE", "SOCKET", "lacking", "places"]

_CONTROL: tuple[Path, ...] = (Path("/dev/nvidiactl"), Path("/dev/nvidia-uvm"))
_READ = ("/proc/driver/nvidia", "/proc/devices", "/proc/cpuinfo", "/proc/sys/vm/mmap_min_addr", "/proc/self/maps",
         "/proc/self/status", "/sys/devices/system/cpu", "/sys/devices/system/memory",
         "/sys/devices/system/node")  # fmt: skip
_THREADS = Path("/proc/self/task")
"""CUDA writes to `N/comm` of threads that it has not started yet, so that no rule can be about these files alone."""

# name: (x86_64, aarch64); `None` where the machine has no such call.
CALLS: Mapping[str, tuple[int, int]] = {
    "eventfd2": (290, 19), "pipe2": (293, 59), "bind": (49, 200), "listen": (50, 201),
}  # fmt: skip
SOCKET = (41, 198)
"""Of Unix sockets that listen or connect only."""
NOT_THERE: Mapping[str, tuple[int | None, int | None]] = {"unlink": (87, None), "unlinkat": (263, 35)}
"""Answered with ENOENT, as CUDA gives up at anything else."""

IOCTL_MASKED = ((0xC000_FF00, 0xC000_4600), (0xFFFF_FF80, 0))
"""(bits of the request that are looked at, what they are): the driver's own ones, 'F' both ways (a screen's 'F' have no
direction), and those of unified memory, which are numbered up to 79 (from 200 on they are for its tests)."""
FCNTL_EQUAL = (5, 6, 7, 36, 37, 38, 1031, 1032, 1033, 1034)
"""Locks, the size of pipes and seals: of this call it was not watched which kinds there were, so that only those are
left out which choose whom a signal is sent to."""

IOCTL_EQUAL = (0x3000_0001, 0x3000_0002)
"""Unified memory's first and last question."""


MEND = (
    "install NVIDIA's driver and have it make its devices (nvidia-modprobe -u -c 0; a service needs them let through);"
    " for another maker's GPU sandbox = \"off\", if you trust the model's file"
)
"""What to do about what is lacking."""


def lacking() -> list[str]:
    """The driver's devices that are not there or not this user's to use, in words; none is as it should be."""
    gpus = sorted(_gpus()) or [Path("/dev/nvidia0")]
    return [f"{path} {wrong}" for path in (*_CONTROL, *gpus) if (wrong := _wrong(path))]


def _wrong(path: Path) -> str:
    if not path.exists():
        return "is not there"
    return "" if os.access(path, os.R_OK | os.W_OK) else "is not this user's to read and write"


def places() -> dict[Path, int]:
    """The paths, and what may be done there."""
    devices = dict.fromkeys((*_CONTROL, *_gpus()), DEVICE)
    return {**devices, **dict.fromkeys(map(Path, _READ), READ), _THREADS: OVERWRITE}


def _gpus() -> Iterator[Path]:
    return Path("/dev").glob("nvidia[0-9]*")
