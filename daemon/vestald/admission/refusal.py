"""What a caller is told when the scheduler does not take its request, or takes it no further. Pure.

Every bound is an error of its own with the bound's value and the current one, and says when to come back. That
time follows the rate at which requests were seen to leave their slots.
"""

from __future__ import annotations

from vestal.errors import BackendUnavailable, DeadlineExceeded, QueueFull, QueueTimeout, WireError
from vestald.admission.lane import Lane
from vestald.admission.ticket import Ticket

__all__ = [
    "caller_full",
    "connection_full",
    "not_serving",
    "queue_full",
    "removed",
    "retry_after_ms",
    "too_late",
    "waited_out",
]

_UNKNOWN_SERVICE = 1.0  # seconds a job is taken to last until one has been seen


def retry_after_ms(lane: Lane | None, turns: int = 1) -> int:
    """Milliseconds in which `turns` requests of a lane leave their slots."""
    if lane is None:
        return round(1000 * _UNKNOWN_SERVICE)
    mean = _UNKNOWN_SERVICE if lane.pace.mean is None else lane.pace.mean
    return max(1, round(1000 * mean * turns / lane.slots))


def queue_full(lane: Lane, depth: int, limit: int) -> QueueFull:
    return QueueFull(
        f"the queue is full: {depth} waiting, the limit is {limit}",
        hint="retry after retry_after_ms, or raise admission.queue_depth",
        details={"depth": depth, "limit": limit, "bound": "queue_depth"},
        retry_after_ms=retry_after_ms(lane),
    )


def caller_full(lane: Lane, uid: int, depth: int, limit: int, callers: int) -> QueueFull:
    """`callers` take turns, so one of this caller's requests leaves the queue for every so many that start."""
    return QueueFull(
        f"uid {uid} has its share of the queue: {depth} waiting, the limit is {limit}",
        hint="retry after retry_after_ms, or raise admission.per_caller",
        details={"depth": depth, "limit": limit, "bound": "per_caller"},
        retry_after_ms=retry_after_ms(lane, callers),
    )


def connection_full(lane: Lane | None, limit: int, callers: int) -> QueueFull:
    return QueueFull(
        f"{limit} requests are in flight on this connection, and that is the limit",
        hint="wait for one to end, or raise admission.requests_per_connection",
        details={"depth": limit, "limit": limit, "bound": "requests_per_connection"},
        retry_after_ms=retry_after_ms(lane, callers),
    )


def too_late(ticket: Ticket, wait: float, now: float) -> WireError | None:
    """The refusal of a ticket that is to start in `wait` seconds, if one of its deadlines comes before."""
    so_far = now - ticket.accepted
    for field, limit, refusal in (
        ("timeout", ticket.timeout, DeadlineExceeded),
        ("queue_timeout", ticket.queue_timeout, QueueTimeout),
    ):
        if limit is not None and so_far + wait > limit:
            eta_ms, limit_ms = round(1000 * wait), round(1000 * limit)
            return refusal(
                f"it would start in about {eta_ms} ms, and {field}_ms allows {limit_ms} ms",
                hint=f"retry later, or allow a longer {field}_ms",
                details={"eta_ms": eta_ms, "limit_ms": limit_ms},
                retryable=True,
                retry_after_ms=max(1, round(1000 * (so_far + wait - limit))),
            )
    return None


def waited_out(ticket: Ticket, now: float) -> QueueTimeout:
    waited = round(1000 * (now - ticket.accepted))
    return QueueTimeout(
        f"waited {waited} ms for a slot of backend {ticket.lane!r}, as long as queue_timeout_ms allows",
        hint="retry later, or allow a longer queue_timeout_ms",
        details={"waited_ms": waited},
    )


def not_serving(lane: Lane, now: float) -> BackendUnavailable:
    """What is said of a lane that it is no use to wait for, to those who do and to those who come."""
    if lane.given_up or lane.away_since is None:
        why, hint = lane.given_up, lane.remedy or None
    else:
        away = now - lane.away_since
        why = f"it has been away for {away:.1f} s, and admission.unavailable_timeout is over"
        hint = "retry later: it may come back"
    return BackendUnavailable(f"backend {lane.name!r} is not serving: {why}", hint=hint, details={"backend": lane.name})


def removed(lane: Lane) -> BackendUnavailable:
    return BackendUnavailable(
        f"backend {lane.name!r} was removed by an operator while this waited for it",
        hint="ask again: another backend may serve the model",
        details={"backend": lane.name},
    )
