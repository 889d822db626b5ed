"""How long a request may wait and last: what it asked for, the defaults, and the ceilings of the configuration. Pure.

A ceiling is refused past, never clamped to: a client that asked for an hour would otherwise count on it.
"""

from __future__ import annotations

from msgspec import Struct

from vestal.errors import InvalidRequest
from vestald.config import AdmissionConfig

__all__ = ["Deadlines"]


class Deadlines(Struct, frozen=True):
    """Seconds, None for without end. Where only a ceiling is configured it is the default too."""

    queue_timeout: float | None
    max_queue_timeout: float | None
    timeout: float | None
    max_timeout: float | None

    @classmethod
    def of(cls, config: AdmissionConfig) -> Deadlines:
        return cls(config.queue_timeout, config.max_queue_timeout, config.timeout, config.max_timeout)

    def waiting(self, asked_ms: int | None) -> float | None:
        """Seconds a request may wait. Raises `InvalidRequest` past the ceiling."""
        return _within("queue_timeout_ms", asked_ms, self.queue_timeout, self.max_queue_timeout)

    def whole(self, asked_ms: int | None) -> float | None:
        """Seconds a request may take. Raises `InvalidRequest` past the ceiling."""
        return _within("timeout_ms", asked_ms, self.timeout, self.max_timeout)


def _within(field: str, asked_ms: int | None, default: float | None, ceiling: float | None) -> float | None:
    if asked_ms is None:
        return ceiling if default is None else default
    if ceiling is not None and asked_ms > 1000 * ceiling:
        limit = round(1000 * ceiling)
        raise InvalidRequest(
            f"{field} = {asked_ms} is more than the {limit} ms that this daemon allows",
            hint=f"ask for at most {limit}, or leave it out",
            details={"field": field, "limit": limit},
        )
    return asked_ms / 1000
