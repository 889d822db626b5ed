"""Frames on a byte stream: a `u32` big-endian payload length, then the payload.

The limit is checked on the prefix, before a byte of the payload is kept. The reader never copies a payload
that arrived whole: what it yields are views that are valid until the next call of `feed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct as Packer

from vestal.errors import FrameTooLarge, MalformedFrame

__all__ = ["HANDSHAKE_FRAME_LIMIT", "MAX_FRAME_LIMIT", "PREFIX", "FrameReader", "frame"]

PREFIX = Packer(">I")
HANDSHAKE_FRAME_LIMIT = 64 * 1024
MAX_FRAME_LIMIT = 64 * 1024 * 1024


def frame(payload: bytes, limit: int = MAX_FRAME_LIMIT) -> bytes:
    """One frame. Raises `FrameTooLarge` for a payload over `limit` bytes."""
    if len(payload) > limit:
        raise too_large(len(payload), limit)
    return PREFIX.pack(len(payload)) + payload


def too_large(size: int, limit: int) -> FrameTooLarge:
    return FrameTooLarge(
        f"frame of {size} bytes, the limit is {limit}",
        hint="send less in one message; before `welcome` the limit is 65536 bytes"
        if limit == HANDSHAKE_FRAME_LIMIT
        else "send less in one message; `welcome.limits.frame` tells the limit",
        details={"size": size, "limit": limit},
    )


class FrameReader:
    """Cuts a byte stream into payloads. `limit` may be raised between two payloads (after the handshake)."""

    def __init__(self, limit: int = HANDSHAKE_FRAME_LIMIT) -> None:
        self.limit = limit
        self._pending = bytearray()
        self._needed = PREFIX.size  # bytes before another frame can be complete

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """Yield every payload completed by `data`. Consume the iterator whole before feeding again.

        Raises `FrameTooLarge` at a prefix over the limit; the reader is of no use after that.
        """
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return
            data, self._pending = self._pending, bytearray()
        yield from self._cut(memoryview(data))

    def _cut(self, view: memoryview) -> Iterator[memoryview]:
        unpack, offset, end = PREFIX.unpack_from, 0, len(view)
        while end - offset >= PREFIX.size:
            (size,) = unpack(view, offset)
            if size > self.limit:
                raise too_large(size, self.limit)
            stop = offset + PREFIX.size + size
            if stop > end:
                break
            yield view[offset + PREFIX.size : stop]
            offset = stop
        if offset < end:
            self._keep(view[offset:])

    def _keep(self, rest: memoryview) -> None:
        self._pending += rest
        self._needed = PREFIX.size
        if len(rest) >= PREFIX.size:
            self._needed += PREFIX.unpack_from(rest)[0]

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame held back."""
        return len(self._pending)

    def eof(self) -> None:
        """The stream has ended; raises `MalformedFrame` if that was inside a frame."""
        if self._pending:
            raise MalformedFrame(
                f"the stream ended inside a frame: {len(self._pending)} of at least {self._needed} bytes",
                details={"received": len(self._pending), "expected": self._needed},
            )

    def __repr__(self) -> str:
        return f"<FrameReader pending={len(self._pending)} limit={self.limit}>"
