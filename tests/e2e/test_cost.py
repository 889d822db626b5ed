"""What a client that does nothing costs."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import echo

CONNECTIONS = 500
KIB = 1024


@pytest.mark.parametrize("kind", ["infer", "embed"])
def test_an_idle_connection_costs_less_than_40_kib(start: Start, kind: str) -> None:
    daemon = start(echo(embed=True), sockets={"connections_per_uid": 1000})
    with ExitStack() as stack:

        def connect(count: int) -> None:
            for _ in range(count):
                peer = stack.enter_context(daemon.infer() if kind == "infer" else daemon.embed())
                if kind == "infer":
                    peer.generate(1)

        connect(50)  # what the first of anything costs is no connection's
        before = daemon.resident()
        connect(CONNECTIONS)
        cost = (daemon.resident() - before) / CONNECTIONS
        assert daemon.status().connections == 50 + CONNECTIONS + 1
    assert cost < 40 * KIB


def test_connections_that_come_and_go_leave_nothing_behind(start: Start) -> None:
    daemon = start(echo())

    def visit(count: int) -> None:
        for _ in range(count):
            with daemon.infer() as peer:
                peer.generate(1)

    visit(200)
    before = daemon.resident()
    visit(1500)
    assert daemon.resident() - before < 1500 * 2 * KIB
