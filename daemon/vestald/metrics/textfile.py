"""The metrics as a file, for node_exporter's textfile collector: whole at every moment, never older than `interval`.

It is written beside its name and renamed, so no reader finds half of one. When the daemon stops the file goes, as
numbers of a daemon that is gone look like those of one that has nothing to do. A disk that is full is told once, and
costs the file's freshness and nothing else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vestald.events import EventHub
from vestald.failures import BadConfiguration

__all__ = ["Textfile"]

_LEAST = 1.0  # seconds
_MODE = 0o644  # node_exporter runs as somebody else
_KEY = "metrics.textfile"


class Textfile:
    """`begin` writes it for the first time, and then again and again until `aclose`."""

    def __init__(self, path: Path, interval: float, text: Callable[[], str], events: EventHub) -> None:
        self._path = path
        self._interval = interval
        self._text = text
        self._events = events
        self._fault = ""
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Raises `BadConfiguration` if it cannot be written: that is noticed at the start, not at the first outage."""
        if self._path.suffix != ".prom":
            raise BadConfiguration(f"{_KEY}: {self._path} is not read by node_exporter", hint="let it end in .prom")
        if self._interval < _LEAST:
            raise BadConfiguration(f"metrics.interval is {self._interval:g} s, and may be {_LEAST:g} s at least")
        try:
            self._write(self._text())
        except OSError as exc:
            hint = "name a file in a directory that this user may write to"
            raise BadConfiguration(f"{_KEY}: cannot write {self._path}: {exc.strerror}", hint=hint) from exc
        self._task = asyncio.create_task(self._keep_fresh(), name="metrics textfile")

    async def aclose(self) -> None:
        """Remove it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
            with suppress(OSError):
                self._path.unlink()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            fault = ""
            try:
                # The registry is the event loop's; only the disk, which may be slow, is not waited for.
                await asyncio.to_thread(self._write, self._text())
            except OSError as exc:
                fault = exc.strerror or str(exc)
            if fault != self._fault:
                self._fault = fault
                kind, level = ("metrics_file_stale", "warning") if fault else ("metrics_file_fresh", "info")
                self._events.emit(kind, level=level, path=str(self._path), fault=fault)

    def _write(self, text: str) -> None:
        incoming = self._path.with_name(f".{self._path.name}.new")
        incoming.unlink(missing_ok=True)
        descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(descriptor, _MODE)
        incoming.replace(self._path)

    def __repr__(self) -> str:
        return f"<Textfile {self._path} {self._fault or 'fresh'}>"
