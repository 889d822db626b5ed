"""What llama.cpp says while it works: the last complaints are kept, to say why something failed.

The library only logs the cause of a failure; its functions return NULL or a number. There is one log for the
whole library, so there is one here. Nothing is written anywhere, as lines can hold text of the model file; but what
CUDA ends the process for, in words of its own, goes to standard error, where it outlives the process.
"""

from __future__ import annotations

import os
import re
from collections import deque

__all__ = ["LogTail", "log"]

# ggml_log_level: 3 is a warning, 4 an error, 5 goes on with the line before.
_WARNING, _ERROR, _CONTINUED = 3, 4, 5
_MAX_LINES = 20
_MAX_LINE = 500

_LAST_WORDS = "CUDA error: "  # the next thing is abort()

# Lines that only say that something failed, after another that said what.
_EMPTY = re.compile(r"failed to load model$|: failed to load model from ")
# The function's name in front of the message, and one more that adds nothing to it.
_PREFIX = re.compile(r"^\w+: (?:error loading model: |failed to initialize the context: )?")

_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"unknown model architecture"),
        "this build of llama.cpp is too old for the model, or the file is no language model;"
        " update llama-cpp-python or choose another model",
    ),
    (
        re.compile(r"not within the file bounds|corrupted|incomplete|failed to read"),
        "the file is damaged or cut off: fetch it again",
    ),
    (
        re.compile(r"insufficient memory|failed to allocate|unable to allocate|out of memory|bad_alloc"),
        "lower `slots` or `context_length`, or use a smaller model",
    ),
)


class LogTail:
    """The last complaints of the library, bounded in number and length."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._level = 0

    def __repr__(self) -> str:
        return f"<LogTail {len(self._lines)} lines>"

    def clear(self) -> None:
        """Forget what was said about earlier work."""
        self._lines.clear()

    def add(self, level: int, text: bytes) -> None:
        """Take one message of the library; only warnings and errors are kept."""
        self._level = self._level if level == _CONTINUED else level
        line = text.decode("utf-8", "replace").strip()[:_MAX_LINE]
        if line and self._level in (_WARNING, _ERROR):
            self._lines.append(line)
            if line.startswith(_LAST_WORDS):
                os.write(2, f"{line}\n".encode())

    def cause(self, otherwise: str = "it gave no reason") -> str:
        """The complaints that say something, in their order, on one line."""
        telling = [_PREFIX.sub("", line) for line in self._lines if not _EMPTY.search(line)]
        return "; ".join(dict.fromkeys(telling[-4:])) or otherwise

    def hint(self) -> str | None:
        """What to do about the cause, where that is known."""
        text = "\n".join(self._lines)
        return next((hint for pattern, hint in _HINTS if pattern.search(text)), None)


log = LogTail()
"""Of this process's llama.cpp."""
