"""A worker that was taken over, in a real daemon: what lies around it there is out of its reach.

The same is tried with `sandbox = "off"`, where it must succeed: so it is the sandbox that holds, and not the test
that cannot reach.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import Peer
from tests.security import intruder
from vestal import messages as m
from vestal.values import Message

Begin: TypeAlias = Callable[[str], Daemon]


@pytest.fixture
def begin(start: Start, tmp_path: Path) -> Begin:
    """Start a daemon with an intruder and an honest neighbour, both in workers."""
    shutil.copy(intruder.__file__, tmp_path)
    info = tmp_path / "intruder-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vestal.backends]\nintruder = intruder:IntruderBackend\n")
    environ = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "CLUSTER_KEY": "sk-secret",
        "ANY_TOKEN": "secret",
    }

    def with_sandbox(mode: str) -> Daemon:
        table = {"name": "intruder", "adapter": "intruder", "sandbox": mode}
        return start(table, echo("honest", isolation="process"), environ=environ)

    return with_sandbox


def answer(peer: Peer, deed: str) -> int:
    peer.send(m.Count(id=1, messages=[Message("user", deed)], model="intruder"))
    counted = peer.end(1)
    assert isinstance(counted, m.Counted), counted
    return counted.input_tokens


def deeds(daemon: Daemon) -> list[str]:
    """What it could want there."""
    audit = next((daemon.home / f"audit-{daemon.runtime_dir.name}").glob("*.ndjson"))
    (daemon.home / "store").mkdir()
    (daemon.home / "store" / "ring").write_text("keys")
    neighbour = daemon.backend("honest").pid
    files = [audit, next(daemon.home.glob("stderr-*.toml")), daemon.home / "store" / "ring"]
    return [
        *(f"read {file}" for file in files),
        *(f"{verb} {audit}" for verb in ("write", "remove")),
        f"write {daemon.home / 'store' / 'ring'}",
        f"list {daemon.runtime_dir}",
        f"write {daemon.runtime_dir / 'embed.sock'}",
        f"connect {daemon.path('infer')}",
        f"connect {daemon.path('admin')}",
        *(f"read /proc/{pid}/{name}" for pid in (daemon.process.pid, neighbour) for name in ("environ", "mem", "maps")),
        *(f"signal {pid}" for pid in (daemon.process.pid, neighbour, 1)),
    ]


def test_nothing_around_it_is_in_its_reach_and_others_are_served_on(begin: Begin) -> None:
    daemon = begin("required")
    with daemon.infer(1) as peer, daemon.infer() as other:
        wanted = deeds(daemon)
        assert [deed for deed in wanted if answer(peer, deed)] == []
        assert answer(peer, "keys") == 0
        assert other.generate(1, model="honest")[1].stop_reason == "end"
    assert daemon.backend("intruder").restarts == 0  # it tried all of it in one life
    assert daemon.stop() == 0


def test_without_the_sandbox_it_reaches_what_its_user_may(begin: Begin) -> None:
    daemon = begin("off")
    with daemon.infer(1) as peer:
        denied = {deed for deed in deeds(daemon) if not answer(peer, deed)}
        assert answer(peer, "keys") == 0  # the environment is reduced in any case
    # Undumpable processes are closed even so, but to root.
    allowed_to_root = {deed for deed in denied if "/proc/" in deed or deed == "signal 1"}
    assert denied == (set() if os.getuid() == 0 else allowed_to_root)


def test_a_worker_that_is_started_anew_inherits_no_clients_connection(begin: Begin) -> None:
    daemon = begin("required")
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.infer(1)) for _ in range(5)]
        admin = stack.enter_context(daemon.admin())
        admin.send(m.Subscribe(id=1))
        admin.take(m.Snapshot)
        worker = daemon.backend("intruder").pid
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        admin.event("backend_state", backend="intruder", state="ready")
        assert daemon.backend("intruder").pid not in (worker, None)
        assert answer(clients[0], "sockets") == 1  # the one to the daemon
