"""The messages of admin.sock: what is going on, and the commands that change it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vestal.messages.common import Error, Id, Name, Wire
from vestal.values import (
    BackendState,
    BreakerState,
    Capabilities,
    LifecycleState,
    RoutePolicy,
    RouteVerdict,
    ShortText,
)

__all__ = [
    "Acknowledged",
    "AddBackend",
    "AuditStatus",
    "BackendStatus",
    "Backends",
    "BackendsReport",
    "BreakerStatus",
    "CancelRequest",
    "Drain",
    "DrainBackend",
    "Event",
    "ExplainRoute",
    "Metrics",
    "MetricsReport",
    "OptionChange",
    "Queue",
    "QueueEntry",
    "QueueReport",
    "Reload",
    "Reloaded",
    "RemoveBackend",
    "RestartBackend",
    "RouteCandidate",
    "RouteReport",
    "Snapshot",
    "Status",
    "StatusReport",
    "Stop",
    "Subscribe",
    "Undrain",
    "UndrainBackend",
]

Deadline = Annotated[int, Meta(ge=0, le=24 * 3600 * 1000)] | None


class Status(Wire, frozen=True, kw_only=True, tag="status"):
    id: Id


class Subscribe(Wire, frozen=True, kw_only=True, tag="subscribe"):
    """→ one `snapshot`, then an `event` per change until the connection closes."""

    id: Id


class Backends(Wire, frozen=True, kw_only=True, tag="backends"):
    id: Id


class Queue(Wire, frozen=True, kw_only=True, tag="queue"):
    id: Id


class CancelRequest(Wire, frozen=True, kw_only=True, tag="cancel_request"):
    """→ `request` is the daemon-wide number that `queue` shows."""

    id: Id
    request: Id


class Metrics(Wire, frozen=True, kw_only=True, tag="metrics"):
    id: Id


class Drain(Wire, frozen=True, kw_only=True, tag="drain"):
    id: Id


class Undrain(Wire, frozen=True, kw_only=True, tag="undrain"):
    id: Id


class AddBackend(Wire, frozen=True, kw_only=True, tag="add_backend"):
    """→ start a backend that the configuration declares and that does not run. No option of it comes from here."""

    id: Id
    backend: Name


class RemoveBackend(Wire, frozen=True, kw_only=True, tag="remove_backend"):
    """→ drain one backend, stop it and forget it; what still runs after `deadline_ms` is ended."""

    id: Id
    backend: Name
    deadline_ms: Deadline = None


class DrainBackend(Wire, frozen=True, kw_only=True, tag="drain_backend"):
    """→ send no new requests to one backend; what it has runs on."""

    id: Id
    backend: Name


class UndrainBackend(Wire, frozen=True, kw_only=True, tag="undrain_backend"):
    id: Id
    backend: Name


class RestartBackend(Wire, frozen=True, kw_only=True, tag="restart_backend"):
    """→ drain one backend, stop it, and start it as the configuration declares it now."""

    id: Id
    backend: Name
    deadline_ms: Deadline = None


class ExplainRoute(Wire, frozen=True, kw_only=True, tag="explain_route"):
    """→ where a request would go now: to `model`, on `socket`, with `needs` of these capabilities and options.

    `dimensions`, `task` and `normalize` are those of the `embed` that would be sent.
    """

    id: Id
    socket: Literal["infer", "embed"] = "infer"
    version: Annotated[int, Meta(ge=1, le=2)] = 1
    model: ShortText | None = None
    needs: Annotated[list[Name], Meta(max_length=32)] = []
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    task: ShortText | None = None
    normalize: bool = True


class Reload(Wire, frozen=True, kw_only=True, tag="reload"):
    """→ read the configuration again; all of it is sound, or nothing changes."""

    id: Id


class Stop(Wire, frozen=True, kw_only=True, tag="stop"):
    """→ stop gracefully; without `deadline_ms` the configured drain deadline counts, 0 cuts at once."""

    id: Id
    deadline_ms: Deadline = None


class BreakerStatus(Struct, frozen=True, kw_only=True):
    """Whether a backend is trusted with requests: `open` takes none, `half_open` one to see whether it can again.

    `failures` are those that still count, `cold_ms` is left until the one request, `last` is the last failure.
    """

    state: BreakerState = "closed"
    failures: int = 0
    cold_ms: int | None = None
    last: str = ""


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
    aliases: list[str] = []
    required: bool = True
    draining: bool = False
    breaker: BreakerStatus = BreakerStatus()


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


class StatusReport(Wire, frozen=True, kw_only=True, tag="status_report"):
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
    config: str = ""
    socket_faults: dict[str, str] = {}


class BackendsReport(Wire, frozen=True, kw_only=True, tag="backends_report"):
    id: Id
    backends: list[BackendStatus]


class QueueReport(Wire, frozen=True, kw_only=True, tag="queue_report"):
    id: Id
    depth: int
    limit: int
    entries: list[QueueEntry]


class MetricsReport(Wire, frozen=True, kw_only=True, tag="metrics_report"):
    """← Prometheus text exposition format."""

    id: Id
    text: str


class OptionChange(Struct, frozen=True, kw_only=True):
    """One option; the values as they stand in the file, `-` for one that is not there, a secret's masked."""

    key: str
    before: str
    after: str


class Reloaded(Wire, frozen=True, kw_only=True, tag="reloaded"):
    """← `file` was read, and what may change in a running daemon holds now. The rest is as it was."""

    id: Id
    file: str | None
    applied: list[OptionChange]
    restart_to_apply: list[OptionChange]
    warnings: list[str] = []


class RouteCandidate(Struct, frozen=True, kw_only=True):
    """One backend as the router sees it for a request: `verdict` in a word, `reason` in a sentence."""

    backend: str
    model: str
    verdict: RouteVerdict
    reason: str
    running: int = 0
    waiting: int = 0
    slots: int = 0


class RouteReport(Wire, frozen=True, kw_only=True, tag="route_report"):
    """← the candidates, the best first; without a `chosen` one, `refusal` is what a client would hear."""

    id: Id
    policy: RoutePolicy
    candidates: list[RouteCandidate]
    chosen: str | None = None
    refusal: Error | None = None


class Snapshot(Wire, frozen=True, kw_only=True, tag="snapshot"):
    """← first answer to `subscribe`: the whole picture; events with a higher `seq` change it."""

    id: Id
    seq: int
    status: StatusReport


class Event(Wire, frozen=True, kw_only=True, tag="event"):
    """← one change. `id` is the subscription's; `dropped` counts events a slow subscriber lost before this."""

    id: Id
    seq: int
    kind: str
    data: dict[str, Any]
    dropped: int = 0


class Acknowledged(Wire, frozen=True, kw_only=True, tag="acknowledged"):
    """← the command is legal now and under way; `state` is the lifecycle state after it."""

    id: Id
    state: LifecycleState
    detail: str = ""
