"""Every stop has a deadline, ends what it must with a frame, leaves nothing behind, and exits with the truth."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, children_of, echo, slack
from tests.e2e.peers import Peer
from vestal import messages as m

EVENTS = ("queue_events",)


def left_behind(daemon: Daemon) -> list[str]:
    return [path.name for path in daemon.runtime_dir.iterdir()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "admin"])
def test_an_idle_daemon_stops_at_once_with_code_0_and_says_nothing(start: Start, how: signal.Signals | str) -> None:
    daemon = start(echo(embed=True))
    with daemon.infer() as peer, daemon.embed() as embedder:
        if isinstance(how, signal.Signals):
            daemon.signal(how)
        else:
            with daemon.admin() as admin:
                acknowledged = admin.command(m.Stop(id=1), m.Acknowledged)
                assert acknowledged.state == "stopping"
        for client in (peer, embedder):
            goaway, *rest = client.rest()
            assert goaway == m.Goaway(reason="stopping", deadline_ms=10_000)
            assert rest == []
    assert daemon.wait(slack()) == 0
    assert left_behind(daemon) == []
    assert daemon.last_words == []


_DEAF = """
import os, signal, sys
signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
for number in signals:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_whoever_starts_it_deaf_can_stop_it_all_the_same(start: Start) -> None:
    """Shells ignore signals for what they run in the background, and runtimes with threads block them."""
    daemon = start(echo(isolation="process"), under=(sys.executable, "-c", _DEAF))
    with daemon.admin() as admin:
        admin.command(m.Subscribe(id=1), m.Snapshot)
        os.kill(next(iter(children_of(daemon.process.pid))), signal.SIGKILL)
        assert "SIGKILL" in admin.event("backend_state", state="unavailable").data["detail"]
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert left_behind(daemon) == []


def test_a_successor_can_start_in_the_same_directory_at_once(start: Start) -> None:
    for _ in range(3):
        daemon = start(echo(isolation="process"))
        with daemon.infer() as peer:
            assert peer.generate(1)[1].stop_reason == "end"
        assert daemon.stop() == 0


def test_what_runs_and_what_waits_is_finished_before_the_stop(start: Start) -> None:
    daemon = start(echo(token_delay="5ms", slots=2))
    text = "w " * 100
    with daemon.infer(features=EVENTS) as peer:
        peer.send(*(peer.request(id, text) for id in range(5)))
        peer.take(m.Queued, id=4)
        daemon.signal()
        goaway = peer.take(m.Goaway)
        assert (goaway.reason, goaway.deadline_ms) == ("stopping", 10_000)
        assert not daemon.path("infer").exists()
        peer.ask(5)
        refused = peer.error(5)
        assert (refused.code, refused.retryable) == ("shutting_down", True)
        for id in range(5):
            done = peer.done(id)
            assert (done.stop_reason, done.usage.output_tokens) == ("end", 100)
        assert peer.rest() == []
    assert daemon.wait() == 0


def test_what_is_not_finished_at_the_deadline_is_cut(start: Start) -> None:
    daemon = start(echo(token_delay="10ms", embed=True), daemon={"drain_deadline": "300ms"})
    with daemon.infer(features=EVENTS) as peer:
        peer.send(peer.request(1, "w " * 100_000), peer.request(2))
        peer.take(m.Queued, id=2)
        began = time.monotonic()
        daemon.signal()
        assert peer.take(m.Goaway).deadline_ms == 300
        for id in (1, 2):
            error = peer.error(id)
            assert (error.code, error.retryable) == ("shutting_down", True)
        assert peer.rest() == []
    assert daemon.wait() == 0
    assert 0.3 <= time.monotonic() - began < 0.3 + slack()
    assert left_behind(daemon) == []


def test_an_admins_deadline_is_the_one_that_counts(start: Start) -> None:
    daemon = start(echo(fault="hang"))
    with daemon.infer() as peer, daemon.admin() as admin:
        peer.ask(1)
        peer.ping()
        began = time.monotonic()
        admin.command(m.Stop(id=1, deadline_ms=200), m.Acknowledged)
        assert peer.take(m.Goaway).deadline_ms == 200
        assert peer.error(1).code == "shutting_down"
    assert daemon.wait() == 0
    assert 0.2 <= time.monotonic() - began < 0.2 + slack()


