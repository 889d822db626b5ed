"""Connect succeeds if and only if the daemon is ready: what exists when, seen from outside."""

from __future__ import annotations

import signal
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import echo
from tests.e2e.peers import Peer
from vestal import messages as m


def test_while_a_backend_loads_there_is_no_infer_socket_and_admin_tells_the_percent(start: Start) -> None:
    daemon = start(echo(ready_delay="10s"), wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        snapshot = admin.take(m.Snapshot)
        first, second = (admin.event("backend_loading", backend="echo").data["percent"] for _ in range(2))
        assert 0 <= first < second < 50
        assert not daemon.path("infer").exists()
        with pytest.raises(FileNotFoundError):
            daemon.infer()
        (backend,) = snapshot.status.backends
        assert snapshot.status.state == backend.state == "loading"
        status = admin.command(m.Status(id=2), m.StatusReport)
        assert status.backends[0].percent is not None
        assert status.backends[0].percent >= second
        assert status.sockets.keys() == {"admin"}


def test_the_percent_rises_to_ready_and_then_the_first_connect_succeeds(start: Start) -> None:
    daemon = start(echo(ready_delay="2s"), wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.event("daemon_state", state="ready")
        with daemon.infer() as peer:
            assert peer.generate(1, "at once")[0] == "at once"
        percents = [event.data["percent"] for event in _events(admin, "backend_loading")]
        assert percents == sorted(percents)
        assert len(percents) > 3
        status = admin.command(m.Status(id=2), m.StatusReport)
        assert status.state == status.backends[0].state == "ready"
        assert status.backends[0].percent is None


def test_whoever_manages_to_connect_is_served(start: Start) -> None:
    """Connecting over and over from before the daemon has begun: the only refusal is that there is no such name."""
    daemon = start(echo(ready_delay="150ms"), wait=False)
    while True:
        try:
            peer = daemon.infer()
        except FileNotFoundError:
            assert daemon.process.poll() is None, daemon.stderr
            continue
        break
    with peer:
        assert peer.generate(1, "the first to come")[0] == "the first to come"


def test_the_slowest_backend_holds_the_gate(start: Start) -> None:
    daemon = start(echo("quick"), echo("slow", ready_delay="10s"), wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.event("backend_loading", backend="slow")
        assert daemon.backend("quick").state == "ready"
        assert not daemon.path("infer").exists()


def test_a_dead_daemons_sockets_are_gone_before_its_successor_loads(start: Start) -> None:
    first = start(echo(embed=True))
    first.kill()
    assert first.path("infer").exists()
    assert first.path("embed").exists()
    second = start(echo(ready_delay="10s"), wait=False)
    with second.admin():
        assert not second.path("infer").exists()
        assert not second.path("embed").exists()


@pytest.mark.parametrize("embed", [False, True])
def test_the_embed_socket_exists_only_if_a_backend_embeds(start: Start, embed: bool) -> None:
    daemon = start(echo(embed=embed), echo("other"))
    assert daemon.path("embed").exists() == embed
    assert ("embed" in daemon.status().sockets) == embed


def test_modes_are_as_configured_and_admin_is_the_owners(start: Start) -> None:
    daemon = start(echo(embed=True), sockets={"mode": "0606"})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in daemon.runtime_dir.iterdir()}
    assert modes == {"admin.sock": 0o600, "embed.sock": 0o606, "infer.sock": 0o606}
    assert stat.S_IMODE(daemon.runtime_dir.stat().st_mode) == 0o700


def test_version_2_is_offered_while_a_backend_speaks_it(start: Start) -> None:
    daemon = start(echo(v2=False))
    with Peer(daemon.path("infer"), "infer", (2, 1)) as peer:
        assert peer.conn.version == 1
        assert peer.generate(1, "old words")[0] == "old words"
    with daemon.infer(2) as refused:
        assert isinstance(refused.welcome, m.Error)
        assert refused.welcome.code == "version_unsupported"
        assert refused.welcome.details == {"versions": [1]}


def test_the_welcome_says_what_there_is(start: Start) -> None:
    daemon = start(
        echo(slots=3, embed=True),
        sockets={"max_frame": 100_000, "connections_per_uid": 8},
        admission={"queue_depth": 7, "per_caller": 5, "requests_per_connection": 6},
    )
    with daemon.infer(features=("queue_events", "later")) as peer:
        welcome = peer.welcome
        assert isinstance(welcome, m.Welcome)
        assert welcome.version == 2
        assert welcome.features == ["queue_events"]
        assert welcome.limits == m.Limits(
            frame=100_000,
            requests_per_connection=6,
            queue_depth=7,
            per_caller=5,
            connections_per_uid=8,
            connections=daemon.status().connection_limit,
        )
        (backend,) = welcome.backends
        assert (backend.name, backend.model, backend.capabilities.slots) == ("echo", "echo", 3)
        assert backend.capabilities.embed


def test_a_burst_of_clients_connects_while_the_daemon_is_busy(start: Start) -> None:
    """Stopped, it accepts nobody; who cannot wait in the backlog would be told that there is no daemon."""
    daemon = start()
    with ExitStack() as stack:
        daemon.signal(signal.SIGSTOP)
        stack.callback(daemon.signal, signal.SIGCONT)
        for _ in range(500):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            sock.connect(str(daemon.path("infer")))


def test_nobody_listens_on_a_name_that_is_not_bound_yet(short_dir: Path) -> None:
    """What `connect` says of an absent name is what the tests above rely on."""
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(FileNotFoundError):
        sock.connect(str(short_dir / "infer.sock"))


def _events(admin: Peer, kind: str) -> list[m.Event]:
    """The events of a kind that have come."""
    admin.ping()
    found = []
    while any(isinstance(frame, m.Event) and frame.kind == kind for frame in admin.untaken):
        found.append(admin.event(kind))
    return found
