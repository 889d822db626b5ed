"""The state of a connection and of each request on it, as tables of legal transitions.

Theory. A connection is a handshake, then a conversation, then an end; which messages are legal depends on
nothing else. Each request on it is a small machine of its own, driven by the frames that carry its id. Both
sides of a connection run the same tables: the daemon before it sends, the client when it receives, so that a
frame one side may not send is exactly a frame the other side refuses. A request that reaches `ENDED` is
forgotten and its id may be used again; that is what makes a second terminal frame impossible.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

__all__ = ["CONNECTION", "REQUEST", "ConnectionState", "RequestState", "next_state"]


class ConnectionState(Enum):
    """Where a connection is."""

    HELLO = "hello"  # connected, nothing said
    WELCOME = "welcome"  # hello sent, no answer yet
    OPEN = "open"
    CLOSING = "closing"  # one side has said its last word
    CLOSED = "closed"


CONNECTION: Mapping[tuple[ConnectionState, str], ConnectionState] = {
    (ConnectionState.HELLO, "hello"): ConnectionState.WELCOME,
    (ConnectionState.WELCOME, "welcome"): ConnectionState.OPEN,
    (ConnectionState.HELLO, "fatal"): ConnectionState.CLOSING,
    (ConnectionState.WELCOME, "fatal"): ConnectionState.CLOSING,
    (ConnectionState.OPEN, "fatal"): ConnectionState.CLOSING,
    (ConnectionState.HELLO, "eof"): ConnectionState.CLOSED,
    (ConnectionState.WELCOME, "eof"): ConnectionState.CLOSED,
    (ConnectionState.OPEN, "eof"): ConnectionState.CLOSED,
    (ConnectionState.CLOSING, "eof"): ConnectionState.CLOSED,
    (ConnectionState.CLOSED, "eof"): ConnectionState.CLOSED,
}
"""`fatal` is an error after which the daemon closes; `eof` is either side's end of stream."""


class RequestState(Enum):
    """Where one request is, as its frames tell it."""

    GENERATE = "generate"  # sent; nothing heard
    QUEUED = "queued"
    STARTED = "started"
    STREAMING = "streaming"
    EMBED = "embed"
    COUNT = "count"
    ADMIN = "admin"  # any admin command that one frame answers
    SUBSCRIBE = "subscribe"
    WATCHING = "watching"
    ENDED = "ended"


def _generate_table() -> dict[tuple[RequestState, str], RequestState]:
    r = RequestState
    table: dict[tuple[RequestState, str], RequestState] = {}
    for state in (r.GENERATE, r.QUEUED, r.STARTED):  # a request that is retried waits and starts again
        table[state, "queued"] = r.QUEUED
        table[state, "started"] = r.STARTED
    for state in (r.GENERATE, r.STARTED, r.STREAMING):  # without `queue_events` the first token says it started
        for kind in ("token", "text", "thinking", "tool_use"):
            table[state, kind] = r.STREAMING
    for state in (r.GENERATE, r.QUEUED, r.STARTED, r.STREAMING):
        table[state, "done"] = r.ENDED
        table[state, "error"] = r.ENDED
    return table


_ADMIN_ANSWERS = (
    "status_report",
    "backends_report",
    "queue_report",
    "metrics_report",
    "route_report",
    "reloaded",
    "acknowledged",
    "error",
)

_ADMIN_COMMANDS = (
    "status", "backends", "queue", "cancel_request", "metrics", "drain", "undrain", "add_backend", "remove_backend",
    "drain_backend", "undrain_backend", "restart_backend", "explain_route", "reload", "stop",
)  # fmt: skip

REQUEST: Mapping[tuple[RequestState, str], RequestState] = {
    **_generate_table(),
    (RequestState.EMBED, "embeddings"): RequestState.ENDED,
    (RequestState.EMBED, "done"): RequestState.ENDED,  # cancelled
    (RequestState.EMBED, "error"): RequestState.ENDED,
    (RequestState.COUNT, "counted"): RequestState.ENDED,
    (RequestState.COUNT, "error"): RequestState.ENDED,
    **{(RequestState.ADMIN, answer): RequestState.ENDED for answer in _ADMIN_ANSWERS},
    (RequestState.SUBSCRIBE, "snapshot"): RequestState.WATCHING,
    (RequestState.SUBSCRIBE, "error"): RequestState.ENDED,
    (RequestState.WATCHING, "event"): RequestState.WATCHING,
    (RequestState.WATCHING, "error"): RequestState.ENDED,
}

OPENING: Mapping[str, RequestState] = {
    "generate": RequestState.GENERATE,
    "count": RequestState.COUNT,
    "embed": RequestState.EMBED,
    "subscribe": RequestState.SUBSCRIBE,
    **dict.fromkeys(_ADMIN_COMMANDS, RequestState.ADMIN),
}
"""The state a request starts in, by the `type` of the message that opens it."""


def next_state(state: RequestState, frame_type: str) -> RequestState | None:
    """The state after a daemon's frame, or `None` if that frame is illegal here."""
    return REQUEST.get((state, frame_type))
