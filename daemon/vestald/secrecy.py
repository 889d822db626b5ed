"""This process leaves no image of its memory behind, and lets nobody of the same user look into it.

Prompts pass through it. A core dump would put them on disk; a debugger of any program of that user could read them.
"""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["keep_memory_private"]

_PR_SET_DUMPABLE = 4  # prctl(2)


def keep_memory_private() -> None:
    """No core dumps, no ptrace and no /proc/pid/mem for other processes of this user. Raises `OSError`.

    The limit is inherited by workers; the flag is not kept over `exec`, so they set their own.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl(PR_SET_DUMPABLE): {os.strerror(ctypes.get_errno())}")
