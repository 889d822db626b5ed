"""One JSON value a line, sans I/O: bytes in, lines out, as events of a stream. Ollama answers so.

Lines end in LF, or CRLF; empty ones are skipped, what is not UTF-8 is replaced. A line has a largest size. A last
line without its end may have been cut anywhere: it is no event, and `unfinished` says that there was one.
"""

from __future__ import annotations

from typing import ClassVar

from vestal_adapters.remote.sse import MAX_EVENT, Event, EventTooLarge

__all__ = ["LineParser"]


class LineParser:
    """Feed it what arrives."""

    media_type: ClassVar[str] = "application/x-ndjson"
    known_as: ClassVar[str] = "a stream of lines"

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._buffer = bytearray()  # the line that has not ended

    @property
    def unfinished(self) -> bool:
        """Whether there is something that no end of a line has completed."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises `EventTooLarge`."""
        *ended, rest = data.split(b"\n")
        events = [Event(text) for piece in ended if (text := self._line(piece))]
        self._keep(rest)
        return events

    def _line(self, piece: bytes) -> str:
        self._keep(piece)
        line = self._buffer.strip().decode(errors="replace")
        self._buffer.clear()
        return line

    def _keep(self, piece: bytes) -> None:
        self._buffer += piece
        if len(self._buffer) > self._limit:
            raise EventTooLarge(f"a line has more than {self._limit} bytes")

    def __repr__(self) -> str:
        return f"<LineParser {len(self._buffer)} bytes of a line>"
