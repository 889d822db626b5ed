"""What happens, told to whoever subscribed: admin connections, and the log.

An event is a kind and a few facts, never content. The hub keeps none; a subscriber that cannot keep up loses
events and is told how many.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

__all__ = ["EventHub", "Subscriber"]

Subscriber = Callable[[int, str, dict[str, Any]], None]
"""(sequence number, kind, facts); must not block or raise."""

_log = logging.getLogger("vestald")
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}


class EventHub:
    """Numbers events and hands them on, synchronously."""

    def __init__(self) -> None:
        self.seq = 0
        self._subscribers: set[Subscriber] = set()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Hand every later event to `subscriber`; returns the function that ends it."""
        self._subscribers.add(subscriber)
        return lambda: self._subscribers.discard(subscriber)

    def emit(self, kind: str, *, level: str = "info", **facts: Any) -> None:
        """Tell everybody. `facts` must be what MessagePack can carry."""
        self.seq += 1
        if _log.isEnabledFor(_LEVELS[level]):
            _log.log(
                _LEVELS[level],
                "%s %s",
                kind,
                " ".join(f"{key}={_shown(value)}" for key, value in facts.items()),
                extra={"event": kind, "facts": facts},
            )
        for subscriber in tuple(self._subscribers):
            subscriber(self.seq, kind, facts)


def _shown(value: object) -> str:
    text = str(value)
    return ascii(text) if " " in text or not text.isascii() or not text.isprintable() else text
