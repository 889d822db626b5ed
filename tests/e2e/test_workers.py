"""Engines that die, are killed, are restarted: each costs the requests in it one `error`, and nothing else."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, children_of, echo, slack
from vestal import messages as m

EVENTS = ("queue_events",)


def worker_of(daemon: Daemon, name: str = "echo") -> int:
    pid = daemon.backend(name).pid
    assert pid is not None
    return pid


def test_an_isolated_backend_runs_in_a_process_of_its_own(start: Start) -> None:
    daemon = start(echo(isolation="process"), echo("inside"))
    assert children_of(daemon.process.pid) == [worker_of(daemon)]
    assert daemon.backend("inside").pid is None


def test_a_killed_worker_costs_what_ran_in_it_one_error_each_and_nothing_else(start: Start) -> None:
    daemon = start(echo(fault="hang", isolation="process", slots=2), echo("bystander", token_delay="5ms"))
    with daemon.infer(features=EVENTS) as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        peer.send(*(peer.request(id, model="echo") for id in range(4)), peer.request(9, "w " * 50, model="bystander"))
        peer.take(m.Queued, id=3)
        before = worker_of(daemon)
        os.kill(before, signal.SIGKILL)
        for id in (0, 1):
            error = peer.error(id)
            assert (error.code, error.retryable) == ("backend_crashed", True)
        admin.event("backend_state", backend="echo", state="unavailable")
        for id in (2, 3):  # they waited for the next worker
            peer.take(m.Started, id=id)
        assert worker_of(daemon) != before
        assert daemon.backend().restarts == 1
        assert peer.done(9).usage.output_tokens == 50
        for id in (2, 3):
            peer.send(m.Cancel(id=id))
            assert peer.done(id).stop_reason == "cancelled"


def test_a_worker_that_crashes_in_the_middle_of_an_answer_ends_it_with_one_error(start: Start) -> None:
    daemon = start(echo(fault="crash:3", isolation="process"))
    with daemon.infer() as peer:
        peer.ask(1, "a b c d e f")
        *pieces, error = peer.answer(1)
        assert isinstance(error, m.Error)
        assert error.code == "backend_crashed"
        assert "SIGABRT" in error.message
        assert len(pieces) == 3
        assert peer.generate(2, "a b")[0] == "a b"  # too short to crash it, and it came back


def test_a_backend_that_was_given_up_refuses_at_once_and_an_operator_can_bring_it_back(start: Start) -> None:
    daemon = start(echo("broken", fault="crash:1", isolation="process"), echo("healthy"))
    with daemon.infer() as peer, daemon.admin() as admin:
        peer.send(*(peer.request(id, model="broken") for id in range(10)))
        codes = [peer.error(id).code for id in range(10)]
        assert codes == ["backend_crashed"] * 6 + ["backend_unavailable"] * 4
        for id in (10, 11):  # nobody would ever come for it: it must not wait
            peer.ask(id, model="broken")
            error = peer.error(id)
            assert (error.code, error.retryable) == ("backend_unavailable", True)
            assert error.hint is not None
            assert "restart" in error.hint
        assert peer.generate(12, "still here", model="healthy")[0] == "still here"
        assert daemon.backend("broken").state == "unavailable"
        admin.send(m.Subscribe(id=1))
        admin.command(m.RestartBackend(id=2, backend="broken"), m.Acknowledged)
        admin.event("backend_state", backend="broken", state="ready")
        peer.ask(13, " ", model="broken")
        assert peer.done(13).stop_reason == "end"


def test_a_queue_waits_for_its_backend_as_long_as_configured_and_other_queues_do_not_notice(start: Start) -> None:
    daemon = start(
        echo(fault="hang", isolation="process", ready_delay="2s"),
        echo("other", token_delay="5ms"),
        admission={"unavailable_timeout": "300ms"},
    )
    with (
        daemon.infer(features=EVENTS) as peer,
        daemon.infer(features=EVENTS) as bystander,
        daemon.admin() as admin,
    ):
        admin.send(m.Subscribe(id=1))
        peer.send(*(peer.request(id, model="echo") for id in range(3)))
        peer.take(m.Queued, id=2)
        bystander.send(*(bystander.request(id, "w " * 30, model="other") for id in range(4)))
        bystander.take(m.Queued, id=3)
        os.kill(worker_of(daemon), signal.SIGKILL)
        assert peer.error(0).code == "backend_crashed"
        for id in (1, 2):
            error = peer.error(id)
            assert (error.code, error.retryable) == ("backend_unavailable", True)
        assert daemon.backend().state == "unavailable"
        for id in range(4):
            *before, done = bystander.answer(id)
            assert isinstance(done, m.Done)
            assert done.usage.output_tokens == 30
            positions = [frame.position for frame in before if isinstance(frame, m.Queued)]
            assert positions == sorted(positions, reverse=True), "nobody was put back"
        admin.event("backend_state", backend="echo", state="ready")
        peer.ask(3, model="echo")  # it came back by itself, and serves again
        peer.take(m.Started, id=3)


def test_a_worker_that_is_killed_again_and_again_costs_the_others_nothing(start: Start) -> None:
    daemon = start(echo(fault="hang", isolation="process"), echo("other", token_delay="2ms", isolation="process"))
    with daemon.infer(features=EVENTS) as peer, daemon.infer() as bystander:
        bystander.ask(1, "w " * 400, model="other")
        peer.send(*(peer.request(id, model="echo") for id in range(4)))
        for id in range(3):  # fewer deaths than make the daemon give it up
            peer.take(m.Started, id=id)
            os.kill(worker_of(daemon), signal.SIGKILL)
            assert peer.error(id).code == "backend_crashed"
        peer.take(m.Started, id=3)
        assert daemon.backend().restarts == 3
        assert daemon.backend("other").restarts == 0
        assert bystander.done(1).usage.output_tokens == 400


def test_a_restart_brings_a_new_process_and_what_waits_waits_for_it(start: Start) -> None:
    daemon = start(echo(fault="hang", isolation="process", ready_delay="300ms"))
    with daemon.infer(features=EVENTS) as peer, daemon.admin() as admin:
        peer.send(peer.request(1), peer.request(2))
        peer.take(m.Queued, id=2)
        before = worker_of(daemon)
        admin.send(m.Subscribe(id=1))
        answer = admin.command(m.RestartBackend(id=2, backend="echo", deadline_ms=100), m.Acknowledged)
        assert (answer.state, answer.detail) == ("ready", "backend echo restarts")
        error = peer.error(1)
        assert (error.code, error.retryable) == ("backend_unavailable", True)
        peer.take(m.Started, id=2)
        assert worker_of(daemon) != before
        assert not Path(f"/proc/{before}").exists()


def test_what_comes_during_a_restart_waits_for_its_end(start: Start) -> None:
    daemon = start(echo(isolation="process"))
    daemon.rewrite(echo(ready_delay="2s", isolation="process"))
    with daemon.infer(features=EVENTS) as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.command(m.RestartBackend(id=2, backend="echo"), m.Acknowledged)
        admin.event("backend_loading", backend="echo")
        peer.send(peer.request(1, "no name"), peer.request(2, "by name", model="echo"))
        assert {peer.take(m.Queued).id for _ in range(2)} == {1, 2}
        with daemon.infer(2) as newcomer:  # the handshake knows of it as well
            assert isinstance(newcomer.welcome, m.Welcome)
            assert [backend.name for backend in newcomer.welcome.backends] == ["echo"]
        assert peer.done(1).stop_reason == "end"
        assert peer.done(2).stop_reason == "end"


def test_a_backend_that_is_being_restarted_is_not_restarted_again(start: Start) -> None:
    daemon = start()
    daemon.rewrite(echo(ready_delay="2s"))
    with daemon.infer() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.command(m.RestartBackend(id=2, backend="echo"), m.Acknowledged)
        error = admin.command(m.RestartBackend(id=3, backend="echo"), m.Error)
        assert (error.code, (error.details or {})["field"]) == ("invalid_request", "backend")
        admin.event("backend_loading", backend="echo")
        assert admin.command(m.RestartBackend(id=4, backend="echo"), m.Error).code == "invalid_request"
        admin.event("backend_state", backend="echo", state="ready")
        assert peer.generate(1)[1].stop_reason == "end"
        daemon.rewrite(echo())
        admin.command(m.RestartBackend(id=5, backend="echo"), m.Acknowledged)
        admin.event("backend_state", backend="echo", state="ready")


def test_a_restart_that_cannot_stop_its_backend_ends_what_waits_for_it(start: Start) -> None:
    daemon = start(echo(fault="ignore_stop"), daemon={"drain_deadline": "200ms"})
    with daemon.infer() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.command(m.RestartBackend(id=2, backend="echo"), m.Acknowledged)
        peer.ask(1)
        assert peer.error(1).code == "backend_unavailable"
        peer.ask(2)
        assert peer.error(2).code == "backend_unavailable"
        daemon.signal()
    assert daemon.wait() == 70


def test_a_stop_during_a_restart_is_a_stop(start: Start) -> None:
    daemon = start(echo(ready_delay="300ms", isolation="process"))
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        admin.command(m.RestartBackend(id=2, backend="echo"), m.Acknowledged)
        admin.event("backend_loading", backend="echo")
        child = children_of(daemon.process.pid)
        daemon.signal()
    assert daemon.wait(slack()) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in child)


def test_a_fault_before_the_first_token_is_the_only_frame(start: Start) -> None:
    for isolation in ("none", "process"):
        daemon = start(echo(fault="before", isolation=isolation))
        with daemon.infer() as peer:
            peer.ask(1)
            (error,) = peer.answer(1)
            assert isinstance(error, m.Error)
            assert (error.code, error.details) == ("backend_refused", {"fault": "before"})
        daemon.stop()


def test_a_fault_after_some_tokens_ends_the_stream_with_an_error_and_no_done(start: Start) -> None:
    for isolation in ("none", "process"):
        daemon = start(echo(fault="after:2", isolation=isolation))
        with daemon.infer() as peer:
            peer.ask(1, "a b c d")
            *pieces, error = peer.answer(1)
            assert len(pieces) == 2
            assert isinstance(error, m.Error)
            assert error.code == "backend_refused"
            assert peer.generate(2, "a")[0] == "a"
        daemon.stop()
