"""A daemon on demand: who finds none starts the user's own, once however many come at the same moment.

The daemon's log decides who starts: it is locked by whoever starts one, and as the daemon inherits it as standard
error, it stays locked for as long as that daemon lives. Who finds it locked waits for that daemon instead. That
only spares a stampede; what keeps two daemons apart is, as ever, the lock on the runtime directory (exit code 75).

The daemon is nobody's: a session of its own, `/` as its directory, no descriptor but its log. The log is
`vestald.log` in the runtime directory, 0600; a daemon that ends before it is ready is quoted from it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from vestal import messages as m
from vestal.endpoint import Endpoint
from vestal.errors import DaemonNotReady, DaemonNotRunning, DaemonNotStarted, VestalError
from vestal.readiness import Progress, Readiness, Tell

__all__ = ["LOG", "StartLog", "Starting"]

LOG = "vestald.log"
"""Its name in the runtime directory."""

_STOPPED, _ALREADY_RUNNING = 0, 75  # vestald's exit codes: as asked; another instance owns the runtime directory
_PAUSES = {_STOPPED: 0.0, _ALREADY_RUNNING: 1.0}  # seconds before another is started
_MOST_KEPT = 1 << 20  # bytes of older logs
_QUOTED = 8192  # bytes of the end of a log that are looked at
_ANOTHERS = (
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "JOURNAL_STREAM",
    "INVOCATION_ID",
)  # fmt: skip
"""What a service manager tells the app about itself: the daemon would report its own readiness as the app's."""


class StartLog:
    """The log of daemons that are started on demand in `directory`, and the lock that is on it. Close it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOG
        self._fd = -1
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_own(directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
            _check_file(self.path, os.fstat(self._fd))
            os.fchmod(self._fd, 0o600)
        except OSError as fault:
            self.close()
            raise DaemonNotStarted(
                f"cannot start vestald: {fault.filename or self.path}: {fault.strerror}",
                hint="it wants a directory of this user's own: set VESTAL_RUNTIME_DIR",
            ) from None
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def lock(self) -> bool:
        """Whether nobody else starts a daemon, or has one that writes here; from now on this side does."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if self.size > _MOST_KEPT:
            os.ftruncate(self._fd, 0)
        return True

    def spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start the daemon; it inherits the lock. A thread waits for its end, so that it leaves no zombie."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._fd,
            stderr=self._fd,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            umask=0o077,
        )
        Thread(target=process.wait, name="vestald-end", daemon=True).start()
        return process

    def last_words(self, since: int) -> str:
        """What was written from `since` on that is for people, not for the log: the reason of a failed start."""
        size = self.size
        begin = max(since if since <= size else 0, size - _QUOTED)
        lines = [line.strip() for line in os.pread(self._fd, _QUOTED, begin).decode(errors="replace").splitlines()]
        spoken = [line for line in lines if line and not line.startswith("{")]
        told = [line.removeprefix("vestald: ") for line in spoken if line.startswith("vestald: ")]
        return "; ".join(told[-3:] or spoken[-5:])

    def close(self) -> None:
        """Idempotent; a daemon that was spawned keeps the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"<StartLog {self.path} {'closed' if self._fd < 0 else 'open'}>"


class Starting(Readiness):
    """A wait that starts the daemon if none runs, at most one at a time. It blocks for the few milliseconds that
    starting a process takes, in event loops too.

    `log` is the log of the daemon that this side has started.
    """

    def __init__(self, endpoint: Endpoint, timeout: float, now: float, tell: Tell | None) -> None:
        super().__init__(endpoint, timeout, now, tell)
        self._process: subprocess.Popen[bytes] | None = None
        self._since: int | None = None  # the log's size when a daemon was started, by us or by somebody else
        self._not_before = now

    def missed(self, fault: VestalError, now: float) -> None:
        """A connect failed: start a daemon if there is none. Raises as `Readiness` does, and `DaemonNotStarted`."""
        if _failed(fault) and now < self.deadline:
            return  # it is about to end, and to say why
        super().missed(fault, now)
        if not isinstance(fault, DaemonNotRunning):
            return
        log = StartLog(self.endpoint.directory)
        try:
            if self._process is not None:
                self._look_after(self._process, log, now)
            elif now >= self._not_before and self._is_free(log):
                self._start(log)
        finally:
            log.close()

    def saw(self, status: m.StatusReport) -> bool:
        """As `Readiness`, but a daemon that failed is waited for: its last words say more."""
        try:
            return super().saw(status)
        except DaemonNotReady as fault:
            if not _failed(fault):
                raise
            return False

    def _is_free(self, log: StartLog) -> bool:
        """Whether a daemon is to be started. Raises if somebody else's ended as ours would."""
        if not log.lock():
            if self._since is None:
                self._since = log.size
                self._say(f"another program starts vestald; its log is {log.path}")
            return False
        if self._since is not None and (words := log.last_words(self._since)):
            raise _not_started("vestald, started by another program, ended before it was ready", words, log.path)
        return True

    def _start(self, log: StartLog) -> None:
        command = [*_vestald(), "--runtime-dir", str(self.endpoint.directory.absolute())]
        self._since = log.size
        try:
            self._process = log.spawn(command)
        except OSError as fault:
            raise _not_started(f"cannot run {command[0]}", str(fault.strerror), log.path) from None
        self.log = log.path
        self._say(f"starting vestald (pid {self._process.pid}); its log is {log.path}")

    def _look_after(self, process: subprocess.Popen[bytes], log: StartLog, now: float) -> None:
        code = process.poll()
        if code is None:
            return
        self._process = self.log = None
        if code not in (_STOPPED, _ALREADY_RUNNING):
            assert self._since is not None
            raise _not_started(f"vestald {_ended(code)} before it was ready", log.last_words(self._since), log.path)
        # Ours was ready and has left again, before we looked; or the directory's owner is on its way up, or out.
        self._since, self._not_before = None, now + _PAUSES[code]

    def _say(self, text: str) -> None:
        self.progress = Progress(str(self.endpoint.path), text=text)
        self.report()


def _failed(fault: VestalError) -> bool:
    return isinstance(fault, DaemonNotReady) and fault.state == "failed"


def _not_started(what: str, words: str, log: Path) -> DaemonNotStarted:
    return DaemonNotStarted(f"{what}: {words or 'it said nothing'}", hint=f"its log is {log}")


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _vestald() -> list[str]:
    """The command that starts a daemon: of this environment if it can run one, else the one on the PATH."""
    if sys.executable and not getattr(sys, "frozen", False) and all(map(find_spec, ("vestald", "uvloop"))):
        return [sys.executable, "-P", "-m", "vestald"]  # -P: no module out of whatever directory the app is in
    if found := shutil.which("vestald"):
        return [str(Path(found).absolute())]
    raise DaemonNotStarted("cannot start vestald: it is not installed", hint="pip install 'vestal[daemon]'")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _ANOTHERS}
    for name in ("VESTAL_CONFIG", "VESTAL_HOME"):
        if kept.get(name):
            kept[name] = str(Path(kept[name]).absolute())  # the daemon's directory is another
    return kept


def _check_own(directory: Path) -> None:
    """What the daemon checks too, but before anything is written there."""
    info = directory.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise DaemonNotStarted(
            f"cannot start vestald: {directory} is no directory of uid {os.geteuid()}",
            hint="set VESTAL_RUNTIME_DIR to one that is",
        )


def _check_file(path: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_nlink != 1:
        raise DaemonNotStarted(
            f"cannot start vestald: {path} is no plain file of uid {os.geteuid()}", hint="move it away"
        )
