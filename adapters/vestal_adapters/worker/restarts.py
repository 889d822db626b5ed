"""When a dead worker is started again: a pure policy, with time passed in.

Each death doubles the pause before the next start, and a worker that served for a whole window has earned a
fresh count. A worker that dies again and again inside one window is given up: its operator must look.
"""

from __future__ import annotations

from collections import deque

__all__ = ["RestartPolicy"]


class RestartPolicy:
    """Times are seconds on any monotonic clock."""

    FIRST_PAUSE = 0.1
    LONGEST_PAUSE = 10.0
    LIMIT = 5
    WINDOW = 60.0

    def __init__(self) -> None:
        self.deaths = 0
        self._streak = 0
        self._recent: deque[float] = deque()
        self._served_since: float | None = None

    def serving(self, now: float) -> None:
        """The worker is ready."""
        self._served_since = now

    def died(self, now: float) -> float | None:
        """The worker died, or could not be started: seconds to wait before the next start, `None` to give up."""
        self.deaths += 1
        if self._served_since is not None and now - self._served_since >= self.WINDOW:
            self._streak = 0
        self._served_since = None
        while self._recent and now - self._recent[0] >= self.WINDOW:
            self._recent.popleft()
        if len(self._recent) >= self.LIMIT:
            return None
        self._recent.append(now)
        self._streak += 1
        # The exponent is bounded before the power: a streak may grow for as long as the daemon runs.
        return float(min(self.FIRST_PAUSE * 2 ** min(self._streak - 1, 16), self.LONGEST_PAUSE))

    def __repr__(self) -> str:
        return f"<RestartPolicy deaths={self.deaths}, {len(self._recent)} of {self.LIMIT} in {self.WINDOW:g} s>"
