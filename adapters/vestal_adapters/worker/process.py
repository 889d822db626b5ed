"""One worker process: spawned, listened to, ended and reaped.

Spawning, waiting and reaping go through a pidfd in the event loop rather than asyncio's subprocess support: the
same code runs on uvloop and on the default loop, no helper thread and no SIGCHLD handler is involved, and a
process is reaped by its own callback even when nobody awaits it any more. So there is never a zombie.

The process dies with its parent: it is told the parent's pid and ties itself to it (see `child`). The kernel's
tie is to the spawning *thread*, so `spawn` must be called from a thread that lives as long as the daemon: the
event loop's.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress

__all__ = ["Process", "StderrTail", "describe_exit", "reduced_environment"]

# What a child may know of the daemon's environment: where things are and how to print. No keys, no tokens.
_ALLOWED = frozenset(
    {
        "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
        "PYTHONPATH", "PYTHONHOME", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV",
    }
)  # fmt: skip

PIPE_SIZE = 64 * 1024  # of a Linux pipe: one read empties it

# How it ended, and what that usually means.
_SIGNAL_WORDS = {
    signal.SIGKILL: ("was killed by SIGKILL", "likely out of memory"),
    signal.SIGABRT: ("aborted (SIGABRT)", "the engine found itself in a state it does not handle"),
    signal.SIGSEGV: ("crashed (SIGSEGV)", "bad memory access in native code"),
    signal.SIGBUS: ("crashed (SIGBUS)", "a mapped file shrank, or its disk failed"),
    signal.SIGILL: ("crashed (SIGILL)", "the engine was built for another kind of CPU"),
    signal.SIGFPE: ("crashed (SIGFPE)", "arithmetic fault in native code"),
    signal.SIGSYS: ("was killed by SIGSYS", "it made a system call that its sandbox forbids"),
    signal.SIGTERM: ("was terminated by SIGTERM", "somebody asked it to end"),
}


def reduced_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The allow-listed part of this process's environment, and `extra`."""
    kept = {name: value for name, value in os.environ.items() if name in _ALLOWED or name.startswith("LC_")}
    return kept | dict(extra)


def describe_exit(returncode: int, doing: str = "") -> str:
    """How a process ended, as a predicate; `doing` ("while loading") goes where a reader expects it.

    Negative numbers are signals, as in `subprocess`.
    """
    doing = doing and f" {doing}"
    if returncode >= 0:
        return f"exited with status {returncode}{doing}"
    try:
        number = signal.Signals(-returncode)
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-returncode}{doing}"
    words, meaning = _SIGNAL_WORDS.get(number, (f"was killed by {number.name}", ""))
    return f"{words}{doing}: {meaning}" if meaning else f"{words}{doing}"


class StderrTail:
    """The last lines a process wrote, at most `LINES` and `BYTES`; kept in memory only, as they may quote text."""

    LINES = 50
    BYTES = 8 * 1024

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > self.BYTES:
            del self._kept[: -self.BYTES]

    @property
    def lines(self) -> list[str]:
        """Oldest first, without empty ones."""
        lines = self._kept.decode(errors="replace").splitlines()[-self.LINES :]
        return [line.rstrip() for line in lines if line.strip()]

    def __repr__(self) -> str:
        return f"<StderrTail {len(self._kept)} bytes, {len(self.lines)} lines>"


class Process:
    """A running or reaped worker process. `channel` is this side of its socketpair: whoever takes it closes it."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        """Spawn `python -P -m <arguments> --fd N --parent PID`. Raises `OSError`."""
        self._loop = asyncio.get_running_loop()
        self.stderr = StderrTail()
        with ExitStack() as theirs, ExitStack() as ours:
            self.channel, their_channel = socket.socketpair()
            theirs.enter_context(their_channel)
            ours.enter_context(self.channel)
            self._stderr_fd, their_stderr = os.pipe()
            theirs.callback(os.close, their_stderr)
            ours.callback(os.close, self._stderr_fd)
            inherited = reduced_environment(environment)
            self._popen = _spawn(arguments, their_channel.fileno(), their_stderr, inherited)
            self._pidfd = _open_pidfd(self._popen)
            ours.pop_all()  # nothing failed: they stay open
        self._watch()

    def _watch(self) -> None:
        self._exited: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(self._stderr_fd, False)
        self._loop.add_reader(self._stderr_fd, self._read_stderr)
        self._loop.add_reader(self._pidfd, self.reap)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.returncode

    def reap(self) -> bool:
        """Collect the process if it has ended; whether it has."""
        if self._exited.done():
            return True
        if self._popen.poll() is None:
            return False
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._read_stderr()
        self._close_stderr()  # a grandchild may hold the other end open for ever
        self._exited.set_result(None)
        return True

    def collect(self, patience: float) -> bool:
        """`reap`, but blocking up to `patience` seconds for a process that is known to be ending."""
        if not self._exited.done():
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(patience * 1000)
        return self.reap()

    def _read_stderr(self) -> None:
        if self._stderr_fd < 0:
            return
        with suppress(BlockingIOError):
            if data := os.read(self._stderr_fd, PIPE_SIZE):
                self.stderr.feed(data)
            else:
                self._close_stderr()

    def _close_stderr(self) -> None:
        if self._stderr_fd >= 0:
            self._loop.remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1

    def terminate(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGKILL)

    async def wait(self, timeout: float) -> bool:
        """Whether it ended, and was reaped, within `timeout` seconds."""
        await asyncio.wait((self._exited,), timeout=max(timeout, 0))
        return self._exited.done()

    async def ended(self) -> None:
        """Return once it has ended and was reaped."""
        await asyncio.wait((self._exited,))

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else describe_exit(self.returncode)
        return f"<Process pid={self.pid} {state}>"


def _spawn(arguments: list[str], fd: int, stderr: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # -P: `-m` would put the working directory, which may be anybody's, in front of the import path.
    # A process group of its own: Ctrl-C and Ctrl-Z at the terminal are the daemon's business.
    command = [sys.executable, "-P", "-m", *arguments, "--fd", str(fd), "--parent", str(os.getpid())]
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        pass_fds=(fd,),
        process_group=0,
    )


def _open_pidfd(popen: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(popen.pid)
    except OSError:  # out of descriptors: a process nobody watches must not live on
        popen.kill()
        popen.wait()
        raise
