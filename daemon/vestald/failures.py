"""Why the daemon cannot run: one line for stderr, a hint, and the exit code that tells the truth (sysexits.h).

Failure
├── BadConfiguration   78  the file, a flag, the runtime directory, an adapter's options
├── AlreadyRunning     75  another instance owns the runtime directory
├── BackendFailed      69  a backend did not become ready
├── ServiceRefused     69  systemd, or the system, would not take the unit
├── Unwritten          74  what a command has to say could not be written
└── BackendAbandoned   70  a backend did not stop
"""

from __future__ import annotations

from typing import ClassVar

from vestal.errors import VestalError

__all__ = [
    "EX_INTERNAL",
    "AlreadyRunning",
    "BackendAbandoned",
    "BackendFailed",
    "BadConfiguration",
    "Failure",
    "ServiceRefused",
    "Unwritten",
]

EX_INTERNAL = 70


class Failure(VestalError):
    """The daemon ends, and says why in one line."""

    exit_code: ClassVar[int] = EX_INTERNAL


class BadConfiguration(Failure):
    exit_code = 78


class AlreadyRunning(Failure):
    exit_code = 75


class BackendFailed(Failure):
    exit_code = 69


class ServiceRefused(Failure):
    exit_code = 69


class Unwritten(Failure):
    exit_code = 74


class BackendAbandoned(Failure):
    exit_code = EX_INTERNAL
