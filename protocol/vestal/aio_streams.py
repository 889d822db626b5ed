"""What an asyncio client hands out while a request runs. `vestal.streams`' twin.

A stream sends its request at the first step of its iteration, as connecting has to be awaited. Cancelling the
task that iterates cancels the request; so does leaving the `async with` block, or dropping the stream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Self

from vestal import messages as m
from vestal.aio_link import AsyncLink
from vestal.errors import ConnectionFailed, ConnectionLost, LocalProtocolError, RemoteProtocolError, WireError
from vestal.multiplex import Call, answer_of, says_goodbye
from vestal.results import EVENTS, Answer, GenerateEvent, Result

__all__ = ["AsyncEventStream", "AsyncStream", "AsyncSubscription", "Begin"]

Begin = Callable[[], Awaitable[tuple[AsyncLink, Call]]]


class _AsyncGeneration:
    """One `generate`: not begun, under way or ended. Iterate it in one task."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._link: AsyncLink | None = None
        self._call: Call | None = None
        self._answer = Answer()
        self._frames: Iterator[m.AnyMessage] = iter(())

    def cancel(self) -> None:
        """Ask the daemon to stop. Pieces are no longer yielded; iteration ends when the daemon confirms.

        `result` is valid then, holds what was generated until that moment, and its `stop_reason` is `cancelled`,
        or another one if the end was faster. No effect after the end; before the beginning nothing is sent.
        """
        self._answer.cancelled = True
        if self._link is None or self._call is None:
            self._answer.closed = True
        else:
            self._link.cancel(self._call)

    async def aclose(self) -> None:
        """Cancel if it is under way, and do not wait for the confirmation. Idempotent."""
        self._drop()

    async def finish(self) -> Result:
        """Read to the end and give the result."""
        while await self._fetch():
            pass
        return self.result

    @property
    def result(self) -> Result:
        """The result, after the end. Raises the error that ended it, or `LocalProtocolError` before the end."""
        return self._answer.result()

    async def _fetch(self) -> bool:
        """Put the next batch in `_frames`; waits until there is one. False after the end, or raises what ended it."""
        if not self._answer.more():
            return False
        try:
            if self._link is None or self._call is None:
                self._link, self._call = await self._begin()
                self._answer.version = self._link.mux.connection.version
            self._frames = iter(self._answer.add(await self._link.wait(self._call)))
        except (ConnectionFailed, RemoteProtocolError, WireError) as end:
            self._answer.lost(end)
        except LocalProtocolError:  # of this step, not of the request: another task may be reading it
            raise
        except BaseException:
            self._drop()  # the task was cancelled: so is its request
            raise
        return True

    def _drop(self) -> None:
        self._answer.cancelled = self._answer.closed = True
        if self._link is not None and self._call is not None:
            self._link.abandon(self._call)

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def __del__(self) -> None:
        if self._link is not None and self._call is not None:
            self._link.abandon_soon(self._call)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._call.name if self._call else 'not begun'} {self._answer!r}>"


class AsyncStream(_AsyncGeneration):
    """The answer's text, piece by piece. Thinking and tool calls are in `result`."""

    async def __anext__(self) -> str:
        answer = self._answer
        while True:
            for frame in self._frames:
                if answer.cancelled:
                    break
                if isinstance(frame, m.Text):
                    return frame.delta
                if isinstance(frame, m.Token):
                    return frame.text
            if not await self._fetch():
                raise StopAsyncIteration


class AsyncEventStream(_AsyncGeneration):
    """All frames of the request as the wire has them, `Done` last. After `cancel` only `Done`."""

    async def __anext__(self) -> GenerateEvent:
        answer = self._answer
        while True:
            for frame in self._frames:
                if isinstance(frame, EVENTS) and (not answer.cancelled or isinstance(frame, m.Done)):
                    return frame
            if not await self._fetch():
                raise StopAsyncIteration


class AsyncSubscription:
    """An operator's view: one `Snapshot`, then an `Event` per change, on a connection of its own.

    Iteration ends when this side closes it, or the daemon goes and said so; otherwise `ConnectionLost` is raised.
    """

    def __init__(self, dial: Callable[[], Awaitable[AsyncLink]]) -> None:
        self._dial = dial
        self._link: AsyncLink | None = None
        self._call: Call | None = None
        self._frames: Iterator[m.AnyMessage] = iter(())
        self._going = False
        self._closed = False

    @property
    def goaway(self) -> m.Goaway | None:
        """What the daemon said when it began to drain."""
        return None if self._link is None else self._link.mux.goaway

    async def aclose(self) -> None:
        """End the subscription. Idempotent."""
        self._closed = True
        if self._link is not None:
            await self._link.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> m.Snapshot | m.Event:
        while not self._closed:
            for frame in self._frames:
                self._going = self._going or says_goodbye(frame)
                if isinstance(frame, (m.Snapshot, m.Event)):
                    return frame
                answer_of([frame], m.Event)
            self._frames = await self._next_frames()
        raise StopAsyncIteration

    async def _next_frames(self) -> Iterator[m.AnyMessage]:
        try:
            if self._link is None or self._call is None:
                self._link = await self._dial()
                self._call = await self._link.open(m.Subscribe(id=self._link.mux.next_id()))
            return iter(await self._link.wait(self._call))
        except ConnectionLost:
            if not (self._closed or self._going or self.goaway):
                raise
            self._closed = True
            return iter(())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncSubscription {'closed' if self._closed else 'open'} {self._link!r}>"
