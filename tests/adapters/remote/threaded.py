"""The tests' server in a thread of its own, for tests that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.adapters.remote.web import Server

__all__ = ["running"]


@contextmanager
def running(answer: Any, path: Path | None = None) -> Iterator[Server]:
    """It listens when the block begins, and is gone after it."""
    up, down = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    server = Server(answer, path=path)

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with server:
            up.set()
            await down.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert up.wait(20)
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(down.set)
        thread.join()
