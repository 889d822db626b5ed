"""Every message of every socket, as tagged frozen structs: one section per socket.

The `type` key of the wire is the struct's tag. Fields without a default are required; fields at their default
are left out of the encoding. The unions at the end say which socket takes which message in which direction.
The normative text is SPEC.md; a test holds the two against each other.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from vestal.explain import shown
from vestal.values import (
    MAX_ATTACHMENTS,
    Attachment,
    BackendState,
    Capabilities,
    ContentBlock,
    GenerateOptions,
    LifecycleState,
    Message,
    MessageV2,
    NamedTool,
    Notice,
    ShortText,
    StopReason,
    Thinking,
    Timings,
    TokenLogprob,
    Tool,
    ToolChoice,
    Usage,
)

__all__ = [
    "Acknowledged", "BackendInfo", "BackendStatus", "Backends", "BackendsReport", "Cancel", "CancelRequest",
    "Count", "CountV2", "Counted", "Done", "Drain", "Embed", "Embeddings", "Error", "Event", "Generate",
    "GenerateV2", "Goaway", "Hello", "Limits", "Metrics", "MetricsReport", "OptionChange", "Ping", "Pong",
    "Queue", "QueueEntry", "QueueReport", "Queued", "Reload", "Reloaded", "RestartBackend", "Snapshot", "Started",
    "Status", "StatusReport", "Stop", "Subscribe", "Text", "ThinkingDelta", "Token", "ToolUse", "Undrain", "Welcome",
]  # fmt: skip

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]


class _Wire(Struct, frozen=True, omit_defaults=True):
    pass


# --- every socket ---------------------------------------------------------------------------------------------


class Hello(_Wire, frozen=True, kw_only=True, tag="hello"):
    """→ first frame. `versions` in any order; the daemon takes the highest both know."""

    versions: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(min_length=1, max_length=16)]
    client: Annotated[str, Meta(max_length=128)] = ""
    features: Annotated[list[Name], Meta(max_length=32)] = []
    require: Annotated[list[Name], Meta(max_length=32)] = []


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds the daemon enforces on this connection: bytes of one frame's payload, and counts."""

    frame: int
    requests_per_connection: int
    queue_depth: int
    per_caller: int
    connections_per_uid: int | None = None
    connections: int | None = None


class BackendInfo(Struct, frozen=True, kw_only=True):
    name: str
    model: str
    capabilities: Capabilities


class Welcome(_Wire, frozen=True, kw_only=True, tag="welcome"):
    """← answer to `hello`. `features` is the intersection of what both sides know."""

    version: int
    server: str
    session: str
    features: list[str]
    limits: Limits
    backends: list[BackendInfo]


class Ping(_Wire, frozen=True, kw_only=True, tag="ping"):
    nonce: Id


class Pong(_Wire, frozen=True, kw_only=True, tag="pong"):
    nonce: Id


class Cancel(_Wire, frozen=True, kw_only=True, tag="cancel"):
    """→ end request `id` with `stop_reason: cancelled`; no effect on an unknown or ended id."""

    id: Id


class Error(_Wire, frozen=True, kw_only=True, tag="error"):
    """← terminal frame of request `id`; without an id it concerns the connection or an unreadable message."""

    id: Id | None = None
    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    hint: str | None = None
    details: dict[str, Any] | None = None


class Goaway(_Wire, frozen=True, kw_only=True, tag="goaway"):
    """← the daemon is draining: what is admitted runs until the deadline, nothing new is taken."""

    reason: str
    deadline_ms: int


# --- infer.sock -----------------------------------------------------------------------------------------------


class Generate(GenerateOptions, frozen=True, kw_only=True, omit_defaults=True, tag="generate"):
    """→ v1: a text conversation."""

    id: Id
    messages: Annotated[list[Message], Meta(min_length=1)]


