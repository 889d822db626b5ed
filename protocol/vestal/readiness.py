"""Waiting for a daemon to be ready, as decisions: what was seen goes in, whether and how to wait on comes out.

Connect succeeds exactly when the daemon is ready, so trying to connect is the test, and everything else only
says when to try again and what to tell meanwhile. Who may open `admin.sock` subscribes to it and tries again
when it says so. Who may not (it is 0600, its owner's) has nothing to wait on: a socket that appears is no event
on any descriptor this side holds, and inotify is neither portable nor in the standard library. For them, and
while no daemon runs at all, the path is tried at intervals of 10 to 200 ms: soon noticed, and never busy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from vestal import messages as m
from vestal.discovery import not_serving, progress_text
from vestal.endpoint import Endpoint
from vestal.errors import ConnectionFailed, DaemonNotReady, VestalError

__all__ = ["ADMIN_PATIENCE", "START_PATIENCE", "Progress", "Readiness", "Tell", "waiting"]

ADMIN_PATIENCE = 1.0
"""Seconds that asking `admin.sock` why something failed may take: the user waits for the explanation."""

START_PATIENCE = 300.0
"""Seconds that a request may wait for a daemon that it has started: as long as one may load, by its defaults."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.2


class Progress(Struct, frozen=True):
    """Where the daemon is on its way to ready. `str()` is one line for people.

    `state` is `None` while no daemon answers this user; `backends` is empty then.
    """

    path: str
    state: str | None = None
    backends: list[m.BackendStatus] = []
    text: str = ""

    @property
    def percent(self) -> float | None:
        """Loading progress of all backends together, 0 to 100; `None` while nobody tells."""
        if not self.backends:
            return None
        return sum(100.0 if b.state == "ready" else b.percent or 0.0 for b in self.backends) / len(self.backends)

    def __str__(self) -> str:
        return self.text or f"waiting for {self.path}"


Tell = Callable[[Progress], object]


class Readiness:
    """One wait for `endpoint`, begun at `now` and over `timeout` seconds later.

    Times are `time.monotonic()` seconds that the shell passes in. `tell` hears of each change.
    """

    log: Path | None = None
    """The log of a daemon that was started on the way, see `vestal.autostart`."""

    def __init__(self, endpoint: Endpoint, timeout: float, now: float, tell: Tell | None) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self.deadline = now + timeout
        self.progress = Progress(str(endpoint.path))
        self._tell = tell
        self._told: Progress | None = None
        self._fault: VestalError | None = None
        self._pause = _FIRST_PAUSE

    def patience(self, now: float) -> float:
        """Seconds the next look at `admin.sock` may take."""
        return min(ADMIN_PATIENCE, max(self.deadline - now, 0))

    def missed(self, fault: VestalError, now: float) -> None:
        """A connect failed. Raises where waiting cannot help, and at the deadline."""
        if not fault.retryable:
            raise fault
        self._fault = fault
        if now >= self.deadline:
            raise self.over()

    def saw(self, status: m.StatusReport) -> bool:
        """The daemon told where it is; gives whether it is ready. Raises where waiting cannot help."""
        self.progress = Progress(str(self.endpoint.path), status.state, status.backends, progress_text(status))
        self.report()
        hopeless = not_serving(self.endpoint.kind, self.endpoint.directory, status)
        if not hopeless.retryable:
            raise hopeless
        return status.state == "ready"

    def lost_sight(self) -> None:
        """The daemon that told is gone; what it said last counts no more."""
        self.progress = Progress(str(self.endpoint.path))

    def report(self) -> None:
        """Tell the progress, if it is not what was told last."""
        if self._tell is not None and self.progress != self._told:
            self._tell(self.progress)
        self._told = self.progress

    def pause(self, now: float) -> float:
        """Seconds until the next try: doubling from 10 to 200 ms, and not past the deadline."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return max(min(pause, self.deadline - now), 0.0)

    def over(self) -> VestalError:
        """The deadline has passed: the error that says what the state was."""
        waited = f"waited {self.timeout:g} s"
        if self.progress.state is not None:
            return DaemonNotReady(f"vestald at {self.endpoint.directory} is {self.progress} ({waited})")
        if isinstance(self._fault, ConnectionFailed):
            return type(self._fault)(f"{self._fault.message} ({waited})", hint=self._fault.hint)
        return self._fault or DaemonNotReady(f"{self.endpoint.path} did not answer ({waited})")

    def __repr__(self) -> str:
        return f"<Readiness {self.endpoint.kind} {self.progress} timeout={self.timeout:g}>"


def waiting(endpoint: Endpoint, timeout: float, now: float, tell: Tell | None, *, autostart: bool) -> Readiness:
    """The wait that a client asks for."""
    if not autostart:
        return Readiness(endpoint, timeout, now, tell)
    from vestal.autostart import Starting  # which loads subprocess, and few programs need it

    return Starting(endpoint, timeout, now, tell)
