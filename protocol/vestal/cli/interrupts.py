"""Ctrl-C while an answer streams: the first cancels the answer, the second ends the process, or the waiting.

The first must not raise: an exception in the middle of reading a frame would lose the connection, and with it the
daemon's last word. Nor may the handler cancel by itself, since it runs on top of the very code that holds the
connection's lock. So it asks a thread to.

Whoever is impatient presses it more often than that. A program that goes on after an answer is left says with
`between_answers` that there is nothing to end, and is interrupted `once` an answer.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from types import FrameType, TracebackType

__all__ = ["FirstCancels", "Then", "between_answers", "once"]

Then = Callable[[int, FrameType | None], object] | signal.Handlers


@contextmanager
def between_answers() -> Iterator[None]:
    """Within the block SIGINT ends nothing; an answer, and whatever reads keys, say themselves what it means there."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _nothing)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def once(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; one that comes while this one is on its way up ends nothing."""
    signal.signal(signal.SIGINT, _nothing)
    raise KeyboardInterrupt


def _nothing(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which would be handed down to children, and tells of a shell's background."""


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
