"""Waiting for seconds in which this process runs.

A step of a stop has parts that end by timers of their own: ask, insist, kill. On a machine that holds the daemon up for
longer than all of them, every timer is due in the same turn of the event loop, and whoever waits for the whole would
give up before the first part was tried. What the machine takes is nobody's delay: time is counted in slices, and one
that was slept through counts for little more. Not for ever: a loop that is always late is somebody's fault.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Any, TypeVar

__all__ = ["wait_awake"]

T = TypeVar("T", bound=asyncio.Future[Any])

_SLICE = 0.05  # seconds
_MOST_HELD_UP = 5.0  # seconds beyond the timeout, all in all


async def wait_awake(what: Iterable[T], timeout: float) -> tuple[set[T], set[T]]:
    """`asyncio.wait` that counts slices and not the clock: those that are done, and those that are late."""
    done: set[T] = set()
    late = set(what)
    clock = asyncio.get_running_loop().time
    ends = clock() + timeout + _MOST_HELD_UP
    for _ in range(math.ceil(timeout / _SLICE)):
        if not late or clock() > ends:
            break
        now, late = await asyncio.wait(late, timeout=_SLICE)
        done |= now
    return done, late
