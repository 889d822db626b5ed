"""Work that somebody else wrote, ended when it has taken too long: for a model's template, which may loop for ever.

The time is that of the processor in this process, so that a busy machine makes no template slow. A signal ends
the work between two steps of Python; a single step that never ends is the heartbeat's business. Only the main
thread can be interrupted, which is where a worker does everything.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

__all__ = ["within"]

T = TypeVar("T")


class _Over(BaseException):
    """Not an `Exception`: what the template calls must not be able to catch it."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns; `TimeoutError` once it has computed for `seconds`."""
    before = signal.signal(signal.SIGVTALRM, _interrupt)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _Over:
        raise TimeoutError(f"not done after {seconds:g} s of computing") from None
    finally:
        signal.signal(signal.SIGVTALRM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Over