class GenerateV2(GenerateOptions, frozen=True, kw_only=True, omit_defaults=True, tag="generate"):
    """→ v2: typed blocks, tools, thinking, attachments."""

    id: Id
    messages: Annotated[list[MessageV2], Meta(min_length=1)]
    tools: Annotated[list[Tool], Meta(max_length=128)] = []  # noqa: RUF012  # msgspec copies an empty default
    tool_choice: ToolChoice = "auto"
    thinking: Thinking = "auto"
    attachments: Annotated[list[Attachment], Meta(max_length=MAX_ATTACHMENTS)] = []  # noqa: RUF012  # as above

    def __post_init__(self) -> None:
        GenerateOptions.__post_init__(self)
        self._check_attachments()
        names = [tool.name for tool in self.tools]
        if len(set(names)) != len(names):
            raise ValueError("tools: two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.name not in names:
            raise ValueError(f"tool_choice: no tool is named `{shown(self.tool_choice.name)}`")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: `required` needs at least one tool")

    def _check_attachments(self) -> None:
        for number, message in enumerate(self.messages):
            for index, block in enumerate(message.content):
                wanted = getattr(block, "attachment", None)
                if wanted is None:
                    continue
                field = f"messages[{number}].content[{index}].attachment"
                if wanted >= len(self.attachments):
                    raise ValueError(f"{field}: index {wanted}, the request has {len(self.attachments)} attachments")
                kind = type(block).__struct_config__.tag
                if self.attachments[wanted].kind != kind:
                    raise ValueError(f"{field}: a `{kind}` block names a `{self.attachments[wanted].kind}` attachment")


class Count(_Wire, frozen=True, kw_only=True, tag="count"):
    """→ v1: how many tokens a conversation takes."""

    id: Id
    messages: Annotated[list[Message], Meta(min_length=1)]
    model: ShortText | None = None


class CountV2(_Wire, frozen=True, kw_only=True, tag="count"):
    """→ v2: how many tokens a conversation takes."""

    id: Id
    messages: Annotated[list[MessageV2], Meta(min_length=1)]
    model: ShortText | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] = []


class Counted(_Wire, frozen=True, kw_only=True, tag="counted"):
    """← answer to `count`. `context_length` is absent where the backend has no limit of its own."""

    id: Id
    input_tokens: int
    context_length: int | None = None


class Queued(_Wire, frozen=True, kw_only=True, tag="queued"):
    """← with feature `queue_events`: `position` 1 is next; `eta_ms` is absent until a rate has been observed."""

    id: Id
    position: int
    depth: int
    eta_ms: int | None = None


class Started(_Wire, frozen=True, kw_only=True, tag="started"):
    """← with feature `queue_events`: the backend has the request."""

    id: Id
    backend: str
    model: str


class Token(_Wire, frozen=True, tag="token", gc=False):
    """← v1: the next piece of text."""

    id: Id
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Text(_Wire, frozen=True, tag="text", gc=False):
    """← v2: the next piece of answer text."""

    id: Id
    delta: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ThinkingDelta(_Wire, frozen=True, tag="thinking", gc=False):
    """← v2: the next piece of thinking text."""

    id: Id
    delta: str


class ToolUse(_Wire, frozen=True, kw_only=True, tag="tool_use"):
    """← v2: one whole tool call."""

    id: Id
    call_id: str
    name: str
    input: dict[str, Any]


class Done(_Wire, frozen=True, kw_only=True, tag="done"):
    """← terminal frame of a `generate`, and of an `embed` that was cancelled.

    `text` (v1), `content` (v2) and `logprobs` only with `stream: false`.
    """

    id: Id
    stop_reason: StopReason
    usage: Usage
    backend: str
    model: str
    timings: Timings
    notices: list[Notice] = []
    text: str | None = None
    content: list[ContentBlock] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


# --- embed.sock -----------------------------------------------------------------------------------------------


class Embed(_Wire, frozen=True, kw_only=True, tag="embed"):
    """→ one vector per text of `input`."""

    id: Id
    input: Annotated[list[str], Meta(min_length=1, max_length=65_536)]
    model: ShortText | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    task: ShortText | None = None
    normalize: bool = True


class Embeddings(_Wire, frozen=True, kw_only=True, tag="embeddings"):
    """← `data` holds count x dimensions little-endian IEEE 754 binary32, row-major, in input order."""

    id: Id
    count: int
    dimensions: int
    dtype: str
    data: bytes
    usage: Usage
    model: str
    backend: str


# --- admin.sock -----------------------------------------------------------------------------------------------


class Status(_Wire, frozen=True, kw_only=True, tag="status"):
    id: Id


class Subscribe(_Wire, frozen=True, kw_only=True, tag="subscribe"):
    """→ one `snapshot`, then an `event` per change until the connection closes."""

    id: Id


class Backends(_Wire, frozen=True, kw_only=True, tag="backends"):
    id: Id


class Queue(_Wire, frozen=True, kw_only=True, tag="queue"):
    id: Id


class CancelRequest(_Wire, frozen=True, kw_only=True, tag="cancel_request"):
    """→ `request` is the daemon-wide number that `queue` shows."""

    id: Id
    request: Id


class Metrics(_Wire, frozen=True, kw_only=True, tag="metrics"):
    id: Id


