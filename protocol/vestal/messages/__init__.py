"""Every message of every socket, as tagged frozen structs: one module per socket.

The `type` key of the wire is the struct's tag. Fields without a default are required; fields at their default
are left out of the encoding. The unions at the end say which socket takes which message in which direction.
The normative text is SPEC.md; a test holds the two against each other.
"""

from __future__ import annotations

from vestal.messages.admin import (
    Acknowledged,
    AddBackend,
    AuditStatus,
    Backends,
    BackendsReport,
    BackendStatus,
    BreakerStatus,
    CancelRequest,
    Drain,
    DrainBackend,
    Event,
    ExplainRoute,
    Metrics,
    MetricsReport,
    OptionChange,
    Queue,
    QueueEntry,
    QueueReport,
    Reload,
    Reloaded,
    RemoveBackend,
    RestartBackend,
    RouteCandidate,
    RouteReport,
    Snapshot,
    Status,
    StatusReport,
    Stop,
    Subscribe,
    Undrain,
    UndrainBackend,
)
from vestal.messages.common import (
    BackendInfo,
    Cancel,
    Error,
    Goaway,
    Hello,
    Limits,
    Ping,
    Pong,
    Welcome,
)
from vestal.messages.embed import (
    Embed,
    Embeddings,
    EmbedPart,
)
from vestal.messages.infer import (
    Count,
    Counted,
    CountV2,
    Done,
    Generate,
    GenerateV2,
    Queued,
    Started,
    Text,
    ThinkingDelta,
    Token,
    ToolUse,
)

__all__ = [
    "Acknowledged", "AddBackend", "AuditStatus", "BackendInfo", "BackendStatus", "Backends", "BackendsReport",
    "BreakerStatus", "Cancel", "CancelRequest", "Count", "CountV2", "Counted", "Done", "Drain", "DrainBackend",
    "Embed", "EmbedPart", "Embeddings", "Error", "Event", "ExplainRoute", "Generate", "GenerateV2", "Goaway", "Hello",
    "Limits", "Metrics", "MetricsReport", "OptionChange", "Ping", "Pong", "Queue", "QueueEntry", "QueueReport",
    "Queued", "Reload", "Reloaded", "RemoveBackend", "RestartBackend", "RouteCandidate", "RouteReport", "Snapshot",
    "Started", "Status", "StatusReport", "Stop", "Subscribe", "Text", "ThinkingDelta", "Token", "ToolUse", "Undrain",
    "UndrainBackend", "Welcome",
]  # fmt: skip

InferRequestV1 = Generate | Cancel | Count | Ping
InferRequestV2 = GenerateV2 | Cancel | CountV2 | Ping
InferReply = Queued | Started | Token | Text | ThinkingDelta | ToolUse | Done | Counted | Pong | Error | Goaway
EmbedRequest = Embed | Cancel | Ping
EmbedReply = Embeddings | Done | Pong | Error | Goaway
AdminRequest = (
    Status
    | Subscribe
    | Backends
    | Queue
    | CancelRequest
    | Metrics
    | Drain
    | Undrain
    | AddBackend
    | RemoveBackend
    | DrainBackend
    | UndrainBackend
    | RestartBackend
    | ExplainRoute
    | Reload
    | Stop
    | Ping
)
AdminReport = (
    StatusReport
    | Snapshot
    | Event
    | BackendsReport
    | QueueReport
    | MetricsReport
    | RouteReport
    | Reloaded
    | Acknowledged
)
AdminReply = AdminReport | Pong | Error | Goaway
AnyInfer = InferRequestV1 | InferRequestV2 | InferReply
AnyMessage = Hello | Welcome | AnyInfer | Embed | Embeddings | AdminRequest | AdminReply
