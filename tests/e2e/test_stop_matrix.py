"""Every way to stop the daemon, whatever its backends do: one end for each request, in time, and nothing left.

What a stop promises is looked at whole each time; `test_stopping` looks at its parts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, Table, children_of, echo, slack
from tests.e2e.peers import TERMINAL, Peer
from vestal import messages as m

DEADLINE = 0.4
LONG = "w " * 1000  # at a token each 10 ms: longer than any deadline here
SHORT = "w"

HOWS = ("SIGTERM", "SIGINT", "admin", "vestal stop", "from draining")
STUBBORN = echo(fault="ignore_stop", token_delay="10ms", slots=2)
BACKENDS: dict[str, Table] = {
    "in process": echo(token_delay="10ms", slots=2),
    "in a worker": echo(token_delay="10ms", slots=2, isolation="process"),
    "ignores the stop": STUBBORN,
    "ignores the stop in a worker": {**STUBBORN, "isolation": "process"},
}


def ask_to_stop(daemon: Daemon, how: str) -> None:
    """Return once the daemon has been asked."""
    if how.startswith("SIG"):
        daemon.signal(signal.Signals[how])
    elif how == "vestal stop":
        command = [sys.executable, "-m", "vestal.cli", "stop", "--deadline", str(DEADLINE)]
        environ = {**os.environ, "VESTAL_RUNTIME_DIR": str(daemon.runtime_dir)}
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, timeout=30)
    else:
        with daemon.admin() as admin:
            if how == "from draining":
                admin.command(m.Drain(id=1), m.Acknowledged)
            admin.command(m.Stop(id=2, deadline_ms=round(1000 * DEADLINE)), m.Acknowledged)


def terminals(peer: Peer) -> dict[int, str]:
    """How each request ended. `Peer` raises if one ended twice; none may be without an end."""
    ends = [frame for frame in peer.rest() if isinstance(frame, TERMINAL)]
    told = {frame.id: frame.code if isinstance(frame, m.Error) else frame.stop_reason for frame in ends}  # type: ignore[union-attr]
    assert max(Counter(frame.id for frame in ends).values(), default=1) == 1
    return told  # type: ignore[return-value]  # an id that is none of ours fails the comparison


def nothing_left(daemon: Daemon, children: list[int]) -> None:
    assert list(daemon.runtime_dir.iterdir()) == []
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", HOWS)
def test_a_stop_keeps_all_its_promises(start: Start, how: str, backend: str) -> None:
    table = BACKENDS[backend]
    daemon = start(table, daemon={"drain_deadline": DEADLINE})
    children = children_of(daemon.process.pid)
    with daemon.infer(features=("queue_events",)) as busy, daemon.infer() as idle:
        # Two run, one of them to its end; two wait, and the first of them gets the free slot.
        busy.send(busy.request(1, LONG), busy.request(2, SHORT), busy.request(3, SHORT), busy.request(4, LONG))
        busy.take(m.Queued, id=4)
        began = time.monotonic()
        ask_to_stop(daemon, how)
        ended = terminals(busy)
        assert idle.take(m.Goaway).deadline_ms in (round(1000 * DEADLINE), 0)
        assert idle.rest() == [] or how == "from draining"
    code = daemon.wait()
    took = time.monotonic() - began
    assert ended == {1: "shutting_down", 2: "end", 3: "end", 4: "shutting_down"}
    assert took < DEADLINE + slack() + (0.5 if how == "vestal stop" else 0.0), "another interpreter starts in that time"
    assert code == (70 if table is STUBBORN else 0)
    assert ("echo" in "".join(daemon.last_words)) == (table is STUBBORN)
    nothing_left(daemon, children)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("second", ["SIGTERM", "SIGINT", "admin"])
def test_a_second_request_kills_at_once(start: Start, second: str, backend: str) -> None:
    table = BACKENDS[backend]
    daemon = start(table, daemon={"drain_deadline": "60s"})
    children = children_of(daemon.process.pid)
    with daemon.infer() as busy:
        busy.send(*(busy.request(id, LONG) for id in range(3)))
        busy.ping()
        daemon.signal()
        busy.take(m.Goaway)
        began = time.monotonic()
        ask_to_stop(daemon, second)
        assert terminals(busy) == dict.fromkeys(range(3), "shutting_down")
    assert daemon.wait() == (70 if table is STUBBORN else 0)
    assert time.monotonic() - began < slack()
    nothing_left(daemon, children)


@pytest.mark.parametrize("after", [0.03, 0.1, 0.15])
def test_a_machine_that_holds_the_daemon_up_while_it_kills_makes_no_backend_abandoned(
    start: Start, after: float
) -> None:
    """For longer than asking, insisting and killing may take together."""
    daemon = start(BACKENDS["ignores the stop in a worker"], daemon={"drain_deadline": "60s"})
    children = children_of(daemon.process.pid)
    with daemon.infer() as busy:
        busy.send(*(busy.request(id, LONG) for id in range(3)))
        busy.ping()
        daemon.signal()
        busy.take(m.Goaway)
        daemon.signal()
        assert [busy.error(id).code for id in range(3)] == ["shutting_down"] * 3
        time.sleep(after)  # it is at one of the three
        daemon.signal(signal.SIGSTOP)
        time.sleep(0.7)  # how long it is held up, which no signal of its own could tell
        daemon.signal(signal.SIGCONT)
    assert daemon.wait() == 0
    nothing_left(daemon, children)


@pytest.mark.parametrize("isolation", ["none", "process"])
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "admin", "vestal stop"])
def test_a_stop_while_loading_keeps_them_too(start: Start, how: str, isolation: str) -> None:
    slow = echo(ready_delay="30s", isolation=isolation)
    daemon = start(slow, echo("quick", isolation="process"), wait=False, daemon={"drain_deadline": DEADLINE})
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        if admin.take(m.Snapshot).status.backends[1].state != "ready":
            admin.event("backend_state", backend="quick", state="ready")
    children = children_of(daemon.process.pid)
    assert len(children) == 1 + (isolation == "process")
    began = time.monotonic()
    ask_to_stop(daemon, how)
    assert daemon.wait() == 0
    assert time.monotonic() - began < DEADLINE + slack() + (0.5 if how == "vestal stop" else 0.0)
    nothing_left(daemon, children)


def test_a_drained_daemon_that_is_undrained_and_stopped_has_lost_nothing(start: Start) -> None:
    daemon = start(echo(token_delay="2ms", slots=2))
    with daemon.infer() as peer, daemon.admin() as admin:
        peer.send(*(peer.request(id, "w " * 20) for id in range(6)))
        peer.ping()
        admin.command(m.Drain(id=1), m.Acknowledged)
        assert peer.take(m.Goaway).reason == "draining"
        peer.ask(6)
        assert peer.error(6).code == "shutting_down"
        admin.command(m.Undrain(id=2), m.Acknowledged)
        peer.ask(7)
        peer.ping()
        daemon.signal()
        assert [peer.done(id).stop_reason for id in (*range(6), 7)] == ["end"] * 7
        assert not [frame for frame in peer.rest() if isinstance(frame, TERMINAL)]
    assert daemon.wait() == 0
