"""A forward-only reader of a file that may lie about its own lengths.

Every length read from the file is held against the bytes that are left before anything is read or skipped, so
no allocation is larger than a buffer and no loop runs past the end. The file is read in pieces rather than
mapped: a mapped file that someone truncates kills the reader with SIGBUS.
"""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import BinaryIO

from vestal.errors import ModelError

__all__ = ["Cursor"]

_BUFFER = 1 << 18
_U64 = Struct("<Q")


class Cursor:
    """Reads `file`, which has `size` bytes, from its start; `limit` is how far it will go at most."""

    def __init__(self, file: BinaryIO, path: Path, size: int, limit: int) -> None:
        self._file = file
        self._path = path
        self._size = size
        self._limit = limit
        self._buffer = b""
        self._base = 0  # file offset of the buffer's first byte
        self._at = 0  # position within the buffer

    @property
    def offset(self) -> int:
        """Where the next byte comes from."""
        return self._base + self._at

    def __repr__(self) -> str:
        return f"<Cursor {str(self._path)!r} at byte {self.offset} of {self._size}>"

    def fail(self, what: str, *, at: int | None = None, hint: str | None = None) -> ModelError:
        """The error to raise about the byte at `at` (here, unless told)."""
        place = self.offset if at is None else at
        hint = hint or "the file is damaged: fetch it again from where it was published"
        return ModelError(f"{self._path}: {what} (at byte {place:,} of {self._size:,})", hint=hint)

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes, which are `what`."""
        self._check(count, what)
        if self._at + count > len(self._buffer):
            self._fill(count, what)
        piece = self._buffer[self._at : self._at + count]
        self._at += count
        return piece

    def unpack(self, layout: Struct, what: str) -> tuple[int, ...]:
        """The next `layout.size` bytes as numbers."""
        return layout.unpack(self.take(layout.size, what))

    def skip(self, count: int, what: str) -> None:
        """Go past `count` bytes, which are `what`."""
        self._check(count, what)
        self._at += count

    def skip_strings(self, count: int, what: str) -> None:
        """Go past `count` length-prefixed strings.

        A vocabulary is a quarter of a million of them, so the loop stays inside the buffer and checks a
        length only when it leads out of it.
        """
        unpack, left = _U64.unpack_from, count
        while left:
            self._check(8, what)
            if self._at + 8 > len(self._buffer):
                self._fill(8, what)
            buffer, at, last, start = self._buffer, self._at, len(self._buffer) - 8, self._at
            while left and at <= last:
                start, left = at, left - 1
                at += 8 + unpack(buffer, at)[0]
            self._at = start
            self.skip(at - start, what)

    def _check(self, count: int, what: str) -> None:
        end = self.offset + count
        if end > self._size:
            missing = f"{what} needs {count:,} bytes and only {max(0, self._size - self.offset):,} are left"
            raise self.fail(missing, hint="the file is cut short or damaged: fetch it again")
        if end > self._limit:
            raise self.fail(f"{what} needs {count:,} bytes, beyond the limit of {self._limit:,} for a header")

    def _fill(self, count: int, what: str) -> None:
        self._base, self._at = self.offset, 0
        self._file.seek(self._base)
        self._buffer = self._file.read(max(count, _BUFFER))
        if len(self._buffer) < count:  # the file shrank since its size was taken
            raise self.fail(f"{what} needs {count:,} bytes and only {len(self._buffer):,} could be read")
