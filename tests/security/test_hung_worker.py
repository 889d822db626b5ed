"""A worker that is stopped, not killed: the daemon finds out by its silence, and replaces it within its deadline."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import children_of, echo, slack
from vestal import messages as m

HEARTBEAT = 1.0


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_a_stopped_worker_is_replaced_and_costs_what_ran_in_it_one_error_each(start: Start, busy: bool) -> None:
    daemon = start(echo(isolation="process", heartbeat=HEARTBEAT, token_delay="20ms", slots=2))
    (worker,) = children_of(daemon.process.pid)
    with daemon.infer(features=("queue_events",)) as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.take(m.Snapshot)
        if busy:
            peer.send(*(peer.request(id, "w " * 500) for id in (1, 2)), peer.request(3, "served"))
            peer.take(m.Queued, id=3)
            for id in (1, 2):
                peer.take(m.Text, id=id)
        begun = time.monotonic()
        os.kill(worker, signal.SIGSTOP)
        lost = admin.event("backend_state", backend="echo", state="unavailable")
        noticed = time.monotonic() - begun
        assert "gave no answer for 1 s" in str(lost.data["detail"])
        assert 0.5 * HEARTBEAT < noticed < HEARTBEAT + slack()
        admin.event("backend_state", backend="echo", state="ready")
        print(f"noticed after {noticed:.2f} s, replaced after {time.monotonic() - begun:.2f} s")
        assert not Path(f"/proc/{worker}").exists()
        if busy:
            for id in (1, 2):
                assert peer.error(id).code == "backend_crashed"
            assert peer.done(3).usage.output_tokens == 1
        assert peer.generate(4, "and again")[0] == "and again"
        peer.ping()
    assert daemon.backend().restarts == 1
    (another,) = children_of(daemon.process.pid)
    assert another != worker
