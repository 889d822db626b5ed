"""Vectors of the messages of admin.sock that no other socket has: every one of them, and every field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from vectors.parts import BACKENDS, STATUS
from vestal import messages as m

__all__ = ["admin_messages"]

CHAT_STATUS = m.BackendStatus(
    name="chat",
    adapter="llamacpp",
    model="smollm2-135m",
    state="loading",
    percent=37.5,
    detail="reading weights",
    slots=4,
    running=0,
    waiting=2,
    restarts=1,
    pid=4243,
    sandbox=["no_new_privs", "landlock/7"],
    unsandboxed=["seccomp: Function not implemented"],
    capabilities=BACKENDS[0].capabilities,
    memory_bytes=240_123_904,
    aliases=["default"],
)
COLD_STATUS = m.BackendStatus(
    name="cluster",
    adapter="openai",
    model="small",
    state="ready",
    required=False,
    draining=True,
    breaker=m.BreakerStatus(state="open", failures=3, cold_ms=21_500, last="backend_unavailable: HTTP 503"),
)


def admin_messages() -> Iterator[tuple[str, str, Any]]:
    """A name, who sends it, and the message."""
    for command in (m.Status, m.Subscribe, m.Backends, m.Queue, m.Metrics, m.Drain, m.Undrain):
        yield str(command.__struct_config__.tag), "client", command(id=1)
    yield "cancel_request", "client", m.CancelRequest(id=1, request=17)
    for change in (m.AddBackend, m.RemoveBackend, m.DrainBackend, m.UndrainBackend, m.RestartBackend):
        yield str(change.__struct_config__.tag), "client", change(id=1, backend="chat")
    yield "remove_backend, with a deadline", "client", m.RemoveBackend(id=1, backend="chat", deadline_ms=0)
    yield "restart_backend, with a deadline", "client", m.RestartBackend(id=1, backend="chat", deadline_ms=30_000)
    yield "explain_route, smallest", "client", m.ExplainRoute(id=1)
    yield (
        "explain_route, every field",
        "client",
        m.ExplainRoute(
            id=1,
            socket="embed",
            version=2,
            model="default",
            needs=["tools", "seed"],
            dimensions=256,
            task="search_query",
            normalize=False,
        ),
    )
    yield "reload", "client", m.Reload(id=1)
    yield "stop", "client", m.Stop(id=1)
    yield "stop, with a deadline", "client", m.Stop(id=1, deadline_ms=0)
    yield "status_report", "daemon", msgspec.structs.replace(STATUS, backends=[CHAT_STATUS])
    yield "snapshot", "daemon", m.Snapshot(id=1, seq=12, status=STATUS)
    yield "event", "daemon", m.Event(id=1, seq=13, kind="backend_loading", data={"backend": "chat", "percent": 62.5})
    yield (
        "event, after some were dropped",
        "daemon",
        m.Event(id=1, seq=99, kind="daemon_state", data={"before": "ready", "state": "draining"}, dropped=40),
    )
    yield "backends_report", "daemon", m.BackendsReport(id=1, backends=[CHAT_STATUS, COLD_STATUS])
    yield (
        "queue_report",
        "daemon",
        m.QueueReport(
            id=1,
            depth=1,
            limit=64,
            entries=[
                m.QueueEntry(
                    request=17,
                    state="waiting",
                    backend="chat",
                    uid=1000,
                    pid=777,
                    client="editor/1.4",
                    age_ms=1200,
                    priority="normal",
                    position=1,
                    output_tokens=0,
                )
            ],
        ),
    )
    yield from _routes()
    yield "metrics_report", "daemon", m.MetricsReport(id=1, text="vestal_requests_total 3\n")
    yield (
        "reloaded",
        "daemon",
        m.Reloaded(
            id=1,
            file="/etc/vestal/vestald.toml",
            applied=[m.OptionChange(key="admission.queue_depth", before="64", after="128")],
            restart_to_apply=[m.OptionChange(key="backend.chat.slots", before="4", after="8")],
            warnings=["/etc/vestal/vestald.toml:3: admission.depth is now admission.queue_depth"],
        ),
    )
    yield "acknowledged", "daemon", m.Acknowledged(id=1, state="draining", detail="4 requests still run")
    yield (
        "error, terminal frame of a command",
        "daemon",
        m.Error(id=1, code="not_authorized", message="uid 1001 may not stop", retryable=False),
    )


def _routes() -> Iterator[tuple[str, str, Any]]:
    busy = m.RouteCandidate(
        backend="chat", model="small", verdict="chosen", reason="the first of the configuration", running=1, slots=4
    )
    cold = m.RouteCandidate(backend="cluster", model="small", verdict="cold", reason="3 failures: again in 22 s")
    yield (
        "route_report",
        "daemon",
        m.RouteReport(id=1, policy="priority", candidates=[busy, cold], chosen="chat"),
    )
    refusal = m.Error(
        code="backend_unavailable",
        message="backend cluster failed 3 times",
        retryable=True,
        retry_after_ms=21_500,
        details={"backend": "cluster"},
    )
    yield (
        "route_report, nobody is chosen",
        "daemon",
        m.RouteReport(id=1, policy="least_busy", candidates=[cold], refusal=refusal),
    )
