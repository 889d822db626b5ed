"""What a process can give up by itself: gaining privileges, being looked into, and growing."""

from __future__ import annotations

import ctypes
import resource
import struct

from vestal_adapters.worker.sandbox.kernel import ARCHITECTURE, address, prctl, system_call

__all__ = ["drop_capabilities", "forbid_privileges", "hide", "limit"]

OPEN_FILES = 128
"""A model in parts takes one each; Python and the engine a handful."""

_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522


def forbid_privileges() -> None:
    """No program run from here on gains rights by its file; also what lets anybody use the other layers."""
    prctl(_SET_NO_NEW_PRIVS, 1)


def hide() -> None:
    """No core dump, and no other process of this user may trace it or read its memory and descriptors."""
    prctl(_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit(memory: int | None, files: int = OPEN_FILES) -> None:
    """No file grows, few are open; `memory` is the most bytes of private memory, `None` as many as there are.

    Not the address space (RLIMIT_AS): a mapped model counts there, and costs nothing that is not the page
    cache's. Not the number of processes: it counts all of this user's, threads too, and seccomp forbids new ones.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = files if hard == resource.RLIM_INFINITY else min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def drop_capabilities() -> None:
    """For a daemon of root's: its workers are root by name only. Nothing is lost where there was nothing."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    none = ctypes.create_string_buffer(24)
    system_call(_CAPSET[ARCHITECTURE], address(header), address(none))
