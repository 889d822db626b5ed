"""What the service manager is told: ready, how far, stopping, and that the event loop still turns (sd_notify(3)).

One datagram a change, to the socket that NOTIFY_SOCKET names; without the variable nobody is told. A manager that
does not listen is no reason to stop or to wait: what it does not take is lost. Anybody may read a unit's status, so
it has names, states and percents, and nothing that a backend says in its own words.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Any

__all__ = ["ServiceManager"]

_WORST_CASE = 5.0  # seconds beyond its deadline in which a stop has ended in any case


class ServiceManager:
    """The manager that started this process, if one did."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._interval = _interval(environ) if self._address else None
        self._is_ready = False
        self._beat: asyncio.TimerHandle | None = None

    def event(self, _seq: int, kind: str, facts: dict[str, Any]) -> None:
        """Pass on what concerns a manager; a subscriber of the `EventHub`."""
        if kind == "daemon_state":
            self._state(facts["state"])
        elif kind == "backend_loading":
            self._tell(f"STATUS=loading {facts['backend']}: {facts['percent']:.0f} %")
        elif kind == "backend_state" and self._is_ready:
            self._tell(f"STATUS=backend {facts['backend']} is {facts['state']}")

    def _state(self, state: str) -> None:
        if state == "ready" and not self._is_ready:
            self._is_ready = True
            self._tell("READY=1", "STATUS=ready")
        else:
            self._tell(f"STATUS={state}")

    def stopping(self, deadline: float) -> None:
        """A stop has begun that may take `deadline` seconds, which the manager's own patience is not to cut short."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round((deadline + _WORST_CASE) * 1e6)}")

    def watch(self) -> None:
        """Begin to say, twice as often as asked for, that the event loop turns. Must be called on it."""
        if self._interval is not None:
            self._tell("WATCHDOG=1")
            self._beat = asyncio.get_running_loop().call_later(self._interval, self.watch)

    def close(self) -> None:
        """Say no more. Idempotent."""
        if self._beat is not None:
            self._beat.cancel()
        self._address = self._interval = None

    def _tell(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(assignments).encode(), self._address)
        except OSError:  # it has gone, or its queue is full
            pass

    def __repr__(self) -> str:
        beat = f" watchdog every {self._interval:g} s" if self._interval is not None else ""
        return f"<ServiceManager at {self._address!r}{beat}>" if self._address else "<ServiceManager: none>"


def _address(named: str) -> str | None:
    """A path, or with `@` a name in the abstract space; other kinds (`vsock:`) are for virtual machines."""
    if named.startswith("@"):
        return f"\0{named[1:]}"
    return named if named.startswith("/") else None


def _interval(environ: Mapping[str, str]) -> float | None:
    """Seconds from one sign of life to the next: half of what is asked for, if it is asked of this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isascii() and text.isdecimal() and int(text) > 0 else None
