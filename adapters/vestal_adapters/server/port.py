"""Whose a port of the loopback is: what the kernel says, before anything is said to whoever listens there.

A server without a Unix socket binds the port that was chosen for it a moment after it was chosen, and in between any
user may. So the first question, which carries the key, waits until the kernel's table has a listener of this user.
Source: proc_pid_net(5); addresses are in the byte order of the machine, here that of x86-64 and ARM.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["listeners", "strangers"]

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_LISTENS = "0A"
_LOOPBACK = frozenset({"0100007F", "00000000", "0" * 32, "0000000000000000FFFF00000100007F"})
"""127.0.0.1, any address, any of IPv6, and 127.0.0.1 as IPv6 writes it."""


def strangers(port: int) -> str | None:
    """Why nothing is to be said to 127.0.0.1 at this port; `None` if this user alone listens, or nobody can tell."""
    lines: list[str] = []
    for table in _TABLES:
        with suppress(OSError):  # no IPv6, or no such kernel
            lines += table.read_text().splitlines()[1:]
    if not lines:
        return None
    found = set(listeners(lines, port))
    others = sorted(found - {os.geteuid()})
    if others:
        return f"port {port} is listened on by uid {others[0]}, and this is uid {os.geteuid()}"
    return None if found else f"nobody listens on port {port}"


def listeners(lines: Iterable[str], port: int) -> Iterator[int]:
    """The uids whose sockets answer on the loopback at this port; `lines` are the kernel's."""
    for line in lines:
        _, local, _, state, _, _, _, uid, *_ = line.split()
        address, _, number = local.partition(":")
        if state == _LISTENS and int(number, 16) == port and address in _LOOPBACK:
            yield int(uid)
