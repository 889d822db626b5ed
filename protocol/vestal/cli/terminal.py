"""What may be written to a terminal, and what is drawn there.

Models, daemons and file headers are strangers: a control character of theirs could move the cursor, retitle the
window or fake a prompt. So diagnostics and tables show every unprintable character as its escape, wherever they
go; a streamed answer is escaped where it goes to a terminal, and is passed on byte for byte where it does not.
Colour and a moving status line are for terminals only, and never with NO_COLOR or TERM=dumb respectively.
"""

from __future__ import annotations

import os
import re
import sys
from shutil import get_terminal_size
from typing import TextIO

__all__ = ["Screen", "Style", "columns", "escaped_answer", "is_live", "printable", "style_of"]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 but tab and newline, DEL, C1
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def printable(text: str) -> str:
    """A stranger's text in one line: what is not printable becomes its escape (`\\x1b`, `\\n`, `\\u202e`)."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def escaped_answer(text: str) -> str:
    """A piece of an answer for a terminal: lines and tabs stay, other control characters become escapes."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def is_live(stream: TextIO) -> bool:
    """Whether a person looks at `stream` on something that understands cursor movements."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int | None:
    """How wide lines may be: `$COLUMNS`, else the terminal's width; `None` in a pipe, where nothing is cut."""
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        return None
    return max(get_terminal_size().columns, 20)


class Style:
    """What one stream may look like: with colours or without, with bars or in plain words."""

    def __init__(self, *, coloured: bool, drawn: bool) -> None:
        self.coloured = coloured
        self.drawn = drawn  # whether bars are wanted

    def __call__(self, text: str, *names: str) -> str:
        """`text` as `bold`, `dim`, `red`, `green`, `yellow`."""
        if not self.coloured or not names:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


def style_of(stream: TextIO) -> Style:
    """Colours on a terminal, unless NO_COLOR is set (no-color.org) or the terminal is dumb."""
    live = is_live(stream)
    return Style(coloured=live and not os.environ.get("NO_COLOR"), drawn=live)


class Screen:
    """Standard error: notes that stay, and on a terminal one status line that is overwritten and erased."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.live = is_live(self._stream)
        self.encoding = self._stream.encoding
        self._style = style_of(self._stream)
        self._shown = ""  # the status line as it stands
        self._beside = False  # whether an aside has left its line open

    def status(self, text: str) -> None:
        """Show `text` in place of the last status; nothing where nobody looks."""
        if not self.live or text == self._shown:
            return
        from vestal.cli.wording import cut

        self._end_aside()
        self._shown = text
        self._write(f"\r{cut(printable(text), (columns(self._stream) or 80) - 1)}\x1b[K")

    def erase(self) -> None:
        """Take the status line away, and end an aside."""
        if self._shown:
            self._shown = ""
            self._write("\r\x1b[K")
        self._end_aside()

    def keep(self) -> None:
        """Leave the status line as it is, and go on below it."""
        if self._shown:
            self._shown = ""
            self._write("\n")

    def note(self, text: str) -> None:
        """One line that stays."""
        self.erase()
        self._write(f"{printable(text)}\n")

    def aside(self, text: str) -> None:
        """Text that belongs beside the answer, dimmed; nothing where it could not be told from the answer."""
        if not self._style.coloured:
            return
        if not self._beside:
            self.erase()
            self._beside = True
        self._write(self._style(escaped_answer(text), "dim"))

    def _end_aside(self) -> None:
        if self._beside:
            self._beside = False
            self._write("\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
