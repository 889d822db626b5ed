"""The lines of `vestal status` for what a real daemon seldom is."""

from __future__ import annotations

from typing import Any

import pytest

from vestal import messages as m
from vestal.cli.queue import queue_lines
from vestal.cli.status import backend_lines, status_lines
from vestal.cli.terminal import Style
from vestal.cli.wording import cells
from vestal.values import BackendState

PLAIN = Style(coloured=False, drawn=False)
EVIL = "\x1b[2J\n" + "x" * 100


def backend(**changes: Any) -> m.BackendStatus:
    facts: dict[str, Any] = {
        "name": "chat",
        "adapter": "llamacpp",
        "model": "smollm2-135m",
        "state": "ready",
        "slots": 4,
    }
    return m.BackendStatus(**{**facts, **changes})


def report(*backends: m.BackendStatus, **changes: Any) -> m.StatusReport:
    facts: dict[str, Any] = {
        "id": 1, "state": "ready", "pid": 42, "server": "vestald/0.1.0", "uptime_ms": 185_000, "runtime_dir": "/run/v",
        "sockets": {"infer": "/run/v/infer.sock", "admin": "/run/v/admin.sock"}, "connections": 3, "waiting": 2,
        "running": 1, "queue_depth": 64, "backends": list(backends),
    }  # fmt: skip
    return m.StatusReport(**{**facts, **changes})


def test_the_daemon_is_told_in_words() -> None:
    assert status_lines(report(), None, PLAIN, "utf-8") == [
        "vestald/0.1.0  ready",
        "pid 42, up 3 minutes 5 seconds",
        "directory  /run/v",
        "sockets    admin infer",
        "requests   1 running, 2 waiting (at most 64)",
        "clients    3 connections, this one included",
    ]


def test_a_socket_that_is_not_there_although_there_is_work_for_it_is_told_with_why() -> None:
    lines = status_lines(report(socket_faults={"embed": f"it is a file {EVIL}"}), 80, PLAIN, "utf-8")
    (line,) = [line for line in lines if line.startswith("no socket")]
    assert line.startswith("no socket  embed: it is a file")
    assert "\x1b" not in line
    assert cells(line) <= 80


def test_an_audit_log_is_told_of_when_it_loses_lines() -> None:
    sound = m.AuditStatus(directory="/d", seq=9, hash="0" * 64)
    assert status_lines(report(audit=sound), None, PLAIN, "utf-8") == status_lines(report(), None, PLAIN, "utf-8")
    full = m.AuditStatus(directory="/d", seq=9, hash="0" * 64, dropped=1, fault="No space left on device")
    assert "audit log  1 line dropped: No space left on device" in status_lines(
        report(audit=full), None, PLAIN, "utf-8"
    )
    over = m.AuditStatus(directory="/d", seq=9, hash="0" * 64, dropped=12)
    assert "audit log  12 lines dropped" in status_lines(report(audit=over), None, PLAIN, "utf-8")


def test_a_busy_backend_with_a_worker_that_was_restarted() -> None:
    lines = backend_lines(backend(running=3, waiting=1, pid=77, restarts=2), None, PLAIN, "utf-8")
    assert lines == ["chat  ready", "  smollm2-135m by llamacpp, 3 of 4 slots busy, 1 waiting, worker 77, 2 restarts"]


def test_what_keeps_requests_from_a_backend_that_is_ready_stands_behind_its_state() -> None:
    cold = m.BreakerStatus(state="open", failures=3, cold_ms=21_300, last="backend_crashed")
    assert backend_lines(backend(breaker=cold), None, PLAIN, "utf-8") == [
        "chat  ready, cold 22 s",
        "  smollm2-135m by llamacpp, 0 of 4 slots busy, 0 waiting",
        "  3 failures of late, the last: backend_crashed",
    ]
    trial = m.BreakerStatus(state="half_open", failures=1, last="internal")
    assert backend_lines(backend(breaker=trial, draining=True), None, PLAIN, "utf-8")[0] == (
        "chat  ready, draining, on trial"
    )
    coloured = Style(coloured=True, drawn=False)
    assert "\x1b[31mready, cold 22 s\x1b[0m" in backend_lines(backend(breaker=cold), None, coloured, "utf-8")[0]
    assert "\x1b[33mready, draining\x1b[0m" in backend_lines(backend(draining=True), None, coloured, "utf-8")[0]


def test_the_other_names_of_a_backend_are_told() -> None:
    lines = backend_lines(backend(aliases=["default", EVIL]), None, PLAIN, "utf-8")
    assert lines[2].startswith("  also called default, \\x1b[2J\\nxxx")
    assert max(map(cells, backend_lines(backend(aliases=["default", EVIL]), 40, PLAIN, "utf-8"))) == 40


def test_the_sandbox_is_told_and_each_layer_that_is_missing_has_a_line_of_its_own() -> None:
    confined = backend(sandbox=["no_new_privs", "seccomp"], unsandboxed=["landlock: Function not implemented"])
    assert backend_lines(confined, None, PLAIN, "utf-8")[2:] == [
        "  sandbox: no_new_privs, seccomp",
        "  not in its sandbox: landlock: Function not implemented",
    ]


def test_a_loading_backend_has_a_percent_and_on_a_terminal_a_bar() -> None:
    loading = backend(state="loading", percent=50.4, model="", detail="reading tensors")
    assert backend_lines(loading, None, PLAIN, "utf-8") == [
        "chat  loading  50 %",
        "  ? by llamacpp",
        "  reading tensors",
    ]
    drawn = backend_lines(loading, None, Style(coloured=False, drawn=True), "ascii")
    assert drawn[0] == "chat  loading  ##########----------  50 %"


@pytest.mark.parametrize("state", ["starting", "loading", "ready", "unavailable", "stopping", "stopped", "failed"])
def test_every_state_fits_sixty_columns_whatever_the_names_are(state: BackendState) -> None:
    failing = m.BreakerStatus(state="open", failures=3, cold_ms=21_300, last=EVIL)
    evil = backend(
        name=EVIL, adapter=EVIL, model=EVIL, detail=EVIL, state=state, percent=50.0, breaker=failing, aliases=[EVIL]
    )
    lines = status_lines(report(evil, runtime_dir=EVIL), 60, Style(coloured=False, drawn=False), "utf-8")
    assert max(map(cells, lines)) <= 60
    assert all(line.isprintable() for line in lines)


def test_the_queue_escapes_what_clients_call_themselves() -> None:
    entry = m.QueueEntry(
        request=7, state="running", backend="chat", uid=0, pid=1, client="\x1b[2J", age_ms=1500, priority="normal"
    )
    lines = queue_lines(m.QueueReport(id=1, depth=0, limit=64, entries=[entry]), None)
    assert lines[1].split() == ["7", "running", "chat", "root", "1", "1.50", "s", "0", r"\x1b[2J"]
