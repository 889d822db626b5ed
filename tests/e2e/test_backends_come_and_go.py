"""Backends that are added, removed, drained and restarted while others serve: by name, from the file, and in peace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import Peer, framed
from vestal import messages as m

EVENTS = ("queue_events",)


def watching(daemon: Daemon) -> Peer:
    """An operator who is told of everything from now on."""
    admin = daemon.admin()
    admin.send(m.Subscribe(id=0))
    admin.take(m.Snapshot)
    return admin


def backends(daemon: Daemon) -> dict[str, m.BackendStatus]:
    return {backend.name: backend for backend in daemon.status().backends}


def names(peer: Peer) -> list[str]:
    """The backends that a client was told of."""
    assert isinstance(peer.welcome, m.Welcome)
    return [backend.name for backend in peer.welcome.backends]


# --- add and remove ---------------------------------------------------------------------------------------------


def test_a_backend_that_embeds_brings_its_socket_and_takes_it_away(start: Start) -> None:
    daemon = start(echo("chat"))
    with watching(daemon) as admin, daemon.infer() as old:
        assert not daemon.path("embed").exists()
        daemon.rewrite(echo("chat"), echo("vectors", embed=True, aliases=["fast"]))
        added = admin.command(m.AddBackend(id=1, backend="vectors"), m.Acknowledged)
        assert (added.state, added.detail) == ("ready", "backend vectors starts")
        assert admin.event("backend_added").data == {"backend": "vectors", "adapter": "echo"}
        admin.event("socket_opened", socket="embed")
        with daemon.embed() as peer, daemon.infer() as newcomer:
            peer.send(m.Embed(id=1, input=["a", "b"], model="fast"))
            assert isinstance(answer := peer.end(1), m.Embeddings)
            assert answer.backend == "vectors"
            assert (names(old), names(newcomer)) == (["chat"], ["chat", "vectors"])
            assert old.generate(1, "to the new one", model="vectors")[1].backend == "vectors"
            admin.command(m.RemoveBackend(id=2, backend="vectors"), m.Acknowledged)
            admin.event("socket_closed", socket="embed")
            assert not daemon.path("embed").exists()
            peer.send(m.Embed(id=2, input=["c"]))
            assert peer.error(2).code == "unsupported"
        assert old.generate(2, "still here")[1].backend == "chat"
        assert daemon.status().sockets.keys() == {"admin", "infer"}
    assert daemon.stop() == 0


def test_the_last_that_generates_takes_infer_away_and_the_next_brings_it_back(start: Start) -> None:
    daemon = start(echo())
    with watching(daemon) as admin:
        admin.command(m.RemoveBackend(id=1, backend="echo"), m.Acknowledged)
        admin.event("socket_closed", socket="infer")
        assert admin.event("backend_removed").data == {"backend": "echo"}
        status = daemon.status()
        assert (status.state, status.backends) == ("ready", [])
        assert not daemon.path("infer").exists()
        admin.command(m.AddBackend(id=2, backend="echo"), m.Acknowledged)
        admin.event("socket_opened", socket="infer")
        with daemon.infer() as peer:
            assert peer.generate(1, "back again")[0] == "back again"


def test_what_runs_and_waits_when_a_backend_is_removed_comes_to_its_end(start: Start) -> None:
    daemon = start(echo("old", token_delay="10ms"), echo("new"))
    with daemon.infer(features=EVENTS) as peer, watching(daemon) as admin:
        peer.send(peer.request(1, "w " * 200, model="old"), peer.request(2, "waits its turn", model="old"))
        peer.take(m.Queued, id=2)
        peer.take(m.Text, id=1)
        admin.command(m.RemoveBackend(id=1, backend="old"), m.Acknowledged)
        assert backends(daemon)["old"].draining
        peer.ask(3, "by the model that both serve", model="echo")
        assert peer.done(3).backend == "new"
        peer.ask(4, "by name", model="old")
        refused = peer.error(4)
        assert (refused.code, refused.retryable) == ("backend_unavailable", True)
        assert "'old' is being drained" in refused.message
        assert peer.done(1).usage.output_tokens == 200
        assert peer.done(2).backend == "old"
        admin.event("backend_removed", backend="old")
        peer.ask(5, "nobody knows it", model="old")
        assert peer.error(5).code == "model_not_found"
        assert [*backends(daemon)] == ["new"]


def test_what_is_not_done_at_the_deadline_of_a_removal_gets_one_error(start: Start) -> None:
    daemon = start(echo("old", fault="hang", isolation="process"), echo("new"))
    with daemon.infer(features=EVENTS) as peer, watching(daemon) as admin:
        peer.ask(1, "hangs", model="old")
        peer.take(m.Started, id=1)
        peer.ask(2, "waits", model="old")
        peer.take(m.Queued, id=2)
        worker = backends(daemon)["old"].pid
        admin.command(m.RemoveBackend(id=1, backend="old", deadline_ms=100), m.Acknowledged)
        for id, says in ((1, "an operator stops its backend, 'old'"), (2, "was removed by an operator")):
            error = peer.error(id)
            assert (error.code, error.retryable) == ("backend_unavailable", True)
            assert says in error.message
        assert admin.event("requests_cut").data == {"count": 1, "backends": ["old"]}
        admin.event("backend_removed", backend="old")
        assert 'backend="old"' not in admin.command(m.Metrics(id=2), m.MetricsReport).text
        assert worker is not None
        assert not Path(f"/proc/{worker}").exists()
        assert peer.generate(3, "goes on", model="new")[0] == "goes on"
        assert not [frame for frame in peer.untaken if isinstance(frame, m.Error)]


def test_the_metrics_of_a_removed_backend_go_and_begin_anew_with_the_next_of_its_name(start: Start) -> None:
    daemon = start(echo("old"), echo("new"))

    def told(admin: Peer) -> list[str]:
        text = admin.command(m.Metrics(id=9), m.MetricsReport).text
        return [line for line in text.splitlines() if 'backend="old"' in line]

    count = 'vestal_requests_total{backend="old",outcome="end"} '
    with daemon.infer() as peer, watching(daemon) as admin:
        for id in (1, 2):
            peer.generate(id, model="old")
        assert f"{count}2.0" in told(admin)
        admin.command(m.RemoveBackend(id=1, backend="old"), m.Acknowledged)
        admin.event("backend_removed")
        assert told(admin) == []
        admin.command(m.AddBackend(id=2, backend="old"), m.Acknowledged)
        admin.event("backend_state", backend="old", state="ready")
        peer.generate(3, model="old")
        assert f"{count}1.0" in told(admin)


def test_one_that_is_added_stands_where_the_file_has_it(start: Start) -> None:
    daemon = start(echo("b"), echo("d"))
    with watching(daemon) as admin:
        daemon.rewrite(echo("a"), echo("d"), echo("c"), echo("b"), echo("e"))
        for name in ("c", "a", "e"):
            admin.command(m.AddBackend(id=1, backend=name), m.Acknowledged)
            admin.event("backend_state", backend=name, state="ready")
        assert [*backends(daemon)] == ["a", "c", "b", "d", "e"]
        with daemon.infer() as peer:
            assert peer.generate(1)[1].backend == "a"
        reloaded = admin.command(m.Reload(id=2), m.Reloaded)
        (turned,) = reloaded.applied
        assert (turned.key, turned.before, turned.after) == ("backend", "a, c, b, d, e", "a, d, c, b, e")
        assert reloaded.restart_to_apply == []
        assert [*backends(daemon)] == ["a", "d", "c", "b", "e"]


def test_the_first_of_the_file_goes_first_after_a_reload(start: Start) -> None:
    daemon = start(echo("near"), echo("gone"), echo("far"))
    with daemon.admin() as admin, daemon.infer() as peer:
        assert peer.generate(1)[1].backend == "near"
        daemon.rewrite(echo("far"), echo("near"))
        reloaded = admin.command(m.Reload(id=1), m.Reloaded)
        assert [change.key for change in reloaded.applied] == ["backend"]
        assert [change.key for change in reloaded.restart_to_apply] == ["backend.gone"]
        assert [*backends(daemon)] == ["far", "gone", "near"]
        assert peer.generate(2)[1].backend == "far"


# --- what the file says, and what it does not -------------------------------------------------------------------


def test_a_name_that_the_file_does_not_declare_is_refused_with_those_it_does(start: Start) -> None:
    daemon = start(echo("one"), echo("two"))
    with daemon.admin() as admin:
        error = admin.command(m.AddBackend(id=1, backend="three"), m.Error)
        assert (error.code, error.hint) == ("invalid_request", "it declares one, two")
        assert "is named 'three'" in error.message
        daemon.rewrite(echo("one"))
        error = admin.command(m.RestartBackend(id=2, backend="two"), m.Error)
        assert error.hint == "it declares one; `vestal backend remove two` stops the one that runs"
        error = admin.command(m.AddBackend(id=3, backend="two"), m.Error)
        assert "'two' is there" in error.message
        for message in (m.RemoveBackend, m.DrainBackend, m.UndrainBackend, m.RestartBackend):
            error = admin.command(message(id=4, backend="three"), m.Error)
            assert (error.details or {})["field"] == "backend"
            assert error.hint == "backends: one (ready), two (ready)"
    assert {name: backend.state for name, backend in backends(daemon).items()} == {"one": "ready", "two": "ready"}


def test_nothing_but_a_name_is_taken_from_the_socket(start: Start) -> None:
    daemon = start(echo("one"))
    daemon.rewrite(echo("one"), echo("two"))
    more = {"adapter": "server", "command": ["/bin/sh"], "options": {"slots": 9}, "slots": 9}
    with daemon.raw("admin", 1) as admin:
        for name in ("../two", "/etc/passwd", "server", ""):
            admin.write(framed({"type": "add_backend", "id": 1, "backend": name, **more}))
            assert admin.error()["code"] == "invalid_request"
        admin.write(framed({"type": "add_backend", "id": 2, "backend": "two", **more}))
        assert (admin.read() or {})["type"] == "acknowledged"
    two = backends(daemon)["two"]
    assert (two.adapter, two.slots) == ("echo", 1)


@pytest.mark.parametrize("command", [m.AddBackend(id=1, backend="new"), m.RestartBackend(id=1, backend="old")])
def test_a_fault_anywhere_in_the_file_and_nothing_happens(start: Start, command: m.AnyMessage) -> None:
    daemon = start(echo("old"))
    with watching(daemon) as admin:
        daemon.rewrite(echo("old", slots=2), echo("new"), echo("bystander", slotz=1))
        error = admin.command(command, m.Error)
        assert "nothing was changed" in error.message
        assert "bystander.slotz; did you mean slots?" in error.message
        admin.ping()
        assert not [frame for frame in admin.untaken if isinstance(frame, m.Event)]
    assert [*backends(daemon)] == ["old"]
    assert backends(daemon)["old"].slots == 1


def test_a_name_must_not_mean_one_backend_and_be_another_ones_alias(start: Start) -> None:
    """The file is sound, and what runs is of an earlier one."""
    daemon = start(echo("one", aliases=["fast"]))
    daemon.rewrite(echo("one"), echo("fast"))
    with daemon.admin() as admin:
        error = admin.command(m.AddBackend(id=1, backend="fast"), m.Error)
        assert "'fast' would be the name of one backend and an alias of another" in error.message
        assert error.hint == "`vestal backend restart one` takes over what the configuration says of it"


def test_one_that_is_added_and_cannot_start_is_seen_as_failed_and_can_be_repaired_or_removed(start: Start) -> None:
    daemon = start(echo("good"))
    with watching(daemon) as admin:
        daemon.rewrite(echo("good"), echo("bad", fault="start"), echo("worse", fault="start"))
        for name in ("bad", "worse"):
            admin.command(m.AddBackend(id=1, backend=name), m.Acknowledged)
            assert "asked to fail" in admin.event("backend_start_failed", backend=name).data["error"]
        assert backends(daemon)["bad"].state == "failed"
        daemon.rewrite(echo("good"), echo("bad"))
        admin.command(m.RestartBackend(id=2, backend="bad"), m.Acknowledged)
        admin.event("backend_state", backend="bad", state="ready")
        admin.command(m.RemoveBackend(id=3, backend="worse"), m.Acknowledged)
        admin.event("backend_removed", backend="worse")
        assert {name: backend.state for name, backend in backends(daemon).items()} == {"good": "ready", "bad": "ready"}
        assert daemon.status().state == "ready"


# --- restart ----------------------------------------------------------------------------------------------------


def test_a_restart_finishes_what_runs_and_takes_over_what_the_file_says_now(start: Start) -> None:
    daemon = start(echo(token_delay="10ms"))
    with daemon.infer(features=EVENTS) as peer, watching(daemon) as admin:
        peer.send(peer.request(1, "w " * 50), peer.request(2, "waits"))
        peer.take(m.Queued, id=2)
        peer.take(m.Text, id=1)
        daemon.rewrite(echo(slots=3, embed=True))
        admin.command(m.RestartBackend(id=1, backend="echo"), m.Acknowledged)
        peer.ask(3, "comes meanwhile")
        assert peer.done(1).usage.output_tokens == 50, "what ran was cut"
        admin.event("backend_state", backend="echo", state="ready")
        for id in (2, 3):
            assert peer.done(id).stop_reason == "end"
        admin.event("socket_opened", socket="embed")
        assert backends(daemon)["echo"].slots == 3
        assert admin.command(m.Reload(id=2), m.Reloaded).restart_to_apply == []


def test_a_restart_as_something_less_ends_what_waited_for_the_rest(start: Start) -> None:
    daemon = start(echo(embed=True, fault="hang"))
    with daemon.embed() as peer, daemon.infer(features=EVENTS) as other, watching(daemon) as admin:
        other.ask(1)
        other.take(m.Started, id=1)
        daemon.rewrite(echo())
        admin.command(m.RestartBackend(id=1, backend="echo"), m.Acknowledged)
        peer.send(m.Embed(id=1, input=["a"]))
        peer.ping()
        other.send(m.Cancel(id=1))
        error = peer.error(1)
        assert (error.code, error.retryable) == ("backend_unavailable", True)
        admin.event("socket_closed", socket="embed")


def test_a_restart_does_not_take_the_socket_away_and_one_that_fails_does(start: Start) -> None:
    daemon = start(echo(ready_delay="50ms"))
    with watching(daemon) as admin:
        admin.command(m.RestartBackend(id=1, backend="echo"), m.Acknowledged)
        admin.event("backend_loading", backend="echo")
        assert daemon.path("infer").exists()
        admin.event("backend_state", backend="echo", state="ready")
        daemon.rewrite(echo(fault="start"))
        admin.command(m.RestartBackend(id=2, backend="echo"), m.Acknowledged)
        admin.event("socket_closed", socket="infer")
        assert not daemon.path("infer").exists()
        assert backends(daemon)["echo"].state == "failed"
        daemon.rewrite(echo())
        admin.command(m.RestartBackend(id=3, backend="echo"), m.Acknowledged)
        admin.event("socket_opened", socket="infer")
        with daemon.infer() as peer:
            assert peer.generate(1)[1].stop_reason == "end"


def test_what_is_being_removed_is_left_alone(start: Start) -> None:
    daemon = start(echo(fault="hang"), echo("other"))
    with daemon.infer(features=EVENTS) as peer, watching(daemon) as admin:
        peer.ask(1, model="echo", stream=True)
        peer.take(m.Started, id=1)
        admin.command(m.RemoveBackend(id=1, backend="echo"), m.Acknowledged)
        for message in (m.RemoveBackend, m.RestartBackend, m.UndrainBackend):
            error = admin.command(message(id=2, backend="echo"), m.Error)
            assert "it is being removed" in error.message
        peer.send(m.Cancel(id=1))
        admin.event("backend_removed", backend="echo")


# --- drain ------------------------------------------------------------------------------------------------------


def test_a_drained_backend_finishes_what_it_has_and_gets_nothing_new_until_it_is_undrained(start: Start) -> None:
    daemon = start(echo("first", token_delay="5ms"), echo("second"))
    with daemon.infer() as peer, watching(daemon) as admin:
        peer.ask(1, "w " * 30)
        peer.take(m.Text, id=1)
        admin.command(m.DrainBackend(id=1, backend="first"), m.Acknowledged)
        admin.event("backend_drained", backend="first")
        assert peer.generate(2)[1].backend == "second"
        assert (peer.done(1).backend, daemon.path("infer").exists()) == ("first", True)
        assert [backend.draining for backend in backends(daemon).values()] == [True, False]
        admin.command(m.RestartBackend(id=2, backend="first"), m.Acknowledged)
        admin.event("backend_state", backend="first", state="ready")
        assert backends(daemon)["first"].draining, "a restart is no undrain"
        admin.command(m.UndrainBackend(id=3, backend="first"), m.Acknowledged)
        assert peer.generate(3)[1].backend == "first"


def test_the_audit_log_has_who_did_it_and_what_became_of_it(start: Start) -> None:
    daemon = start(echo(), echo("other"))
    with watching(daemon) as admin:
        admin.command(m.DrainBackend(id=1, backend="other"), m.Acknowledged)
        admin.command(m.UndrainBackend(id=2, backend="other"), m.Acknowledged)
        admin.command(m.RemoveBackend(id=3, backend="other", deadline_ms=700), m.Acknowledged)
        admin.event("backend_removed")
        admin.command(m.AddBackend(id=4, backend="nobody"), m.Error)
        admin.command(m.AddBackend(id=5, backend="other"), m.Acknowledged)
        admin.event("backend_state", backend="other", state="ready")
    assert daemon.stop() == 0
    (log,) = (daemon.home / f"audit-{daemon.runtime_dir.name}").glob("*.ndjson")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(line["command"], line["backend"], line["code"]) for line in lines if line["event"] == "admin"]
    assert told == [
        ("drain_backend", "other", "ok"),
        ("undrain_backend", "other", "ok"),
        ("remove_backend", "other", "ok"),
        ("add_backend", "nobody", "invalid_request"),
        ("add_backend", "other", "ok"),
    ]
    kinds = [line["event"] for line in lines if line.get("backend") == "other" and line["event"] != "admin"]
    assert [kind for kind in kinds if kind != "backend_state"] == [
        "backend_drained",
        "backend_undrained",
        "backend_drained",
        "backend_removed",
        "backend_added",
    ]


# --- and the daemon stops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["command", "signal"])
@pytest.mark.parametrize("required", [True, False])
def test_a_daemon_without_backends_can_be_stopped(start: Start, how: str, required: bool) -> None:
    """`required = false` and broken: it was the only one, so the daemon still loads when it is gone."""
    daemon = start(echo() if required else echo(required=False, fault="start"), wait=required)
    with watching(daemon) as admin:
        admin.command(m.RemoveBackend(id=1, backend="echo"), m.Acknowledged)
        admin.event("backend_removed")
        status = daemon.status()
        assert (status.state, status.backends) == ("ready" if required else "loading", [])
        if how == "command":
            admin.command(m.Stop(id=2), m.Acknowledged)
        else:
            daemon.signal()
    assert daemon.wait() == 0
    assert list(daemon.runtime_dir.iterdir()) == []


def test_a_configuration_that_is_gone_is_told_to_who_can_bring_it_back(start: Start) -> None:
    daemon = start(echo())
    assert daemon.status().config
    Path(daemon.status().config).unlink()
    with daemon.admin() as admin:
        error = admin.command(m.RestartBackend(id=1, backend="echo"), m.Error)
    assert "cannot read" in error.message
    assert (error.hint or "").startswith("let it be there and be readable by this user")


@pytest.mark.parametrize("under_way", ["add", "remove", "restart"])
def test_a_stop_ends_what_an_operator_has_begun(start: Start, under_way: str) -> None:
    daemon = start(echo("old", fault="hang", isolation="process"), echo("other"), daemon={"drain_deadline": "300ms"})
    with daemon.infer(features=EVENTS) as peer, watching(daemon) as admin:
        daemon.rewrite(echo("old"), echo("other"), echo("new", ready_delay="60s", isolation="process"))
        if under_way == "add":
            admin.command(m.AddBackend(id=1, backend="new"), m.Acknowledged)
            admin.event("backend_loading", backend="new")
        else:
            peer.ask(1, model="old")
            peer.take(m.Started, id=1)
            kind = m.RemoveBackend if under_way == "remove" else m.RestartBackend
            admin.command(kind(id=1, backend="old", deadline_ms=60_000), m.Acknowledged)
        daemon.signal()
        if under_way != "add":
            assert peer.error(1).code == "shutting_down"
    assert daemon.wait() == 0
    assert list(daemon.runtime_dir.iterdir()) == []
