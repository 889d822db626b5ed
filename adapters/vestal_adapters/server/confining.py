"""What a server's process can be kept from, although it is a program that nobody here has written.

The layers of a worker's sandbox that outlive `exec`: no new privileges, limits, no capabilities, and Landlock, which
leaves the system's libraries, what the operator names, the model, a directory for its socket or one port to listen
on, and the program itself to be run. Two do not: a process is dumpable again once it runs another program, and which
system calls a program needs is known of none. So it can be traced by other processes of its user (and has no core
dump), and it may make processes, threads and UDP sockets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vestal_adapters.worker.sandbox import OFF, Confinement, SandboxMode, landlock, limits, put_on
from vestal_adapters.worker.sandbox.trees import readable_trees, without_homes

__all__ = ["BEYOND", "confine_program"]

BEYOND = ("undumpable: running a program undoes it", "seccomp: nobody knows a program's system calls")
"""What no program is confined by; said of each that runs."""

OPEN_FILES = 4096
"""A connection for each request that runs, and each part of a model."""

_LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
_KERNEL = ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system", "/dev/urandom")
_LOADERS = (("/lib64", "ld-*.so*"), ("/lib", "ld-*.so*"), ("/lib", "*/ld-linux*.so*"))


def confine_program(
    mode: SandboxMode,
    binary: Path,
    *,
    files: Sequence[int],
    readable: Sequence[str],
    home: Path,
    port: int | None,
    memory: int | None,
) -> Confinement:
    """Put on what `binary` will have around it. `VestalError` if `mode` requires more than the kernel has."""
    if mode == "off":
        return OFF
    places = _places(binary, readable) | ({home: landlock.LISTEN} if port is None else {})

    def restricted() -> str:
        return f"landlock/{landlock.restrict(_trees(binary), files, places, () if port is None else (port,))}"

    def limited() -> str:
        limits.limit(memory, OPEN_FILES)
        return "limits"

    def unprivileged() -> str:
        limits.forbid_privileges()
        return "no_new_privs"

    def powerless() -> str:
        limits.drop_capabilities()
        return "capabilities"

    layers = {
        "no_new_privs": unprivileged,
        "limits": limited,
        "capabilities": powerless,
        "landlock": restricted,
    }
    put = put_on(mode, layers)
    return Confinement(put.layers, (*put.missing, *BEYOND))


def _trees(binary: Path) -> list[Path]:
    """Where libraries are: the system's, the program's own folder, and for Python what it imports from."""
    python = [Path(sys.base_prefix), Path(sys.prefix), *readable_trees()] if _is_python(binary) else []
    own = without_homes([binary.resolve().parent])
    return [*map(Path, _LIBRARIES), *map(Path, _KERNEL), *own, *python]


def _places(binary: Path, readable: Sequence[str]) -> dict[Path, int]:
    """What may be read beside the libraries, and what may be run: the program and its loader, and nothing else."""
    programs = [binary.resolve(), *(found for folder, name in _LOADERS for found in Path(folder).glob(name))]
    return {Path(path): landlock.READ for path in readable} | dict.fromkeys(programs, landlock.RUN)


def _is_python(binary: Path) -> bool:
    return binary.resolve() == Path(sys.executable).resolve()
