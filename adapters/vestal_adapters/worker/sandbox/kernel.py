"""System calls that Python has no name for. The C library is loaded when this module is: later it could not be."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

__all__ = ["ARCHITECTURE", "address", "prctl", "system_call"]

ARCHITECTURE = platform.machine() if sys.platform == "linux" else ""
"""The kernel's name of this machine's kind; "" where the kernel is not Linux."""

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def system_call(number: int, *arguments: int) -> int:
    """Its result; `OSError` with what the kernel said."""
    # Each argument a full register: variadic C would otherwise leave the upper half of an int as it was.
    result = _syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result < 0:
        number_of_error = ctypes.get_errno()
        raise OSError(number_of_error, os.strerror(number_of_error))
    return int(result)


def prctl(option: int, argument: int = 0) -> int:
    """prctl(2); `OSError` with what the kernel said."""
    result = _libc.prctl(option, *(ctypes.c_ulong(value) for value in (argument, 0, 0, 0)))
    if result < 0:
        number_of_error = ctypes.get_errno()
        raise OSError(number_of_error, os.strerror(number_of_error))
    return int(result)


def address(buffer: ctypes.Array[ctypes.c_char] | ctypes.Structure) -> int:
    """Where it lies, for a call that takes a pointer; it must outlive the call."""
    return ctypes.addressof(buffer)
