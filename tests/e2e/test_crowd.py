"""A hundred connections at once with five requests each, at four slots: the benchmark's crowd, smaller."""

from __future__ import annotations

from collections import Counter

from benchmarks.crowd import crowd
from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from vestal import messages as m

CONNECTIONS, REQUESTS = 100, 500
ROOM = {"queue_depth": 1000, "per_caller": 1000}


def blocks(daemon: Daemon) -> float:
    """What is alive in the daemon, once it has let its connections go."""
    with daemon.admin() as admin:
        while admin.command(m.Status(id=1), m.StatusReport).connections > 1:
            pass
        lines = admin.command(m.Metrics(id=2), m.MetricsReport).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("vestal_python_blocks "))


def test_every_request_of_a_crowd_ends_once_and_leaves_nothing_behind(start: Start) -> None:
    daemon = start(echo(slots=4, token_delay="200us"), admission=ROOM)
    path = daemon.path("infer")
    assert crowd(path, 10, 50)[0] == Counter(end=50)  # what the first of anything leaves is no crowd's
    before = blocks(daemon)
    for _ in range(2):
        ends, _ = crowd(path, CONNECTIONS, REQUESTS)
        assert ends == Counter(end=REQUESTS)
    status = daemon.status()
    assert (status.running, status.waiting) == (0, 0)
    assert daemon.queue().entries == []
    assert blocks(daemon) < 1.05 * before


def test_those_of_a_crowd_for_whom_there_is_no_room_are_told_so_once(start: Start) -> None:
    daemon = start(echo(slots=4, token_delay="1ms"), admission={"queue_depth": 50, "per_caller": 50})
    ends, _ = crowd(daemon.path("infer"), CONNECTIONS, REQUESTS)
    assert ends.total() == REQUESTS
    assert ends.keys() == {"end", "queue_full"}
    assert ends["end"] >= 54
