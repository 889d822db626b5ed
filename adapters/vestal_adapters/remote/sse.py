"""Server-sent events, sans I/O: bytes in, events out, by the rules of the WHATWG HTML standard, section 9.2.

Lines end in CR, LF or CRLF, wherever the network cuts them; what is not UTF-8 is replaced. A line and an event have
a largest size, so that a server that never ends one costs a bounded amount of memory. An event that the stream
ends in the middle of is no event: `unfinished` says that there was one. A field is added to the standard's: `error`.
"""

from __future__ import annotations

import re
from typing import ClassVar

from msgspec import Struct

__all__ = ["MAX_EVENT", "Event", "EventTooLarge", "SseParser"]

MAX_EVENT = 4 << 20  # bytes of a line, and of an event's lines together: a tool call with its arguments is one event

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """A line, or an event, is longer than the limit."""


class Event(Struct, frozen=True):
    """One event: its lines of data joined by newlines."""

    data: str
    kind: str = "message"


class SseParser:
    """Feed it what arrives. Comments, `id` and `retry` concern reconnecting, which nobody here does."""

    media_type: ClassVar[str] = "text/event-stream"
    known_as: ClassVar[str] = "an event stream"

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0  # bytes of the buffer that hold no line's end
        self._skips_lf = False  # the last line ended in CR, which may be half of CRLF
        self._first = True
        self._data: list[str] = []
        self._size = 0
        self._kind = ""

    @property
    def unfinished(self) -> bool:
        """Whether there is something that no blank line has completed."""
        return bool(self._buffer or self._data or self._kind)

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises `EventTooLarge`."""
        if self._skips_lf and data:
            data = data.removeprefix(b"\n") if data[:1] == b"\n" else data
            self._skips_lf = False
        self._buffer += data
        events = [event for line in self._lines() if (event := self._line(line)) is not None]
        if len(self._buffer) > self._limit:
            raise EventTooLarge(f"a line has more than {self._limit} bytes")
        return events

    def _lines(self) -> list[bytes]:
        lines, start = [], 0
        for end in _LINE_END.finditer(self._buffer, self._scanned):
            lines.append(bytes(self._buffer[start : end.start()]))
            start = end.end()
        self._skips_lf = start > 0 and start == len(self._buffer) and self._buffer[start - 1] == 0x0D
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        return lines

    def _line(self, line: bytes) -> Event | None:
        if self._first:
            line, self._first = line.removeprefix(_BOM), False
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode(errors="replace")
        if field == b"error":  # llama-server's, until late in 2025; the standard ignores what it does not know
            field, text = b"data", f'{{"error": {text}}}'
        if field == b"data":
            self._size += len(line)
            if self._size > self._limit:
                raise EventTooLarge(f"an event has more than {self._limit} bytes")
            self._data.append(text)
        elif field == b"event":
            self._kind = text
        return None

    def _dispatch(self) -> Event | None:
        lines, kind = self._data, self._kind
        self._data, self._kind, self._size = [], "", 0
        return Event("\n".join(lines), kind or "message") if lines else None

    def __repr__(self) -> str:
        return f"<SseParser {len(self._buffer)} bytes of a line, {len(self._data)} lines of an event>"
