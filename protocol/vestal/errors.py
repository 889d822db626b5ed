"""Everything that can go wrong, in one tree, and the wire code of each.

    VestalError
    ├── ProtocolError
    │   ├── LocalProtocolError        this side broke the rules: a bug in the caller of the engine
    │   └── RemoteProtocolError       the peer broke the rules
    ├── ConnectionFailed              no conversation with the daemon is possible
    │   ├── DaemonNotRunning          nothing listens; the daemon has not been started
    │   ├── DaemonNotReady            the daemon runs, but its backends are still loading
    │   ├── DaemonNotStarted          `autostart` could not start one, or it ended before it was ready
    │   ├── PermissionRefused         the socket is there, and this user may not open it
    │   └── ConnectionLost            it was there, and it is gone
    ├── ModelError                    the model store: unknown name, wrong digest, not a model file
    └── WireError                     one `error` frame; a subclass per code
        ├── VersionUnsupported   CapabilityMissing   NotAuthorized
        ├── FrameTooLarge        MalformedFrame      UnknownMessage
        ├── InvalidRequest       DuplicateId         ModelNotFound
        ├── Unsupported          ContextOverflow
        ├── QueueFull            QuotaExceeded       QueueTimeout    DeadlineExceeded
        ├── BackendUnavailable   BackendCrashed      BackendRefused
        └── SlowConsumer         ShuttingDown        InternalError

A `WireError` is the same object on every side of every boundary: an adapter raises it, the daemon turns it
into a frame, the client library raises it again. What a message says: what happened, with the numbers. What
a hint says: what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "ERROR_CLASSES",
    "BackendCrashed",
    "BackendRefused",
    "BackendUnavailable",
    "CapabilityMissing",
    "ConnectionFailed",
    "ConnectionLost",
    "ContextOverflow",
    "DaemonNotReady",
    "DaemonNotRunning",
    "DaemonNotStarted",
    "DeadlineExceeded",
    "DuplicateId",
    "FrameTooLarge",
    "InternalError",
    "InvalidRequest",
    "LocalProtocolError",
    "MalformedFrame",
    "ModelError",
    "ModelNotFound",
    "NotAuthorized",
    "PermissionRefused",
    "ProtocolError",
    "QueueFull",
    "QueueTimeout",
    "QuotaExceeded",
    "RemoteProtocolError",
    "ShuttingDown",
    "SlowConsumer",
    "UnknownMessage",
    "Unsupported",
    "VersionUnsupported",
    "VestalError",
    "WireError",
    "error_for_code",
]


class VestalError(Exception):
    """Root of the tree. `retryable` says whether the same call can succeed later without a change."""

    retryable: bool = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ProtocolError(VestalError):
    """A rule of the wire was broken."""


class LocalProtocolError(ProtocolError):
    """This side tried to send what the state tables forbid."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the state tables forbid, or bytes that are no frame."""


class ConnectionFailed(VestalError):
    """No conversation with the daemon is possible."""

    retryable = True


class DaemonNotRunning(ConnectionFailed):
    """Nothing listens at the socket's path."""


class DaemonNotReady(ConnectionFailed):
    """The daemon runs, and the socket asked for does not exist (yet, or in this configuration).

    `state` is the daemon's lifecycle state, where it could be asked.
    """

    state: str | None = None


class DaemonNotStarted(ConnectionFailed):
    """A daemon was to be started, and it could not be, or it ended before it was ready."""

    retryable = False


class PermissionRefused(ConnectionFailed):
    """The socket exists and this user may not connect to it."""

    retryable = False


class ConnectionLost(ConnectionFailed):
    """The daemon closed the connection, or died, before the request's terminal frame."""


class ModelError(VestalError):
    """The model store cannot do what was asked."""


