"""Whether a backend is trusted with requests. Pure: `now` is passed in.

Theory. A circuit breaker (Nygard, *Release It!*): closed, it lets everything through and remembers failures; with
`failures` of them within `window` seconds it opens, and nothing is asked of the backend for `cold` seconds; then it is
half open: one request may try, and what becomes of it closes the breaker or opens it again.

It does not open while the backend serves more requests than it fails: three failures among a thousand answers are no
outage, and nobody can put a backend out of everybody's reach by asking three times for what it chokes on.

A server that falls over takes everything with it that it was running. That is one failure, not as many as there were
requests: what had begun when the last failure was counted belongs to that one. What a client did wrong is none at all.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from vestal.errors import BackendCrashed, BackendUnavailable, DeadlineExceeded, InternalError, WireError
from vestal.values import BreakerState

__all__ = ["Breaker", "BreakerRules", "counts"]

_FAILURES = (BackendCrashed, BackendUnavailable, DeadlineExceeded, InternalError)


def counts(error: WireError) -> bool:
    """Whether an error that a backend raised is a failure of the backend's."""
    return isinstance(error, _FAILURES)


class BreakerRules(Struct, frozen=True):
    """`failures` within `window` seconds keep requests away for `cold` seconds."""

    failures: int = 3
    window: float = 60.0
    cold: float = 30.0


class Breaker:
    """One backend's. Times are seconds on the caller's clock; `began` is when a request was handed over."""

    def __init__(self, rules: BreakerRules) -> None:
        self._rules = rules
        self.last = ""  # what the last failure was
        self._failed: deque[tuple[float, int]] = deque()  # when, and how many requests had been served by then
        self._served = 0
        self._counted = float("-inf")
        self._opened: float | None = None
        self.one_since: float | None = None  # when the cold is over, or was: from then on one request may try

    def adjust(self, rules: BreakerRules, now: float) -> None:
        """Other rules: how long the cold lasts too, unless it is over."""
        self._rules = rules
        if self._opened is not None and self.state(now) == "open":
            self.one_since = self._opened + rules.cold

    def state(self, now: float) -> BreakerState:
        if self.one_since is None:
            return "closed"
        return "open" if now < self.one_since else "half_open"

    def failures(self, now: float) -> int:
        """How many still count."""
        while self._failed and self._failed[0][0] <= now - self._rules.window:
            self._failed.popleft()
        return len(self._failed)

    def cold_left(self, now: float) -> float:
        """Seconds until one request may try; 0 unless it is open."""
        return 0.0 if self.one_since is None else max(0.0, self.one_since - now)

    def failed(self, began: float, now: float, what: str) -> None:
        """A request failed, and the backend is why."""
        if began <= self._counted:
            return
        probing = self.state(now) == "half_open"
        self.last, self._counted = what, now
        self._failed.append((now, self._served))
        failures = self.failures(now)
        served = self._served - self._failed[0][1]
        if probing or failures >= max(self._rules.failures, served):
            self._opened, self.one_since = now, now + self._rules.cold

    def succeeded(self, began: float) -> bool:
        """A request came to its end; whether that closed it. One that had begun before the cold was over does not."""
        self._served += 1
        if self.one_since is None or began < self.one_since:
            return False
        self._opened = self.one_since = None
        self._failed.clear()
        return True

    def __repr__(self) -> str:
        opened = "closed" if self._opened is None else f"opened at {self._opened:.3f}"
        return f"<Breaker {opened}, {len(self._failed)} failures>"
