"""Reaching a daemon that is not there, not ready, stuck, or just coming up."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vestal
from vestal import messages as m
from vestal.errors import ConnectionFailed
from vestal.testing import Peer, ScriptedDaemon, echo, status_report
from vestal.values import LifecycleState

WAIT = 20.0


def reporting(state: LifecycleState, percent: float | None = None, *, embed: bool = False) -> Callable[[Peer], None]:
    """An admin script: this state, and no change of it."""

    def script(peer: Peer) -> None:
        message = peer.next()
        if isinstance(message, m.Subscribe):
            peer.send(m.Snapshot(id=message.id, seq=1, status=status_report(message.id, state, percent)))
            message = peer.next()
        assert isinstance(message, m.Status)
        peer.send(status_report(message.id, state, percent, embed=embed))
        peer.expect_end()

    return script


@contextmanager
def silent(path: Path) -> Iterator[None]:
    """Something that listens at `path`, and says nothing."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


# --- why it cannot be reached -----------------------------------------------------------------------------------


def test_a_daemon_that_loads_is_asked_how_far_it_is() -> None:
    with ScriptedDaemon(admin=reporting("loading", 43)) as daemon:
        client = vestal.Client(runtime_dir=daemon.runtime_dir)
        with pytest.raises(vestal.DaemonNotReady, match="is loading: scripted loading 43 %"):
            client.generate("Hi")


def test_embedding_where_nothing_can_embed_says_so() -> None:
    with ScriptedDaemon(infer=echo, admin=reporting("ready")) as daemon:
        client = vestal.EmbedClient(runtime_dir=daemon.runtime_dir)
        with pytest.raises(vestal.DaemonNotReady, match="no configured backend can embed"):
            client.embed("Hi")


def test_an_admin_socket_that_says_nothing_delays_the_answer_by_a_second_at_most(short_dir: Path) -> None:
    with silent(short_dir / "admin.sock"):
        client = vestal.Client(runtime_dir=short_dir)
        with pytest.raises(vestal.DaemonNotReady, match="sent no welcome within 1 s"):
            client.connect()


def test_a_daemon_that_sends_no_welcome_costs_no_more_than_the_connect_timeout(short_dir: Path) -> None:
    with silent(short_dir / "infer.sock"):
        client = vestal.Client(runtime_dir=short_dir, connect_timeout=0.05)
        with pytest.raises(ConnectionFailed, match=r"sent no welcome within 0\.05 s"):
            client.connect()


def test_a_daemon_that_hangs_up_in_the_handshake_says_so(short_dir: Path) -> None:
    def hang_up() -> None:
        connection, _ = server.accept()
        connection.recv(1000)
        connection.close()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short_dir / "infer.sock"))
        server.listen()
        thread = threading.Thread(target=hang_up)
        thread.start()
        client = vestal.Client(runtime_dir=short_dir)
        with pytest.raises(vestal.ConnectionLost, match="lost during the handshake: vestald closed it"):
            client.connect()
        thread.join()


# --- waiting until it can be ------------------------------------------------------------------------------------


def test_a_daemon_that_is_ready_is_not_waited_for() -> None:
    told: list[vestal.Progress] = []
    with ScriptedDaemon(infer=echo) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        assert client.wait_ready(on_progress=told.append).version == 2
        assert client.generate("Hi").text == "Hi"
    assert told == []


