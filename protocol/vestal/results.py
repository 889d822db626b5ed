"""Frames → what the user gets: the result of a `generate`, the vectors of an `embed`. Pure.

An `Answer` is all that was heard of one generate. Frames go in by the batch and are looked at once, by whoever
yields them; the result is assembled when it is asked for, so that a stream that is only printed pays nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from msgspec import Struct

from vestal import messages as m
from vestal.codec import exception_of
from vestal.errors import LocalProtocolError, RemoteProtocolError, VestalError
from vestal.values import (
    ContentBlock,
    Notice,
    StopReason,
    TextBlock,
    ThinkingBlock,
    Timings,
    TokenLogprob,
    ToolUseBlock,
    Usage,
    blocks_text,
)

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

__all__ = ["EVENTS", "Answer", "Embeddings", "GenerateEvent", "Result"]

GenerateEvent = m.Queued | m.Started | m.Token | m.Text | m.ThinkingDelta | m.ToolUse | m.Done
"""What `events()` yields: the frames of one `generate` as they came, `Done` last."""

EVENTS = (m.Text, m.Token, m.ThinkingDelta, m.Queued, m.Started, m.ToolUse, m.Done)  # the commonest first


class Result(Struct, frozen=True, kw_only=True):
    """A finished `generate`. `content` is the answer in blocks, in order; in v1 it is one text block.

    `logprobs` has an entry per token of the text if the request asked for that, and is empty otherwise.
    """

    content: list[ContentBlock]
    stop_reason: StopReason
    usage: Usage
    backend: str
    model: str
    timings: Timings
    notices: list[Notice]
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def text(self) -> str:
        """The answer without thinking and tool calls."""
        return blocks_text(self.content)

    @property
    def thinking(self) -> str:
        """What the model thought, empty where it did not."""
        return "".join(block.text for block in self.content if isinstance(block, ThinkingBlock))

    @property
    def tool_uses(self) -> list[ToolUseBlock]:
        """The tools the model asks for, in order."""
        return [block for block in self.content if isinstance(block, ToolUseBlock)]

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:60] + "…"
        return f"<Result {self.stop_reason} {text!r} {len(self.content)} blocks, {self.usage}>"


class Answer:
    """All frames of one generate, and how it ended. `version` is that of the protocol it was begun in.

    `cancelled`: the user asked for the end, and the daemon's confirmation counts. `closed`: nobody waits for it.
    """

    def __init__(self, version: int = 2) -> None:
        self.version = version
        self._frames: list[m.AnyMessage] = []
        self._done: m.Done | None = None
        self._error: VestalError | None = None
        self.cancelled = False
        self.closed = False

    def more(self) -> bool:
        """Whether frames are still to come. Raises the error that ended it."""
        if self._error is not None:
            raise self._error
        return self._done is None and not self.closed

    def add(self, frames: list[m.AnyMessage]) -> list[m.AnyMessage]:
        """Keep a batch; gives it back without an `error` at its end, which `more` raises."""
        last = frames[-1]  # only the last frame of a request is terminal
        if isinstance(last, m.Error):
            self._error = exception_of(last)
            frames = frames[:-1]
        elif isinstance(last, m.Done):
            self._done = last
        self._frames += frames
        return frames

    def lost(self, loss: VestalError) -> None:
        """The connection is gone: an end like another, unless nobody waits any more."""
        if not self.closed:
            self._error = loss

    def result(self) -> Result:
        """The result. Raises the error that ended it, or `LocalProtocolError` before the end."""
        if self._error is not None:
            raise self._error
        if self._done is None:
            what = "was closed before its end" if self.closed else "has not ended yet"
            hint = "cancel() instead keeps the result" if self.closed else "iterate it to its end first"
            raise LocalProtocolError(f"the stream {what}", hint=hint)
        done = self._done
        return Result(
            content=self._content(done),
            stop_reason=done.stop_reason,
            usage=done.usage,
            backend=done.backend,
            model=done.model,
            timings=done.timings,
            notices=done.notices,
            logprobs=done.logprobs or tuple(_logprobs(self._frames)),
        )

    def _content(self, done: m.Done) -> list[ContentBlock]:
        if done.content is not None:  # stream: false, v2
            return done.content
        if done.text is not None:  # stream: false, v1
            return [TextBlock(done.text)]
        blocks = list(_blocks(self._frames))
        return blocks or ([TextBlock("")] if self.version == 1 else [])

    def __repr__(self) -> str:
        end = self._done.stop_reason if self._done else repr(self._error) if self._error else "under way"
        return f"<Answer {len(self._frames)} frames, {end}>"


def _blocks(frames: list[m.AnyMessage]) -> Iterator[ContentBlock]:
    """Deltas of one kind in a row are one block; a tool call is a block of its own."""
    for kind, run in groupby(frames, type):
        if kind is m.Token:
            yield TextBlock("".join(frame.text for frame in run if isinstance(frame, m.Token)))
        elif kind is m.Text:
            yield TextBlock("".join(frame.delta for frame in run if isinstance(frame, m.Text)))
        elif kind is m.ThinkingDelta:
            yield ThinkingBlock("".join(frame.delta for frame in run if isinstance(frame, m.ThinkingDelta)))
        elif kind is m.ToolUse:
            yield from (ToolUseBlock(f.call_id, f.name, f.input) for f in run if isinstance(f, m.ToolUse))


def _logprobs(frames: list[m.AnyMessage]) -> Iterator[TokenLogprob]:
    for frame in frames:
        if isinstance(frame, (m.Token, m.Text)):
            yield from frame.logprobs


class Embeddings(Struct, frozen=True, kw_only=True):
    """Vectors of one `embed`: `count` rows of `dimensions` little-endian float32 each, in input order.

    Where several backends shared the texts, `parts` says who computed how many, in input order; `notices` has what the
    daemon adjusted.
    """

    count: int
    dimensions: int
    data: bytes
    usage: Usage
    model: str
    backend: str
    parts: tuple[m.EmbedPart, ...] = ()
    notices: tuple[Notice, ...] = ()

    @classmethod
    def of(cls, frame: m.Embeddings) -> Embeddings:
        """The vectors of a frame; raises `RemoteProtocolError` where its numbers do not agree."""
        expected = frame.count * frame.dimensions * 4
        if frame.dtype != "f32le" or len(frame.data) != expected:
            raise RemoteProtocolError(
                f"the daemon sent {len(frame.data)} bytes of {frame.dtype!r} for {frame.count} vectors of "
                f"{frame.dimensions} dimensions; expected {expected} bytes of 'f32le'"
            )
        if frame.parts and (shared := sum(part.count for part in frame.parts)) != frame.count:
            raise RemoteProtocolError(f"the daemon sent {frame.count} vectors, and the parts have {shared}")
        return cls(
            count=frame.count,
            dimensions=frame.dimensions,
            data=frame.data,
            usage=frame.usage,
            model=frame.model,
            backend=frame.backend,
            parts=tuple(frame.parts),
            notices=tuple(frame.notices),
        )

    def row(self, index: int) -> memoryview[float]:
        """Vector `index` as a read-only view of floats; nothing is copied on a little-endian machine."""
        if not -self.count <= index < self.count:
            raise IndexError(f"row {index} of {self.count}")
        start = index % self.count * self.dimensions
        return self._floats()[start : start + self.dimensions]

    @property
    def vectors(self) -> list[list[float]]:
        """All vectors as lists."""
        rows = (self.row(index) for index in range(self.count))
        return [list(row) for row in rows]

    def to_numpy(self) -> NDArray[float32]:
        """All vectors as a read-only array of shape (count, dimensions) over the same bytes. Needs numpy."""
        import numpy

        return numpy.frombuffer(self.data, dtype="<f4").reshape(self.count, self.dimensions)

    def _floats(self) -> memoryview[float]:
        if sys.byteorder == "little":
            return memoryview(self.data).cast("f")
        from array import array

        floats = array("f", self.data)
        floats.byteswap()
        return memoryview(floats)

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"<Embeddings {self.count} x {self.dimensions} by {self.model!r}, {self.usage}>"
