"""A night as its log tells it, at the default level: loading, a death, a return, refusals, giving up, the stop."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from vestal import messages as m


def lines(daemon: Daemon) -> list[dict[str, Any]]:
    """The log so far; standard error is a file here, so each line is an object."""
    return [json.loads(line) for line in daemon.stderr.splitlines() if line.startswith("{")]


def told(daemon: Daemon, event: str, **facts: object) -> list[dict[str, Any]]:
    return [one for one in lines(daemon) if one.get("event") == event and facts.items() <= one.items()]


def test_a_life_can_be_followed_from_loading_to_stop(start: Start) -> None:
    daemon = start(echo(isolation="process", ready_delay="300ms", fault="hang"), admission={"queue_depth": 1})
    with daemon.infer() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        for id in range(7):
            peer.ask(id)
        for id in range(2, 7):
            assert peer.error(id).code == "queue_full"
        pid = daemon.backend().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        admin.event("backend_state", state="unavailable")
        admin.event("backend_state", state="ready")
    assert daemon.stop() == 0
    assert {one["level"] for one in lines(daemon)} <= {"info", "warning", "error"}
    assert [one["state"] for one in told(daemon, "daemon_state")] == ["loading", "ready", "stopping", "stopped"]
    (died,) = told(daemon, "backend_state", state="unavailable")
    assert (died["level"], "SIGKILL" in died["detail"]) == ("warning", True)
    assert len(told(daemon, "backend_state", state="ready")) == 2
    percents = [one["percent"] for one in told(daemon, "backend_loading")]
    assert percents == sorted(percents)
    assert 1 <= len(percents) <= 4  # a line a quarter, and no more
    first, *others = told(daemon, "refusals")
    assert first["codes"] == {"queue_full": 1}
    summed: dict[str, int] = {}
    for one in others:
        for code, number in one["codes"].items():
            summed[code] = summed.get(code, 0) + number
    assert summed["queue_full"] == 4
    assert summed["backend_crashed"] == 1
    (stop,) = told(daemon, "stop_requested")
    assert stop["by"] == "SIGTERM"


def test_a_backend_that_dies_again_and_again_is_told_to_be_given_up(start: Start) -> None:
    daemon = start(echo("dying", isolation="process", fault="crash:1"), echo("bystander"))
    with daemon.infer() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        id = 0
        while not told(daemon, "backend_given_up"):
            id += 1
            peer.ask(id, "a b c", model="dying")
            assert peer.error(id).code in ("backend_crashed", "backend_unavailable")
        admin.event("backend_given_up")
    (given_up,) = told(daemon, "backend_given_up")
    assert (given_up["level"], given_up["backend"]) == ("error", "dying")
    assert "given up after" in given_up["detail"]