def test_progress_is_followed_until_the_socket_opens() -> None:
    def admin(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        peer.send(m.Snapshot(id=id, seq=1, status=status_report(id, "loading", 10)))
        peer.send(status_report(peer.expect(m.Status).id, "loading", 10))
        for seq, percent in enumerate((30, 30, 90), 2):
            peer.send(m.Event(id=id, seq=seq, kind="backend_loading", data={}))
            peer.send(status_report(peer.expect(m.Status).id, "loading", percent))
        daemon.open("infer", echo)
        peer.send(m.Event(id=id, seq=9, kind="daemon_state", data={}))
        peer.send(status_report(peer.expect(m.Status).id, "ready", 100))
        peer.expect_end()

    told: list[str] = []
    asked = reporting("loading", 10)  # the explanation of the first failure asks on a connection of its own
    with ScriptedDaemon(admin=[asked, admin]) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        client.wait_ready(timeout=WAIT, on_progress=lambda progress: told.append(str(progress)))
        assert client.generate("Hi").text == "Hi"
    assert told == [
        "loading: scripted loading 10 %",
        "loading: scripted loading 30 %",
        "loading: scripted loading 90 %",
        "ready: scripted ready",
    ]


def test_a_daemon_that_is_not_even_started_is_waited_for() -> None:
    def start(progress: vestal.Progress) -> None:
        assert str(progress) == f"waiting for {daemon.runtime_dir}/infer.sock"
        daemon.open("infer", echo)

    with ScriptedDaemon() as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        client.wait_ready(timeout=WAIT, on_progress=start)
        assert client.generate("Hi").text == "Hi"


def test_a_daemon_that_dies_while_it_loads_is_waited_for_still() -> None:
    def die(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        peer.send(m.Snapshot(id=id, seq=1, status=status_report(id, "loading", 10)))
        peer.send(status_report(peer.expect(m.Status).id, "loading", 10))
        daemon.close("admin")
        daemon.open("infer", echo)  # its successor was quick

    asked = reporting("loading", 10)
    with ScriptedDaemon(admin=[asked, die]) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        assert client.wait_ready(timeout=WAIT).server == "scripted/0"


def test_when_the_time_is_over_the_error_tells_the_last_state() -> None:
    with ScriptedDaemon(admin=reporting("loading", 43)) as daemon:
        client = vestal.Client(runtime_dir=daemon.runtime_dir)
        with pytest.raises(vestal.DaemonNotReady, match=r"is loading: scripted loading 43 % \(waited 1 s\)"):
            client.wait_ready(timeout=1.0)


def test_when_the_time_is_over_and_nothing_ran_the_error_says_that(short_dir: Path) -> None:
    client = vestal.Client(runtime_dir=short_dir)
    with pytest.raises(vestal.DaemonNotRunning, match=r"no vestald at .* \(waited 0\.1 s\)"):
        client.wait_ready(timeout=0.1)


@pytest.mark.parametrize(
    ("state", "kind", "what"),
    [("failed", vestal.Client, "is failed"), ("ready", vestal.EmbedClient, "no configured backend can embed")],
)
def test_what_will_never_be_ready_is_told_at_once(
    state: LifecycleState, kind: type[vestal.Client | vestal.EmbedClient], what: str
) -> None:
    with ScriptedDaemon(admin=reporting(state)) as daemon, pytest.raises(vestal.DaemonNotReady, match=what) as caught:
        kind(runtime_dir=daemon.runtime_dir).wait_ready(timeout=WAIT)
    assert not caught.value.retryable


def test_an_admin_socket_that_refuses_this_user_leaves_trying_again() -> None:
    def refuse(peer: Peer) -> None:
        message = peer.next()
        assert isinstance(message, (m.Status, m.Subscribe))
        peer.fail(message.id, vestal.NotAuthorized("the admin socket is for uid 0"))
        if isinstance(message, m.Subscribe):
            daemon.open("infer", echo)
        peer.expect_end()

    with ScriptedDaemon(admin=refuse) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        assert client.wait_ready(timeout=WAIT).server == "scripted/0"


def test_a_daemon_that_says_ready_and_has_no_socket_is_tried_at_intervals() -> None:
    def admin(peer: Peer) -> None:
        seen.append(peer)
        reporting("ready")(peer)

    seen: list[Peer] = []
    with ScriptedDaemon(admin=admin) as daemon, pytest.raises(vestal.DaemonNotReady, match=r"waited 1 s"):
        vestal.Client(runtime_dir=daemon.runtime_dir).wait_ready(timeout=1.0)
    assert len(seen) < 30  # two a try; without a pause it would be hundreds


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to somebody else")
def test_nothing_is_said_to_a_daemon_in_a_directory_that_somebody_else_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(peer: Peer) -> None:
        raise AssertionError(f"the client greeted it: {peer!r}")

    uid = 1_000_000 + os.getpid()  # nobody's, and no other run's
    trap = Path(f"/tmp/vestal-{uid}")
    trap.mkdir()
    try:
        with ScriptedDaemon(infer=script, runtime_dir=trap):
            os.chown(trap, 12345, 12345)
            monkeypatch.setattr(os, "getuid", lambda: uid)
            with pytest.raises(vestal.PermissionRefused, match="belongs to uid 12345, not to you"):
                vestal.Client(runtime_dir=trap).connect()
            with pytest.raises(vestal.PermissionRefused, match="belongs to uid 12345, not to you"):
                asyncio.run(vestal.AsyncClient(runtime_dir=trap).connect())
    finally:
        trap.rmdir()


def test_a_daemon_that_cannot_do_what_is_required_is_not_waited_for() -> None:
    with ScriptedDaemon(infer=echo) as daemon:
        client = vestal.Client(runtime_dir=daemon.runtime_dir, require=("vision",))
        with pytest.raises(vestal.CapabilityMissing):
            client.wait_ready(timeout=WAIT)
