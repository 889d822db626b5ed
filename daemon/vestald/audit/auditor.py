"""What the audit log says of each thing that happens: who, how much, how it went; never what about.

Only facts named here get into a line: of events those in `_EVENTS`, of an error its code and its numbers. A text of
an error or of an adapter is never taken over, as it may quote what it complains of.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from math import isfinite
from typing import Any, cast

from vestal import messages as m
from vestal.errors import WireError
from vestal.values import Usage
from vestald.admission.ticket import Ticket
from vestald.audit.log import AuditLog
from vestald.entrance.peer import Peer
from vestald.serving.job import Job
from vestald.serving.session import Session

__all__ = ["Auditor"]

_log = logging.getLogger("vestald")

_EVENTS: Mapping[str, tuple[str, ...]] = {
    "daemon_state": ("before", "state"),
    "backend_state": ("backend", "state"),
    "backend_added": ("backend", "adapter"),
    "backend_removed": ("backend",),
    "backend_drained": ("backend",),
    "backend_undrained": ("backend",),
    "backend_start_failed": ("backend",),
    "backend_remove_failed": ("backend",),
    "backend_restart_failed": ("backend",),
    "backend_stop_failed": ("backend",),
    "backends_abandoned": ("backends",),
    "requests_cut": ("count",),
    "stop_requested": ("by", "again"),
    "reloaded": ("by", "applied", "restart_to_apply"),
    "reload_refused": ("by",),
}
"""Of which events there is a line, and which of their facts stand in it."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MOST_NUMBERS = 8


class Auditor:
    """Turns what the house sees into lines. Until `begin`, and without a log, it does nothing."""

    def __init__(self) -> None:
        self._log: AuditLog | None = None
        self._directory = ""
        self._began = time.monotonic()
        self._stays: dict[Session, _Stay | None] = {}  # None: it was turned away
        self._decided: dict[int, str] = {}  # requests by their daemon-wide number

    def begin(self, log: AuditLog, directory: str, **facts: Any) -> None:
        """The daemon starts."""
        self._log, self._directory = log, directory
        _log.info("the audit log in %s goes on from %s", directory, log.head)
        log.add("start", pid=os.getpid(), uid=os.geteuid(), **facts)

    async def aclose(self, patience: float) -> None:
        """The daemon has stopped; its last line. Idempotent."""
        if self._log is not None:
            log, self._log = self._log, None
            log.add("stop", uptime_ms=_ms(time.monotonic() - self._began))
            await log.aclose(patience)
            _log.info("the audit log ends with %s", log.head)  # the system's journal is an observer too

    # --- connections ------------------------------------------------------------------------------------------

    def greeted(self, session: Session) -> None:
        """The handshake is done."""
        if self._log is not None:
            self._stays[session] = _Stay()
            self._log.add("connection", **_who(session), version=session.conn.version)

    def refused(self, session: Session, error: WireError) -> None:
        """A connection was turned away, or a message that opened no request was."""
        if self._log is not None:
            event = "refused" if self._stays.setdefault(session, None) else "connection_refused"
            self._log.add(event, **_who(session), code=error.code, **_numbers(error.details))

    def closed(self, session: Session) -> None:
        """The connection is gone."""
        if self._log is None:
            return
        if session not in self._stays:
            self._log.add("connection_abandoned", **_who(session), bytes_in=session.received)
        elif (stay := self._stays.pop(session)) is not None:
            self._log.add(
                "disconnection",
                **_who(session),
                duration_ms=_ms(time.monotonic() - stay.since),
                requests=stay.requests,
                bytes_in=session.received,
                bytes_out=session.sent,
            )

    # --- requests ---------------------------------------------------------------------------------------------

    def decided(self, job: Job, ticket: Ticket, depth: int) -> None:
        """A request, or one part or one more try of it, was let in, and runs or waits; `depth` is how many wait now."""
        if self._log is None:
            return
        decision = self._decided[job.number] = "queued" if ticket.waiting else "admitted"
        self._log.add(
            decision,
            **_who(cast("Session", job.owner)),
            **_request(job, ticket.lane),
            priority=job.priority,
            estimate_tokens=round(ticket.cost),
            depth=depth,
        )

    def ended(self, job: Job, outcome: str, usage: Usage) -> None:
        """The terminal frame. A request that was never admitted or queued was refused, and this is its one line."""
        if self._log is None:
            return
        session = cast("Session", job.owner)
        if (stay := self._stays.get(session)) is not None:
            stay.requests += 1
        now, waited = time.monotonic(), job.waited
        self._log.add(
            "ended",
            **_who(session),
            **_request(job, job.backend),
            decision=self._decided.pop(job.number, "refused"),
            outcome=outcome,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            queue_ms=None if waited is None else _ms(waited),
            duration_ms=_ms(now - job.accepted),
            **_numbers(job.details),
        )

    # --- operators --------------------------------------------------------------------------------------------

    def commanded(self, session: Session, command: str, code: str, **facts: Any) -> None:
        """An operator's command was obeyed (`ok`) or refused."""
        if self._log is not None:
            self._log.add("admin", **_who(session), command=command, code=code, **facts)

    def event(self, _seq: int, kind: str, facts: dict[str, Any]) -> None:
        """A subscriber of the hub."""
        if self._log is not None and (names := _EVENTS.get(kind)) is not None:
            self._log.add(kind, **{name: facts[name] for name in names if name in facts})

    def status(self) -> m.AuditStatus | None:
        """The log's head, for observers to note; None without a log."""
        log = self._log
        if log is None:
            return None
        head = log.head
        return m.AuditStatus(
            directory=self._directory, seq=head.seq, hash=head.hash, dropped=log.dropped, fault=log.fault
        )

    def __repr__(self) -> str:
        return f"<Auditor {self._log!r}>"


class _Stay:
    """One connection, while it lasts."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.requests = 0


def _who(session: Session) -> dict[str, Any]:
    peer: Peer = session.peer
    return {
        "socket": session.kind,
        "session": session.session_id,
        "uid": peer.uid,
        "gid": peer.gid,
        "pid": peer.pid,
        "client": session.client,
    }


def _request(job: Job, backend: str) -> dict[str, Any]:
    return {"request": job.number, "id": job.id, "backend": backend}


def _numbers(details: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """The numbers of an error, under names that are names."""
    numbers = {
        name: value
        for name, value in (details or {}).items()
        if type(value) in (int, float) and isfinite(value) and _NAME.fullmatch(name)
    }
    return {"numbers": dict(list(numbers.items())[:_MOST_NUMBERS])} if numbers else {}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
