"""What a blocking client hands out while a request runs: text pieces, events, an operator's subscription.

Each is its own iterator, so that a loop can be left and taken up again. One that nobody holds any more, or whose
`with` block is left, cancels its request: the daemon does not compute for nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from vestal import messages as m
from vestal.errors import ConnectionLost, RemoteProtocolError
from vestal.link import Link
from vestal.multiplex import Call, answer_of, says_goodbye
from vestal.results import EVENTS, Answer, GenerateEvent, Result

__all__ = ["EventStream", "Stream", "Subscription"]


class _Generation:
    """One `generate` under way. Iterate it in one thread; `cancel` and `close` are for any thread."""

    def __init__(self, link: Link, call: Call) -> None:
        self._link = link
        self._call = call
        self._answer = Answer(link.mux.connection.version)
        self._frames: Iterator[m.AnyMessage] = iter(())

    def cancel(self) -> None:
        """Ask the daemon to stop. Pieces are no longer yielded; iteration ends when the daemon confirms.

        `result` is valid then, holds what was generated until that moment, and its `stop_reason` is `cancelled`,
        or another one if the end was faster. No effect after the end.
        """
        self._answer.cancelled = True
        self._link.cancel(self._call)

    def close(self) -> None:
        """Cancel if it is under way, and do not wait for the confirmation. Idempotent."""
        self._answer.cancelled = self._answer.closed = True
        self._link.abandon(self._call)

    def finish(self) -> Result:
        """Read to the end and give the result."""
        while self._fetch():
            pass
        return self.result

    @property
    def result(self) -> Result:
        """The result, after the end. Raises the error that ended it, or `LocalProtocolError` before the end."""
        return self._answer.result()

    def _fetch(self) -> bool:
        """Put the next batch in `_frames`; blocks until there is one. False after the end, or raises what ended it."""
        if not self._answer.more():
            return False
        frames = None
        try:
            frames = self._link.wait(self._call)
            self._frames = iter(self._answer.add(frames))
        except (ConnectionLost, RemoteProtocolError) as loss:
            self._answer.lost(loss)
        except BaseException:
            if frames is not None:  # an interrupt between taking and keeping: what is missing cannot be told
                self._answer.lost(ConnectionLost(f"{self._call.name} was interrupted amid a piece"))
            raise
        return True

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_call"):  # an interrupt may strike before __init__ has run
            self._link.abandon(self._call)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._call.name} {self._answer!r}>"


class Stream(_Generation):
    """The answer's text, piece by piece. Thinking and tool calls are in `result`."""

    def __next__(self) -> str:
        answer = self._answer
        while True:
            for frame in self._frames:
                if answer.cancelled:
                    break
                if isinstance(frame, m.Text):
                    return frame.delta
                if isinstance(frame, m.Token):
                    return frame.text
            if not self._fetch():
                raise StopIteration


class EventStream(_Generation):
    """All frames of the request as the wire has them, `Done` last. After `cancel` only `Done`."""

    def __next__(self) -> GenerateEvent:
        answer = self._answer
        while True:
            for frame in self._frames:
                if isinstance(frame, EVENTS) and (not answer.cancelled or isinstance(frame, m.Done)):
                    return frame
            if not self._fetch():
                raise StopIteration


class Subscription:
    """An operator's view: one `Snapshot`, then an `Event` per change. It has a connection of its own, as the
    protocol ends a subscription only with its connection.

    Iteration ends when this side closes it, or the daemon goes and said so; otherwise `ConnectionLost` is raised.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._call = link.open(m.Subscribe(id=link.mux.next_id()))
        self._frames: Iterator[m.AnyMessage] = iter(())
        self._going = False
        self._closed = False

    @property
    def goaway(self) -> m.Goaway | None:
        """What the daemon said when it began to drain."""
        return self._link.mux.goaway

    def close(self) -> None:
        """End the subscription, from any thread. Idempotent."""
        self._closed = True
        self._link.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> m.Snapshot | m.Event:
        while not self._closed:
            for frame in self._frames:
                self._going = self._going or says_goodbye(frame)
                if isinstance(frame, (m.Snapshot, m.Event)):
                    return frame
                answer_of([frame], m.Event)
            self._frames = self._next_frames()
        raise StopIteration

    def _next_frames(self) -> Iterator[m.AnyMessage]:
        try:
            return iter(self._link.wait(self._call))
        except ConnectionLost:
            if not (self._closed or self._going or self.goaway):
                raise
            self._closed = True
            return iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_link"):
            self._link.close()

    def __repr__(self) -> str:
        return f"<Subscription {'closed' if self._closed else 'open'} {self._link!r}>"
