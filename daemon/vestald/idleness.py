"""Leaving when nobody needs it: a daemon that was started on demand goes once it has had no connection for so long.

Work needs a connection (it is cancelled with it), so counting connections counts both; an operator's counts too.
Only a ready daemon leaves: one that loads is about to be needed, one that drains is in somebody's hands. And until
the first has come it waits a while in any case: whoever started it looks at intervals whether it is ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["IdleExit"]


_FIRST = 5.0  # seconds that a daemon waits for its first connection at least


class IdleExit:
    """Calls `leave` with the reason after `limit` seconds without a connection; never if `limit` is None."""

    def __init__(self, limit: float | None, leave: Callable[[str], None]) -> None:
        self._limit = limit
        self._leave = leave
        self._timer: asyncio.TimerHandle | None = None
        self._needed = False  # whether anybody has come since it is ready

    def saw(self, connections: int, *, ready: bool) -> None:
        """Somebody came or went, or the daemon's state changed."""
        self._needed = self._needed or (ready and connections > 0)
        idle = ready and not connections
        if idle and self._timer is None and self._limit is not None:
            limit = self._limit if self._needed else max(self._limit, _FIRST)
            why = f"nobody was connected for {limit:g} s (daemon.idle_exit = {self._limit:g} s)"
            self._timer = asyncio.get_running_loop().call_later(limit, self._leave, why)
        elif not idle and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<IdleExit {'idle' if self._timer is not None else 'needed'} limit={self._limit}>"
