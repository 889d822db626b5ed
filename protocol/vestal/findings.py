"""What `vestal doctor` says: one thing that was looked at, how it is, and the command that mends it.

Whoever knows a part looks at it: the client at sockets and models, the daemon at its configuration and directory, an
adapter (`Backend.examine`) at what its engine needs. All of them speak in findings, which are also what travels between
the two programs, as JSON.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from vestal.errors import VestalError

__all__ = ["Finding", "Level", "fail", "failed", "ok", "warn"]

Level = Literal["ok", "warn", "fail"]
"""`warn`: it works, and not as well or as safely as it could. `fail`: something will not work."""


class Finding(Struct, frozen=True, omit_defaults=True):
    """`about` is the part in a word or two, `says` a fact with its numbers, `mend` what to do, often a command.

    `memory` is what the part is going to take, in bytes, and does not have yet: whoever sees all parts adds it up.
    """

    about: str
    level: Level
    says: str
    mend: str = ""
    memory: int = 0


def ok(about: str, says: str, *, memory: int = 0) -> Finding:
    return Finding(about, "ok", says, memory=memory)


def warn(about: str, says: str, mend: str = "", *, memory: int = 0) -> Finding:
    return Finding(about, "warn", says, mend, memory)


def fail(about: str, says: str, mend: str = "", *, memory: int = 0) -> Finding:
    return Finding(about, "fail", says, mend, memory)


def failed(about: str, error: VestalError, level: Level = "fail") -> Finding:
    """What an error says, with its hint as what to do."""
    return Finding(about, level, error.message, error.hint or "")
