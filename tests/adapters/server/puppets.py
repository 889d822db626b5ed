"""Backends whose server is a puppet, what they report, and what they are asked."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, TypeVar

from vestal.backend import GenerateRequest, Loading, Ready, Unavailable
from vestal.values import GenerateOptions, Message
from vestal_adapters.server.backend import ServerBackend
from vestal_adapters.server.options import ServerOptions

__all__ = ["Reports", "made", "request"]

HERE = Path(__file__).parent
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


def made(*arguments: str, place: str = "socket", **options: Any) -> ServerBackend:
    """A backend whose server is a puppet."""
    own = ["-P", str(HERE / "puppet.py"), f"--{place}", f"{{{place}}}"]
    table: dict[str, Any] = {
        "binary": sys.executable,
        "arguments": [*own, *arguments],
        "environment": {"PUPPET_KEY": "{key}"},
        "readable": [str(HERE)],
        "preset": "llamacpp",
        "ready_timeout": "50s",
    }
    table["environment"] |= options.pop("environment", {})
    return ServerBackend("served", ServerOptions(profile="custom", **(table | options)))


def request(text: str) -> GenerateRequest:
    return GenerateRequest(messages=[Message("user", text)], options=GenerateOptions(), cache_scope="1")
