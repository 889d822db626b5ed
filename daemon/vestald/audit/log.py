"""The audit log beside the event loop: a bounded queue, and one thread that writes what is in it.

`add` never waits and never raises. What does not fit the queue (a slow disk), or the disk (a full one), is dropped
and counted, and a `dropped` line in the chain says how many as soon as one can be written again. The daemon serves on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from vestal.audit import Head, Record

__all__ = ["QUEUE", "AuditLog", "Writer"]

QUEUE = 8192
"""Lines that wait for the disk; a few megabytes."""

_log = logging.getLogger("vestald")


class Writer(Protocol):
    """What the thread writes with: a `Journal`."""

    head: Head
    fault: str

    def append(self, records: list[Record]) -> int: ...
    def close(self) -> None: ...


class AuditLog:
    """One writer and the queue to it. Made on the event loop's thread, which alone calls `add`."""

    def __init__(self, writer: Writer, queue: int = QUEUE) -> None:
        self._writer = writer
        self._bound = queue
        self._waiting: deque[Record] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._ended: Callable[[], object] = lambda: None
        self._overflowed = 0  # by the loop's thread
        self._lost = 0  # by the writer's thread
        self._told = 0  # of both, what a `dropped` line has said
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def head(self) -> Head:
        """The last line on disk."""
        return self._writer.head

    @property
    def dropped(self) -> int:
        """Lines that were lost since the start."""
        return self._overflowed + self._lost

    @property
    def fault(self) -> str:
        """Why the last write failed; empty if it did not."""
        return self._writer.fault

    def add(self, event: str, **facts: Any) -> None:
        """Put a line on its way. Facts are numbers, texts, and lists of them; never content."""
        if len(self._waiting) >= self._bound or self._closing:
            self._overflowed += 1
            return
        self._waiting.append(Record(time.time(), event, facts))
        if not self._wake.is_set():
            self._wake.set()

    async def aclose(self, patience: float) -> bool:
        """Write what waits, for at most `patience` seconds, and close; whether all is on disk. Idempotent."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._ended = lambda: loop.call_soon_threadsafe(ended.set)
        self._closing = True
        self._wake.set()
        try:
            async with asyncio.timeout(patience if self._thread.is_alive() else 0):
                await ended.wait()
        except TimeoutError:
            pass
        if self._thread.is_alive() and not ended.is_set():
            _log.error("the audit log did not take its last %d lines within %g s", len(self._waiting), patience)
            return False
        return not self.dropped

    # --- the writer's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()  # before the queue is looked at: what comes later wakes it again
            last = self._closing
            try:
                self._write()
            except Exception as fault:  # a fact that JSON cannot say, a bug: it must not end the log
                self._lost += 1
                _log.error("audit log: %s in its writer", type(fault).__name__)
            if last:
                self._writer.close()
                with suppress(RuntimeError):  # the loop was closed, as this took longer than the patience
                    self._ended()
                return

    def _write(self) -> None:
        records = [self._waiting.popleft() for _ in range(len(self._waiting))]
        dropped = self.dropped
        untold = dropped - self._told
        if untold:
            records.insert(0, Record(time.time(), "dropped", {"count": untold, "in_all": dropped}))
        if not records:
            return
        failed_before = bool(self._writer.fault)
        written = self._writer.append(records)
        if untold and written:
            self._told = dropped
        self._lost += len(records) - max(written, 1 if untold else 0)
        self._report(failed_before)

    def _report(self, failed_before: bool) -> None:
        if self._writer.fault and not failed_before:
            _log.error("audit log: %s; lines are dropped until it can be written again", self._writer.fault)
        elif failed_before and not self._writer.fault:
            _log.warning("audit log: it is written again; %d lines were dropped in all", self.dropped)

    def __repr__(self) -> str:
        return f"<AuditLog {self._writer!r} waiting={len(self._waiting)} dropped={self.dropped}>"
