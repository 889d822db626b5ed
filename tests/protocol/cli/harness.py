"""`vestal` as a process, seen from outside: in pipes, or on a terminal of its own."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

__all__ = ["PATIENCE", "Outcome", "Running", "Terminal", "Vestal"]

PATIENCE = 20.0
"""Seconds until a wait for something that must happen is given up."""

_OTHERS = ("VESTAL", "XDG", "COLUMNS", "NO_COLOR", "PYTHONUNBUFFERED")  # settings of whoever runs the tests
_MOVES = re.compile(r"(\r|\x1b\[K)")
_SGR = re.compile(r"\x1b\[[0-9;]*m")


class Outcome(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


class Vestal:
    """Command lines of a user whose home is `home` and whose daemon, if any, is in `runtime_dir`."""

    def __init__(self, home: Path, runtime_dir: Path) -> None:
        self.home = home
        self.runtime_dir = runtime_dir

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
        places = {"HOME": self.home, "VESTAL_HOME": self.home / "store", "VESTAL_RUNTIME_DIR": self.runtime_dir}
        return {**kept, "TERM": "xterm", **{name: str(place) for name, place in places.items()}, **more}

    def __call__(self, *words: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Outcome:
        """Run it to its end, with `stdin` piped in."""
        done = subprocess.run(
            _command(words),
            input=stdin.encode(),
            capture_output=True,
            timeout=PATIENCE,
            env=self.environment(**(env or {})),
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *words: str) -> Running:
        """Run it with pipes for its output; the caller ends it."""
        return Running(
            _command(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=self.environment(),
            preexec_fn=_heed_interrupts,
        )

    def terminal(self, *words: str, columns: int = 60, env: Mapping[str, str] | None = None) -> Terminal:
        """Run it on a terminal `columns` wide."""
        return Terminal(_command(words), columns, self.environment(**(env or {})))


class Running(subprocess.Popen[bytes]):
    """A command that goes on; a test that fails does not wait for it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)


def _command(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "vestal.cli", *words]


def _heed_interrupts() -> None:
    """A test run in a shell's background ignores SIGINT, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _take_terminal() -> None:
    _heed_interrupts()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command on a pseudoterminal."""

    def __init__(self, command: list[str], columns: int, environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
            env=dict(environment),
        )
        os.close(slave)
        self.raw = ""
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def expect(self, text: str) -> None:
        """Read until `text` has been written."""
        while text not in self.raw:
            assert self._read(), f"{text!r} never came: {self.raw!r}"

    def expect_again(self, text: str) -> None:
        """Read until `text` has been written, counting only what was not looked at yet."""
        self.expect_match(re.escape(text))

    def expect_match(self, pattern: str) -> re.Match[str]:
        """Read until what was not looked at yet has a match; the next search begins behind it."""
        while (found := re.compile(pattern, re.DOTALL).search(self.raw, self._seen)) is None:
            assert self._read(), f"{pattern!r} never came: {self.raw[self._seen :]!r}"
        self._seen = found.end()
        return found

    def shows(self, text: str, within: float) -> bool:
        """Read for at most so many seconds; whether `text` has been written by then."""
        ends = time.monotonic() + within
        while text not in self.raw:
            left = ends - time.monotonic()
            if left <= 0 or not select.select([self._master], [], [], left)[0]:
                return False
            assert self._read(), f"{text!r} never came: {self.raw!r}"
        return True

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def finish(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        ends = time.monotonic() + PATIENCE
        assert select.select([self._master], [], [], ends - time.monotonic())[0], f"silence after {self.raw!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the last process has closed it
            return False
        self.raw += self._decoder.decode(data)
        return bool(data)

    @property
    def lines(self) -> list[str]:
        """What a person sees in the end: carriage returns and erasing obeyed, colours ignored."""
        shown = [_seen(line) for line in _SGR.sub("", self.raw).replace("\r\n", "\n").split("\n")]
        return shown if shown[-1] else shown[:-1]

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def _seen(line: str) -> str:
    """What is left of a line that was overwritten and erased."""
    seen, column = "", 0
    for text in _MOVES.split(line):
        if text == "\r":
            column = 0
        elif text == "\x1b[K":
            seen = seen[:column]
        else:
            seen = seen[:column] + text + seen[column + len(text) :]
            column += len(text)
    return seen