def test_a_deadline_of_0_cuts_at_once(start: Start) -> None:
    daemon = start(echo(fault="hang", isolation="process"))
    with daemon.infer() as peer, daemon.admin() as admin:
        peer.ask(1)
        peer.ping()
        (child,) = children_of(daemon.process.pid)
        began = time.monotonic()
        admin.command(m.Stop(id=1, deadline_ms=0), m.Acknowledged)
        assert peer.error(1).code == "shutting_down"
    assert daemon.wait() == 0
    assert time.monotonic() - began < slack()
    assert not alive(child)


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_stop_while_loading_does_not_wait_for_the_load(start: Start, isolation: str) -> None:
    daemon = start(echo(ready_delay="15s", isolation=isolation), echo("other"), wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.event("backend_loading", backend="echo")
        children = children_of(daemon.process.pid)
        began = time.monotonic()
        daemon.signal()
        admin.event("daemon_state", state="stopping")
    assert daemon.wait() == 0
    assert time.monotonic() - began < slack()
    assert left_behind(daemon) == []
    assert not any(map(alive, children))


def test_a_stop_at_any_moment_of_the_start_is_clean(start: Start) -> None:
    """Signals at moments spread over the start: whenever it comes, the exit code is 0 or the signal's own."""
    for step in range(12):
        daemon = start(echo(ready_delay="20ms", isolation="process"), wait=False)
        time.sleep(0.02 * step)  # not a wait for anything: the moment is what is tried
        daemon.signal()
        assert daemon.wait() in (0, -signal.SIGTERM), daemon.stderr
        assert not daemon.runtime_dir.exists() or left_behind(daemon) == []


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_backend_that_ignores_the_stop_costs_the_deadline_and_no_more(start: Start, isolation: str) -> None:
    daemon = start(echo(fault="ignore_stop", isolation=isolation), daemon={"drain_deadline": "400ms"})
    children = children_of(daemon.process.pid)
    with daemon.infer() as peer:
        peer.generate(1)
        began = time.monotonic()
        daemon.signal()
        code = daemon.wait()
        assert time.monotonic() - began < 0.4 + slack()
    if isolation == "none":
        assert code == 70
        (line,) = daemon.last_words
        assert "echo" in line
        assert "stop" in line
    else:  # a process can be killed, so nothing was left
        assert code == 0
    assert left_behind(daemon) == []
    assert not any(map(alive, children))
    assert start(echo()).stop() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, "admin"])
def test_a_second_request_to_stop_skips_to_the_kill(start: Start, second: signal.Signals | str) -> None:
    daemon = start(echo(fault="hang", isolation="process"), daemon={"drain_deadline": "60s"})
    with daemon.infer() as peer, daemon.admin() as admin:
        peer.send(peer.request(1), peer.request(2))
        peer.ping()
        children = children_of(daemon.process.pid)
        daemon.signal()
        peer.take(m.Goaway)
        began = time.monotonic()
        if isinstance(second, signal.Signals):
            daemon.signal(second)
        else:
            admin.command(m.Stop(id=1), m.Acknowledged)
        for id in (1, 2):
            assert peer.error(id).code == "shutting_down"
    assert daemon.wait() == 0
    assert time.monotonic() - began < slack()
    assert not any(map(alive, children))


def test_a_second_request_to_stop_does_not_wait_for_a_backend_that_ignores_it(start: Start) -> None:
    daemon = start(echo(fault="ignore_stop"), daemon={"drain_deadline": "60s"})
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        daemon.signal()
        admin.event("backend_state", backend="echo", state="stopping")
        began = time.monotonic()
        daemon.signal()
        assert daemon.wait() == 70
        assert time.monotonic() - began < slack()


def test_no_worker_survives_a_daemon_that_is_killed(start: Start) -> None:
    daemon = start(echo(isolation="process"), echo("second", isolation="process"))
    children = children_of(daemon.process.pid)
    assert len(children) == 2
    with ExitStack() as stack:
        ends = select.poll()
        for pid in children:
            fd = os.pidfd_open(pid)
            stack.callback(os.close, fd)
            ends.register(fd, select.POLLIN)
        daemon.kill()
        for _ in children:
            ((ended, _event),) = ends.poll(10_000)[:1]
            ends.unregister(ended)
    assert not any(map(alive, children))


def test_an_answer_that_is_written_is_not_lost_to_the_stop(start: Start) -> None:
    """A finished answer of 8 MB that its client has hardly begun to read is no reason to hurry: there is a deadline."""
    daemon = start(echo())
    text = ("w" * 999 + " ") * 8000
    with daemon.infer(1) as peer:
        peer.ask(1, text, stream=False)
        peer.sock.recv(1, socket.MSG_PEEK)  # the answer has begun to arrive
        daemon.signal()
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(0.8)
        assert peer.done(1).text == text
    assert daemon.wait(slack()) == 0


def test_who_never_reads_does_not_hold_up_the_stop_beyond_its_deadline(start: Start) -> None:
    daemon = start(echo(), daemon={"drain_deadline": "400ms"})
    with daemon.infer(1) as peer:
        peer.ask(1, ("w" * 99 + " ") * 20_000)
        daemon.status()
        began = time.monotonic()
        daemon.signal()
        assert daemon.wait() == 0
        assert time.monotonic() - began < 0.4 + slack()


def test_a_connection_that_said_no_hello_does_not_hold_up_the_stop(start: Start) -> None:
    daemon = start()
    with daemon.raw("infer"), daemon.raw("admin"):
        daemon.status()
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < slack()


def test_the_admin_socket_is_there_to_the_end(start: Start) -> None:
    daemon = start(echo(fault="hang"))
    with daemon.infer() as peer:
        peer.ask(1)
        peer.ping()
        daemon.signal()
        peer.take(m.Goaway)
        with pytest.raises(FileNotFoundError):
            Peer(daemon.path("infer"), "infer")
        assert daemon.status().state == "stopping"
        (entry,) = daemon.queue().entries
        with daemon.admin() as admin:
            admin.command(m.CancelRequest(id=1, request=entry.request), m.Acknowledged)
        assert peer.done(1).stop_reason == "cancelled"
    assert daemon.wait() == 0


def test_a_socket_that_somebody_else_bound_since_is_left_alone(start: Start) -> None:
    daemon = start()
    daemon.path("infer").unlink()
    daemon.path("infer").write_text("not the daemon's any more")
    assert daemon.stop() == 0
    assert left_behind(daemon) == ["infer.sock"]
