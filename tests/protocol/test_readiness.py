"""Waiting goes on where it can help, tells what is new, and says at its end what the state was."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestal import messages as m
from vestal.connection import SocketKind
from vestal.endpoint import Endpoint
from vestal.errors import CapabilityMissing, DaemonNotReady, DaemonNotRunning, PermissionRefused, ShuttingDown
from vestal.readiness import Progress, Readiness
from vestal.testing import status_report

HERE = Endpoint("infer", Path("/run/v/infer.sock"), m.Hello(versions=[1]), 5.0)


def waiting(told: list[Progress] | None = None, kind: SocketKind = "infer") -> Readiness:
    endpoint = Endpoint(kind, HERE.path, HERE.hello, HERE.connect_timeout)
    return Readiness(endpoint, 10.0, 100.0, None if told is None else told.append)


def test_a_failure_that_may_pass_is_waited_out_until_the_deadline() -> None:
    wait = waiting()
    wait.missed(DaemonNotRunning("no vestald", hint="start it"), 100.0)
    wait.missed(ShuttingDown("stopping"), 105.0)
    with pytest.raises(DaemonNotRunning, match=r"^no vestald \(waited 10 s\) \(start it\)$"):
        wait.missed(DaemonNotRunning("no vestald", hint="start it"), 110.0)


@pytest.mark.parametrize("fault", [PermissionRefused("no"), CapabilityMissing("tools")])
def test_a_failure_that_cannot_pass_is_raised_at_once(fault: PermissionRefused | CapabilityMissing) -> None:
    with pytest.raises(type(fault)) as caught:
        waiting().missed(fault, 100.0)
    assert caught.value is fault


def test_progress_is_told_when_it_changes() -> None:
    told: list[Progress] = []
    wait = waiting(told)
    wait.report()
    wait.report()
    for percent in (10.0, 10.0, 60.0):
        assert not wait.saw(status_report(1, "loading", percent))
    assert wait.saw(status_report(1, "ready"))
    assert [str(one) for one in told] == [
        "waiting for /run/v/infer.sock",
        "loading: scripted loading 10 %",
        "loading: scripted loading 60 %",
        "ready: scripted ready",
    ]
    assert [one.percent for one in told] == [None, 10.0, 60.0, 100.0]


def test_the_last_state_is_told_at_the_end_unless_the_daemon_went_away() -> None:
    wait = waiting()
    wait.missed(DaemonNotRunning("no vestald"), 100.0)
    wait.saw(status_report(1, "loading", 43.0))
    error = wait.over()
    assert isinstance(error, DaemonNotReady)
    assert error.message == "vestald at /run/v is loading: scripted loading 43 % (waited 10 s)"
    wait.lost_sight()
    assert isinstance(wait.over(), DaemonNotRunning)


def test_what_will_never_be_ready_is_not_waited_for() -> None:
    with pytest.raises(DaemonNotReady, match="failed"):
        waiting().saw(status_report(1, "failed"))
    with pytest.raises(DaemonNotReady, match="no configured backend can embed"):
        waiting(kind="embed").saw(status_report(1, "ready"))
    assert waiting(kind="embed").saw(status_report(1, "ready", embed=True))


def test_pauses_double_from_10_to_200_ms_and_stop_at_the_deadline() -> None:
    wait = waiting()
    pauses = [wait.pause(100.0) for _ in range(7)]
    assert pauses == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.2, 0.2])
    assert wait.pause(109.95) == pytest.approx(0.05)
    assert wait.pause(111.0) == 0.0