class Drain(_Wire, frozen=True, kw_only=True, tag="drain"):
    id: Id


class Undrain(_Wire, frozen=True, kw_only=True, tag="undrain"):
    id: Id


class RestartBackend(_Wire, frozen=True, kw_only=True, tag="restart_backend"):
    id: Id
    backend: Name


class Reload(_Wire, frozen=True, kw_only=True, tag="reload"):
    """→ read the configuration again; all of it is sound, or nothing changes."""

    id: Id


class Stop(_Wire, frozen=True, kw_only=True, tag="stop"):
    """→ stop gracefully; without `deadline_ms` the configured drain deadline counts, 0 cuts at once."""

    id: Id
    deadline_ms: Annotated[int, Meta(ge=0, le=24 * 3600 * 1000)] | None = None


class BackendStatus(Struct, frozen=True, kw_only=True):
    """One backend as operators see it; `percent` counts while loading, `pid` and `memory_bytes` where a worker runs."""

    name: str
    adapter: str
    model: str
    state: BackendState
    percent: float | None = None
    detail: str = ""
    slots: int = 0
    running: int = 0
    waiting: int = 0
    restarts: int = 0
    pid: int | None = None
    sandbox: list[str] = []
    unsandboxed: list[str] = []
    capabilities: Capabilities | None = None
    memory_bytes: int | None = None


class QueueEntry(Struct, frozen=True, kw_only=True):
    """One request that waits or runs: who and how much, never what."""

    request: int
    state: str
    backend: str
    uid: int
    pid: int
    client: str
    age_ms: int
    priority: str
    position: int | None = None
    output_tokens: int = 0


class AuditStatus(Struct, frozen=True, kw_only=True):
    """The audit log: where it is, and the number and hash of its last line, for observers to note."""

    directory: str
    seq: int
    hash: str
    dropped: int = 0
    fault: str = ""


class StatusReport(_Wire, frozen=True, kw_only=True, tag="status_report"):
    id: Id
    state: LifecycleState
    pid: int
    server: str
    uptime_ms: int
    runtime_dir: str
    sockets: dict[str, str]
    connections: int
    backends: list[BackendStatus]
    waiting: int
    running: int
    queue_depth: int
    connection_limit: int | None = None
    audit: AuditStatus | None = None
    memory_bytes: int | None = None
    log: str = ""


class BackendsReport(_Wire, frozen=True, kw_only=True, tag="backends_report"):
    id: Id
    backends: list[BackendStatus]


class QueueReport(_Wire, frozen=True, kw_only=True, tag="queue_report"):
    id: Id
    depth: int
    limit: int
    entries: list[QueueEntry]


class MetricsReport(_Wire, frozen=True, kw_only=True, tag="metrics_report"):
    """← Prometheus text exposition format."""

    id: Id
    text: str


class OptionChange(Struct, frozen=True, kw_only=True):
    """One option; the values as they stand in the file, `-` for one that is not there, a secret's masked."""

    key: str
    before: str
    after: str


class Reloaded(_Wire, frozen=True, kw_only=True, tag="reloaded"):
    """← `file` was read, and what may change in a running daemon holds now. The rest is as it was."""

    id: Id
    file: str | None
    applied: list[OptionChange]
    restart_to_apply: list[OptionChange]
    warnings: list[str] = []


class Snapshot(_Wire, frozen=True, kw_only=True, tag="snapshot"):
    """← first answer to `subscribe`: the whole picture; events with a higher `seq` change it."""

    id: Id
    seq: int
    status: StatusReport


class Event(_Wire, frozen=True, kw_only=True, tag="event"):
    """← one change. `id` is the subscription's; `dropped` counts events a slow subscriber lost before this."""

    id: Id
    seq: int
    kind: str
    data: dict[str, Any]
    dropped: int = 0


class Acknowledged(_Wire, frozen=True, kw_only=True, tag="acknowledged"):
    """← the command is legal now and under way; `state` is the lifecycle state after it."""

    id: Id
    state: LifecycleState
    detail: str = ""


# --- which socket takes what ----------------------------------------------------------------------------------

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
    | RestartBackend
    | Reload
    | Stop
    | Ping
)
AdminReport = StatusReport | Snapshot | Event | BackendsReport | QueueReport | MetricsReport | Reloaded | Acknowledged
AdminReply = AdminReport | Pong | Error | Goaway
AnyInfer = InferRequestV1 | InferRequestV2 | InferReply
AnyMessage = Hello | Welcome | AnyInfer | Embed | Embeddings | AdminRequest | AdminReply
