"""Whether a worker still answers: asked again and again, busy or idle, for as long as it lives.

Of a heartbeat's time one tenth passes between two questions and the rest is for the answer, so a worker that stops
answering is found out within the whole of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

__all__ = ["until_silent"]

QUESTIONS = 10
# A daemon that was itself stopped finds timers that are over before it finds the answer that came meanwhile.
AFTERTHOUGHT = 0.05


async def until_silent(died: asyncio.Event, patience: float, ask: Callable[[float], Awaitable[bool]]) -> bool:
    """True once `ask`, given some seconds, has had no answer for `patience` in all; False when `died` is set."""
    while not await _set_within(died, patience / QUESTIONS):
        for timeout in (patience * (1 - 1 / QUESTIONS), AFTERTHOUGHT):
            if await ask(timeout):
                break
        else:
            return True
    return False


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    # Not `wait_for`: it swallows a cancellation that comes together with the event (Python 3.11).
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
