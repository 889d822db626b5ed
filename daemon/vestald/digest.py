"""What is refused, summed up for the log: a person is to see that it happens, and no caller can fill a disk with it.

The first refusal after a quiet time is told at once; those of the next ten seconds together, by code; and so on for as
long as there are any. Each single one is an event too, at debug.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from vestald.events import EventHub

__all__ = ["Digest"]

_PERIOD = 10.0  # seconds
_SUMMED = ("refused", "request_failed")


class Digest:
    """A subscriber of the hub, which emits `refusals` into it: how many of each code, in how many seconds."""

    def __init__(self, events: EventHub) -> None:
        self._events = events
        self._codes: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def event(self, _seq: int, kind: str, facts: dict[str, Any]) -> None:
        if kind not in _SUMMED:
            return
        self._codes[facts["code"]] += 1
        if self._timer is None:
            self._tell(0.0)

    def _tell(self, seconds: float) -> None:
        """Tell what has come together, and listen for a period; after one in which nothing came, no more."""
        self._timer = None
        if self._codes:
            codes, self._codes = dict(self._codes), Counter()
            self._timer = asyncio.get_running_loop().call_later(_PERIOD, self._tell, _PERIOD)
            self._events.emit("refusals", codes=codes, seconds=seconds)

    def close(self) -> None:
        """Tell what is left. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._tell(_PERIOD)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<Digest of {self._codes.total()} not yet told>"
