"""Ctrl-C while an answer streams: the first cancels the answer, the second ends the process, or the waiting.

The first must not raise: an exception in the middle of reading a frame would lose the connection, and with it the
daemon's last word. Nor may the handler cancel by itself, since it runs on top of the very code that holds the
connection's lock. So it asks a thread to.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from threading import Thread
from types import FrameType, TracebackType

__all__ = ["FirstCancels"]

Then = Callable[[int, FrameType | None], object] | signal.Handlers


class FirstCancels:
    """Within the `with` block the first SIGINT calls what `aim` was given; one that comes before is kept for it. Of a
    second one `then` makes what it does: by default it ends the process."""

    def __init__(self, then: Then = signal.SIG_DFL) -> None:
        self._then = then
        self._before = signal.getsignal(signal.SIGINT)
        self._cancel: Callable[[], None] | None = None
        self.seen = False

    def aim(self, cancel: Callable[[], None]) -> None:
        """From now on, what ends the answer; it may be called twice, and from any thread."""
        self._cancel = cancel
        if self.seen:
            cancel()

    def __enter__(self) -> FirstCancels:
        if self._before is not signal.SIG_IGN:  # a shell's background job is not meant by Ctrl-C
            signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.signal(signal.SIGINT, self._then)
        if self._cancel is not None:
            Thread(target=self._cancel, daemon=True).start()
