"""How long the worker may work on one request's constraint before the others go on. The clock is a parameter."""

from __future__ import annotations

import time
from collections.abc import Callable

from vestal.errors import InvalidRequest

__all__ = ["COMPILE_SECONDS", "Deadline"]

COMPILE_SECONDS = 2.0


class Deadline:
    """Asked again and again by what compiles. All of that is Python, so nothing has to be interrupted from outside."""

    def __init__(
        self, field: str, seconds: float = COMPILE_SECONDS, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._field = field
        self._seconds = seconds
        self._clock = clock
        self._until = clock() + seconds

    def __repr__(self) -> str:
        return f"<Deadline of {self._field}, {self._until - self._clock():.3f} s left>"

    def check(self) -> None:
        """`InvalidRequest` when the time is over."""
        if self._clock() > self._until:
            raise InvalidRequest(
                f"{self._field}: not compiled within the deadline of {self._seconds:g} s",
                hint="make it smaller or less nested",
                details={"field": self._field, "deadline_ms": round(self._seconds * 1000)},
            )
