"""What a backend tells its daemon, kept and waited for."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from vestal.backend import Loading, Ready, Unavailable

__all__ = ["Reports"]

T = TypeVar("T")


class Reports:
    """What a backend reported, in order, and a way to wait for the next that matters."""

    def __init__(self) -> None:
        self.seen: list[Loading | Ready | Unavailable] = []
        self._news: asyncio.Queue[Loading | Ready | Unavailable] = asyncio.Queue()

    def __call__(self, event: Loading | Ready | Unavailable) -> None:
        self.seen.append(event)
        self._news.put_nowait(event)

    async def until(self, kind: type[T]) -> T:
        while True:
            event = await self._news.get()
            if isinstance(event, kind):
                return event
