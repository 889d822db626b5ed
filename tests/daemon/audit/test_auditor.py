"""What gets into a line: who, numbers and codes that are the daemon's own; no text of an error, whoever made it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from vestal.audit_files import file_names, lines_of
from vestal.connection import SocketKind
from vestal.errors import BackendRefused
from vestal.values import Usage
from vestald.admission.ticket import Ticket, TicketState
from vestald.audit.auditor import Auditor
from vestald.audit.journal import Journal
from vestald.audit.log import AuditLog
from vestald.entrance.peer import Peer
from vestald.events import EventHub
from vestald.serving.job import Job
from vestald.serving.session import Session

CANARY = "canary-91ab"


class Visitor:
    """As much of a session as an auditor looks at."""

    kind: SocketKind = "infer"
    session_id = "5e55"
    peer = Peer(pid=7, uid=1000, gid=100)
    client = "editor"
    received = 10
    sent = 20


def audited(directory: Path, act: Callable[[Auditor], object]) -> list[dict[str, Any]]:
    """The lines that `act` makes, without the first two and the last."""

    async def live() -> None:
        auditor = Auditor()
        auditor.begin(AuditLog(Journal.open(directory, 100_000, 3)), str(directory))
        act(auditor)
        await auditor.aclose(10.0)

    asyncio.run(live())
    lines = [json.loads(line) for name in file_names(directory) for line in lines_of(directory / name)]
    assert [line["event"] for line in (lines[0], lines[1], lines[-1])] == ["file", "start", "stop"]
    return lines[2:-1]


def test_of_an_error_there_is_the_code_and_its_numbers_and_nothing_that_could_quote(tmp_path: Path) -> None:
    details = {
        "limit": 64, "ratio": 0.5, "text": CANARY, CANARY: 3, "list": [CANARY], "map": {"x": CANARY}, "flag": True,
        "nan": float("nan"), "infinite": float("inf"), **{f"n{i}": i for i in range(50)},
    }  # fmt: skip
    error = BackendRefused(f"it said {CANARY}", hint=CANARY, details=details)
    visitor = cast("Session", Visitor())

    def act(auditor: Auditor) -> None:
        auditor.refused(visitor, error)
        job = Job(3, 1, cast("Any", visitor), 0.0)
        job.details = error.details
        auditor.ended(job, error.code, Usage())

    refused, ended = audited(tmp_path / "audit", act)
    assert refused["code"] == ended["outcome"] == "backend_refused"
    assert refused["numbers"] == ended["numbers"]
    assert (refused["numbers"]["limit"], refused["numbers"]["ratio"], len(refused["numbers"])) == (64, 0.5, 8)
    assert CANARY not in json.dumps([refused, ended])


def test_of_events_only_those_named_are_lines_with_only_their_named_facts(tmp_path: Path) -> None:
    def act(auditor: Auditor) -> None:
        hub = EventHub()
        hub.subscribe(auditor.event)
        hub.emit("backend_state", backend="chat", state="unavailable", detail=CANARY)
        hub.emit("refused", uid=1, text=CANARY)
        hub.emit(CANARY)

    (line,) = audited(tmp_path / "audit", act)
    assert {key: line[key] for key in ("event", "backend", "state")} == {
        "event": "backend_state", "backend": "chat", "state": "unavailable",
    }  # fmt: skip
    assert "detail" not in line


def test_a_request_that_ends_undecided_was_refused(tmp_path: Path) -> None:
    visitor = cast("Any", Visitor())
    (line,) = audited(tmp_path / "audit", lambda auditor: auditor.ended(Job(3, 1, visitor, 0.0), "end", Usage(1, 2, 3)))
    assert (line["decision"], line["request"], line["id"], line["queue_ms"]) == ("refused", 3, 1, None)
    assert (line["input_tokens"], line["cached_tokens"], line["output_tokens"]) == (1, 2, 3)


def test_each_part_of_a_request_is_let_in_by_itself_and_the_request_ends_once(tmp_path: Path) -> None:
    job = Job(3, 1, cast("Any", Visitor()), 0.0)
    job.backend = "left"
    job.tickets = [Ticket(3, lane, 1000, "5e55", cost=cost) for lane, cost in (("left", 30.0), ("right", 10.0))]
    for ticket, state in zip(job.tickets, (TicketState.WAITING, TicketState.RUNNING), strict=True):
        ticket.state = state
    job.tickets[1].entered, job.tickets[1].started = 1.0, 1.5

    def act(auditor: Auditor) -> None:
        for ticket in job.tickets:
            auditor.decided(job, ticket, 1)
        auditor.ended(job, "end", Usage())

    first, second, end = audited(tmp_path / "audit", act)
    facts = [(line["event"], line["backend"], line["estimate_tokens"]) for line in (first, second)]
    assert facts == [("queued", "left", 30), ("admitted", "right", 10)]
    assert {line["request"] for line in (first, second, end)} == {3}
    assert (end["event"], end["backend"], end["queue_ms"]) == ("ended", "left", 500.0)


def test_without_a_log_nothing_is_kept() -> None:
    auditor = Auditor()
    visitor = cast("Any", Visitor())
    auditor.greeted(visitor)
    auditor.ended(Job(3, 1, visitor, 0.0), "end", Usage())
    auditor.closed(visitor)
    assert auditor.status() is None
    asyncio.run(auditor.aclose(1.0))
