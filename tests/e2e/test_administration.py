"""The admin socket: what an operator sees, and what the commands do, and when they may be given."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import Peer
from vestal import messages as m
from vestald.lifecycle import ADMIN_COMMANDS

COMMANDS: dict[str, m.AnyMessage] = {
    "status": m.Status(id=1),
    "subscribe": m.Subscribe(id=2),
    "backends": m.Backends(id=1),
    "queue": m.Queue(id=1),
    "metrics": m.Metrics(id=1),
    "cancel_request": m.CancelRequest(id=1, request=12345),
    "drain": m.Drain(id=1),
    "undrain": m.Undrain(id=1),
    "explain_route": m.ExplainRoute(id=1),
    "add_backend": m.AddBackend(id=1, backend="other"),
    "drain_backend": m.DrainBackend(id=1, backend="other"),
    "undrain_backend": m.UndrainBackend(id=1, backend="other"),
    "remove_backend": m.RemoveBackend(id=1, backend="other"),
    "restart_backend": m.RestartBackend(id=1, backend="echo"),
    "reload": m.Reload(id=1),
    "ping": m.Ping(nonce=1),
    "stop": m.Stop(id=1),
}


def test_status_tells_the_whole_picture(start: Start) -> None:
    daemon = start(echo("chat", slots=3), echo("vectors", embed=True))
    with daemon.infer() as peer, daemon.admin() as admin:
        peer.ping()
        status = admin.command(m.Status(id=4), m.StatusReport)
    assert (status.state, status.pid, status.connections) == ("ready", daemon.process.pid, 2)
    assert status.server.startswith("vestald/")
    assert status.runtime_dir == str(daemon.runtime_dir)
    assert status.sockets == {kind: str(daemon.path(kind)) for kind in ("admin", "infer", "embed")}
    assert (status.waiting, status.running, status.queue_depth) == (0, 0, 64)
    assert [(b.name, b.adapter, b.model, b.state, b.slots) for b in status.backends] == [
        ("chat", "echo", "echo", "ready", 3),
        ("vectors", "echo", "echo", "ready", 1),
    ]


def test_status_counts_what_runs_and_waits(start: Start) -> None:
    daemon = start(echo(fault="hang", slots=2))
    with daemon.infer() as peer:
        peer.send(*(peer.request(id) for id in range(5)))
        peer.ping()
        status = daemon.status()
    assert (status.running, status.waiting) == (2, 3)
    assert (status.backends[0].running, status.backends[0].waiting) == (2, 3)


def test_a_subscriber_gets_the_picture_and_then_every_change(start: Start) -> None:
    daemon = start()
    with daemon.admin() as admin, daemon.admin() as other:
        admin.send(m.Subscribe(id=9))
        snapshot = admin.take(m.Snapshot)
        assert (snapshot.id, snapshot.status.state) == (9, "ready")
        other.command(m.Drain(id=1), m.Acknowledged)
        other.command(m.Undrain(id=2), m.Acknowledged)
        events = [admin.event("daemon_state") for _ in range(2)]
        assert [event.data for event in events] == [
            {"before": "ready", "state": "draining"},
            {"before": "draining", "state": "ready"},
        ]
        assert [event.seq for event in events] == [snapshot.seq + 1, snapshot.seq + 2]
        assert {event.id for event in events} == {9}


def test_the_metrics_count_requests_tokens_and_refusals(start: Start) -> None:
    daemon = start()
    with daemon.infer() as peer:
        peer.generate(1, "one two three")
        peer.generate(2, "one two three", max_tokens=2)
        peer.ask(3, model="nobody")
        peer.error(3)
        peer.sock.sendall(b"\x00\x00\x00\x01\xc1")
        peer.rest()
    with daemon.admin() as admin:
        text = admin.command(m.Metrics(id=1), m.MetricsReport).text
    assert 'vestal_requests_total{backend="echo",outcome="end"} 1.0' in text
    assert 'vestal_requests_total{backend="echo",outcome="length"} 1.0' in text
    assert 'vestal_requests_total{backend="none",outcome="model_not_found"} 1.0' in text
    assert 'vestal_tokens_total{backend="echo",kind="input"} 6.0' in text
    assert 'vestal_tokens_total{backend="echo",kind="output"} 5.0' in text
    assert 'vestal_refusals_total{code="malformed_frame"} 1.0' in text
    assert 'vestal_queue_seconds_count{backend="echo",class="normal"} 2.0' in text
    assert 'vestal_backend_up{backend="echo"} 1.0' in text
    assert re.search(r"^vestal_connections \d", text, re.MULTILINE)


def test_a_drained_daemon_finishes_what_it_has_and_takes_nothing_new(start: Start) -> None:
    daemon = start(echo(token_delay="5ms"))
    with daemon.infer() as peer, daemon.admin() as admin:
        peer.send(peer.request(1, "w " * 30), peer.request(2, "w"))
        peer.take(m.Text)
        acknowledged = admin.command(m.Drain(id=1), m.Acknowledged)
        assert acknowledged.state == "draining"
        assert peer.take(m.Goaway).reason == "draining"
        peer.ask(3)
        error = peer.error(3)
        assert (error.code, error.retryable) == ("shutting_down", True)
        assert peer.done(1).usage.output_tokens == 30
        assert peer.done(2).stop_reason == "end"
        assert daemon.path("infer").exists()
        admin.command(m.Undrain(id=2), m.Acknowledged)
        assert peer.generate(4, "back again")[0] == "back again"


def test_a_connection_made_while_draining_is_told_too(start: Start) -> None:
    daemon = start()
    with daemon.admin() as admin:
        admin.command(m.Drain(id=1), m.Acknowledged)
        with daemon.infer() as peer, daemon.admin() as operator:
            assert peer.take(m.Goaway).reason == "draining"
            assert operator.take(m.Goaway).reason == "draining"
        assert admin.take(m.Goaway).reason == "draining"


@pytest.mark.parametrize("state", ["loading", "ready", "draining", "stopping"])
def test_a_command_is_obeyed_exactly_in_the_states_that_its_table_names(start: Start, state: str) -> None:
    assert COMMANDS.keys() == ADMIN_COMMANDS.keys()
    loading = state == "loading"
    daemon = start(echo(fault="hang", ready_delay="30s" if loading else "0s"), wait=not loading)
    with daemon.admin() as admin, ExitStack() as stack:
        if state == "draining":
            admin.command(m.Drain(id=0), m.Acknowledged)
        if state == "stopping":
            stack.enter_context(_busy(daemon))
            admin.command(m.Stop(id=0, deadline_ms=10_000), m.Acknowledged)
        for command in sorted(COMMANDS, key=_changes_most):
            admin.send(COMMANDS[command])
            answer = admin.first(lambda frame: not isinstance(frame, m.Event | m.Goaway))
            refused = isinstance(answer, m.Error) and "is not possible while" in answer.message
            assert refused == (state not in ADMIN_COMMANDS[command]), command
            if refused:
                assert isinstance(answer, m.Error)
                assert answer.code == "invalid_request"
                assert (answer.details or {})["state"] == state
                assert sorted(ADMIN_COMMANDS[command]) == (answer.details or {})["legal"]
            if command in ("drain", "undrain") and not refused:  # back to the state that is looked at
                admin.command(m.Undrain(id=1) if command == "drain" else m.Drain(id=1), m.Acknowledged)


def _changes_most(command: str) -> int:
    """The subscription holds its id, and after a stop nothing is as it was: these come last."""
    return ("subscribe", "stop").index(command) + 1 if command in ("subscribe", "stop") else 0


def _busy(daemon: Daemon) -> Peer:
    """A request that hangs, so that a stop does not come to its end."""
    peer = daemon.infer()
    peer.ask(1)
    peer.ping()
    return peer


def test_every_answer_carries_its_commands_id(start: Start) -> None:
    daemon = start()
    with daemon.admin() as admin:
        commands: list[m.AnyMessage] = [
            m.Status(id=1),
            m.Backends(id=2),
            m.Queue(id=3),
            m.Metrics(id=4),
            m.RestartBackend(id=5, backend="x"),
        ]
        admin.send(*commands)
        answers = {frame.id: type(frame) for frame in (admin.first(lambda _: True) for _ in commands)}  # type: ignore[union-attr]
    assert answers == {1: m.StatusReport, 2: m.BackendsReport, 3: m.QueueReport, 4: m.MetricsReport, 5: m.Error}


def test_a_backend_that_is_not_there_cannot_be_restarted(start: Start) -> None:
    daemon = start(echo("one"), echo("two"))
    with daemon.admin() as admin:
        error = admin.command(m.RestartBackend(id=1, backend="three"), m.Error)
    assert error.code == "invalid_request"
    assert (error.details or {})["field"] == "backend"
    assert error.hint is not None
    assert "one (ready), two (ready)" in error.hint


def test_nobody_else_can_open_the_admin_socket(start: Start) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can try it as another uid")
    daemon = start(echo(), sockets={"mode": "0666"})
    for path in (daemon.home, daemon.runtime_dir):
        path.chmod(0o755)  # the directory does not protect it: the socket's own mode does
    assert _connects_as(12345, str(daemon.path("infer"))) == "connected"
    assert _connects_as(12345, str(daemon.path("admin"))) == "PermissionError"


def test_somebody_else_whom_the_socket_lets_in_is_turned_away(start: Start) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can try it as another uid")
    daemon = start()
    for path in (daemon.home, daemon.runtime_dir):
        path.chmod(0o755)
    daemon.path("admin").chmod(0o666)
    assert _connects_as(12345, str(daemon.path("admin")), m.Stop(id=1)) == "not_authorized"
    assert daemon.status().state == "ready"
    with daemon.infer() as peer:
        assert peer.generate(1)[1].stop_reason == "end"


def _connects_as(uid: int, path: str, command: m.AnyMessage | None = None) -> str:
    """What happens to another user who connects: in a child, as the kernel looks at the process."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # the child leaves by os._exit
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            with Peer(Path(path), "admin" if command else "infer", (1,)) as peer:
                said = peer.welcome.code if isinstance(peer.welcome, m.Error) else "connected"
                if command is not None and said == "connected":
                    said = peer.command(command, m.Error).code
        except BaseException as exc:
            said = type(exc).__name__
        os.write(theirs, said.encode())
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours) as pipe:
        return pipe.read()