class WireError(VestalError):
    """One `error` frame: `code`, `retryable`, `retry_after` (seconds), `details`, and the request's `id`."""

    code: ClassVar[str] = "internal"
    closes: ClassVar[bool] = False  # whether the daemon closes the connection after this error

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        details: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        id: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.details: dict[str, Any] = dict(details or {})
        if retryable is not None:
            self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.id = id

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a retry makes sense, if the daemon could tell."""
        return None if self.retry_after_ms is None else self.retry_after_ms / 1000

    def __repr__(self) -> str:
        return f"{type(self).__name__}(code={self.code!r}, message={self.message!r}, details={self.details!r})"


class VersionUnsupported(WireError):
    """No protocol version is known to both sides."""

    code = "version_unsupported"
    closes = True


class CapabilityMissing(WireError):
    """The hello required what no single backend can do."""

    code = "capability_missing"
    closes = True


class NotAuthorized(WireError):
    """The kernel says who the peer is, and that user may not do this."""

    code = "not_authorized"


class FrameTooLarge(WireError):
    """A length prefix exceeds the connection's frame limit."""

    code = "frame_too_large"
    closes = True


class MalformedFrame(WireError):
    """A frame's payload is not one MessagePack map with a string `type`, or the stream ended inside a frame."""

    code = "malformed_frame"
    closes = True


class UnknownMessage(WireError):
    """A well-formed message whose `type` this socket does not take."""

    code = "unknown_message"


class InvalidRequest(WireError):
    """A message of a known type breaks its schema; `details["field"]` is the path of the field."""

    code = "invalid_request"


class DuplicateId(WireError):
    """A request with this id is still in flight on the connection."""

    code = "duplicate_id"


class ModelNotFound(WireError):
    """No backend serves that model; `details["models"]` lists those served."""

    code = "model_not_found"


class Unsupported(WireError):
    """The chosen backend cannot honour an option; `details["option"]` names it."""

    code = "unsupported"


class ContextOverflow(WireError):
    """Prompt and asked output do not fit the context; `details` carries the arithmetic in tokens."""

    code = "context_overflow"


class QueueFull(WireError):
    """A bound of the admission queue, or of connections, is reached; `details` has `bound` and `limit`."""

    code = "queue_full"
    retryable = True


class QuotaExceeded(WireError):
    """The caller used up its tokens for this minute."""

    code = "quota_exceeded"
    retryable = True


class QueueTimeout(WireError):
    """The request waited longer than its `queue_timeout_ms`."""

    code = "queue_timeout"
    retryable = True


class DeadlineExceeded(WireError):
    """The request took longer than its `timeout_ms`."""

    code = "deadline_exceeded"


class BackendUnavailable(WireError):
    """The backend is not serving now: restarting, or given up."""

    code = "backend_unavailable"
    retryable = True


class BackendCrashed(WireError):
    """The engine died while it ran this request, or gave what is no answer; asked again, it would give that again."""

    code = "backend_crashed"
    retryable = True


class BackendRefused(WireError):
    """The engine would not run this request, and said why."""

    code = "backend_refused"


class SlowConsumer(WireError):
    """The client did not read its answer within the write timeout."""

    code = "slow_consumer"


class ShuttingDown(WireError):
    """The daemon is stopping and the drain deadline cut this request, or it came too late."""

    code = "shutting_down"
    retryable = True


class InternalError(WireError):
    """A bug in the daemon or an adapter."""

    code = "internal"


ERROR_CLASSES: Mapping[str, type[WireError]] = {
    cls.code: cls
    for cls in (
        VersionUnsupported,
        CapabilityMissing,
        NotAuthorized,
        FrameTooLarge,
        MalformedFrame,
        UnknownMessage,
        InvalidRequest,
        DuplicateId,
        ModelNotFound,
        Unsupported,
        ContextOverflow,
        QueueFull,
        QuotaExceeded,
        QueueTimeout,
        DeadlineExceeded,
        BackendUnavailable,
        BackendCrashed,
        BackendRefused,
        SlowConsumer,
        ShuttingDown,
        InternalError,
    )
}


def error_for_code(code: str) -> type[WireError]:
    """The exception class of a wire code; a code this version does not know is a plain `WireError`."""
    return ERROR_CLASSES.get(code, WireError)
