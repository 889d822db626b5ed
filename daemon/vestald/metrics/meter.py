"""The pauses in one backend's answers, counted for every piece of every answer.

That is the daemon's hottest path, so a piece costs two additions to what is here; the Prometheus client's own histogram
takes a lock and a search in Python for each. Buckets are turned into that client's form when somebody looks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

__all__ = ["Meter"]

_BOUNDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds
_NAMES = (*map(str, _BOUNDS), "+Inf")


class Meter:
    """`began` takes the seconds until an answer's first piece, `paused` those between one piece and the next."""

    __slots__ = ("_counts", "began", "total")

    def __init__(self, began: Callable[[float], None] = lambda _seconds: None) -> None:
        self.began = began
        self.total = 0.0
        self._counts = [0] * len(_NAMES)

    def paused(self, seconds: float) -> None:
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds, and how many pauses were no longer."""
        return list(zip(_NAMES, map(float, accumulate(self._counts)), strict=True))

    def __repr__(self) -> str:
        return f"<Meter of {sum(self._counts)} pauses, {self.total:.3g} s>"
