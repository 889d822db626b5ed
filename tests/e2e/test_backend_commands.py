"""`vestal backend` and `vestal route` with a real daemon: what an operator types, and what an app then hears."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.adapters.remote.threaded import running
from tests.adapters.remote.web import Asked, chat_like, chunk, sse
from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, Table, echo, toml
from tests.protocol.cli.harness import PATIENCE, Vestal

NUMBERS = " ".join(map(str, range(400)))


@pytest.fixture
def vestal(short_dir: Path) -> Vestal:
    """Command lines where `start` starts its daemons."""
    return Vestal(short_dir, short_dir / "r")


def declare(daemon: Daemon, *backends: Table) -> None:
    """Another text in its file, which it is told nothing of."""
    daemon.rewrite_as(toml(*backends))


def names(vestal: Vestal) -> dict[str, str]:
    """Each backend that `vestal backend` lists, with how it stands."""
    rows = [json.loads(line) for line in vestal("backend", "--json").out.splitlines()]
    return {row["name"]: row["state"] + ", draining" * row["draining"] for row in rows}


def backend_of(vestal: Vestal, *words: str) -> str:
    """Who answers `vestal run`."""
    return str(json.loads(vestal("run", "--json", *words, "hello").out)["backend"])


# --- they come and go ---------------------------------------------------------------------------------------------


def test_a_backend_is_added_and_removed_while_apps_are_served(vestal: Vestal, start: Start) -> None:
    daemon = start()
    declare(daemon, echo(), echo("more", ready_delay="200ms", aliases=["extra"]))
    done = vestal("backend", "add", "more")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("backend more is ready after ")
    assert names(vestal) == {"echo": "ready", "more": "ready"}
    assert backend_of(vestal, "--model", "extra") == "more"
    assert "  also called extra\n" in vestal("status").out
    again = vestal("backend", "add", "more")
    assert (again.code, again.out) == (1, "")
    assert "backend 'more' is there: it is ready (vestal backend restart more)" in again.err

    gone = vestal("backend", "remove", "more")
    assert (gone.code, gone.err) == (0, "")
    assert gone.out.startswith("backend more is removed after ")
    assert names(vestal) == {"echo": "ready"}
    assert vestal("run", "--model", "extra", "hello").err.startswith("vestal: model_not_found: ")


@pytest.mark.parametrize("deed", ["add", "restart"])
def test_a_socket_that_could_not_be_opened_for_it_is_a_warning_that_says_what_to_do(
    vestal: Vestal, start: Start, deed: str
) -> None:
    daemon = start()
    (blocked := daemon.path("embed")).write_text("somebody else's")
    if deed == "add":
        declare(daemon, echo(), echo("more", embed=True))
        done = vestal("backend", "add", "more")
        assert done.out.startswith("backend more is ready after ")
    else:
        declare(daemon, echo(embed=True))
        done = vestal("backend", "restart", "echo")
        assert done.out.startswith("backend echo is ready after ")
    (warning,) = done.err.splitlines()
    assert warning.startswith("vestal: warning: no request reaches it by embed.sock, which is not there: ")
    assert f"{blocked} exists and is not a socket" in warning
    assert "move it away" in warning
    assert done.code == 0
    blocked.unlink()
    declare(daemon, echo(), echo("more", embed=True), echo("third", embed=True))
    assert vestal("backend", "add", "third").err == "", "a backend that comes makes it try again"
    assert daemon.path("embed").is_socket()


def test_loading_is_shown_in_percent(vestal: Vestal, start: Start) -> None:
    declare(start(), echo(), echo("more", ready_delay="1s"))
    with vestal.terminal("backend", "add", "more") as terminal:
        terminal.expect_match(r"more: █+░+  \d+ %")
        assert terminal.finish() == 0
        (line,) = terminal.lines
        assert line.startswith("backend more is ready after ")


def test_what_is_not_declared_is_not_added_and_the_file_is_named(vestal: Vestal, start: Start) -> None:
    start()
    done = vestal("backend", "add", "more")
    assert (done.code, done.out) == (1, "")
    assert "is named 'more' (it declares echo)" in done.err


@pytest.mark.parametrize("deed", ["add", "restart"])
def test_a_file_with_faults_changes_nothing_and_each_of_them_is_told(vestal: Vestal, start: Start, deed: str) -> None:
    daemon = start(echo(slots=1))
    declare(daemon, echo(slots=0), echo("more", wings=2))
    done = vestal("backend", deed, "more" if deed == "add" else "echo")
    assert (done.code, done.out) == (1, "")
    *faults, last = done.err.splitlines()
    assert len(faults) == 2
    assert "backend echo.slots" in faults[0]
    assert "wings" in faults[1]
    assert last == "vestal: nothing was changed"
    assert names(vestal) == {"echo": "ready"}


@pytest.mark.parametrize("required", [True, False])
def test_one_that_does_not_start_is_told_and_may_be_mended(vestal: Vestal, start: Start, required: bool) -> None:
    daemon = start()
    declare(daemon, echo(), echo("more", fault="start", required=required))
    done = vestal("backend", "add", "more")
    assert (done.code, done.out) == (69, "")
    assert "backend more did not start: the echo backend was asked to fail" in done.err
    assert ("it is tried again" in done.err) is not required
    declare(daemon, echo(), echo("more", required=required))
    assert vestal("backend", "restart", "more").out.startswith("backend more is ready after ")


def test_remove_shows_what_still_runs_and_says_what_the_deadline_cut(vestal: Vestal, start: Start) -> None:
    daemon = start(echo(), echo("slow", fault="hang"))
    with vestal.start("run", "--model", "slow", "hello") as run:
        while daemon.backend("slow").running == 0:  # no event tells of a request
            pass
        with vestal.terminal("backend", "remove", "slow", "--deadline", "2s") as terminal:
            terminal.expect("slow: 1 request running, 0 waiting")
            assert vestal("run", "--model", "slow", "hello").code == 1, "it takes no new requests meanwhile"
            assert terminal.finish() == 0
            (line,) = terminal.lines
            assert line.endswith("; 1 request cut at the deadline")
        _, err = run.communicate(timeout=PATIENCE)
    assert (run.returncode, err.startswith(b"vestal: backend_unavailable: ")) == (1, True)


def test_a_restart_takes_over_what_was_edited_and_lets_requests_finish(vestal: Vestal, start: Start) -> None:
    daemon = start(echo(slots=1, token_delay="2ms"))
    with vestal.start("run", NUMBERS) as run:
        while daemon.backend().running == 0:
            pass
        declare(daemon, echo(slots=3))
        assert vestal("backend", "restart", "echo").out.startswith("backend echo is ready after ")
        out, _ = run.communicate(timeout=PATIENCE)
    assert (run.returncode, out) == (0, f"{NUMBERS}\n".encode())
    assert daemon.backend().slots == 3
    unknown = vestal("backend", "restart", "nothing")
    assert (unknown.code, unknown.out) == (1, "")
    assert "there is no backend 'nothing'" in unknown.err


# --- where a request goes ------------------------------------------------------------------------------------------


def test_a_drained_backend_gets_no_requests_until_it_is_undrained(vestal: Vestal, start: Start) -> None:
    start(echo(), echo("second"))
    assert backend_of(vestal) == "echo"
    assert vestal("backend", "drain", "echo").out.endswith("; `vestal backend undrain echo` lets it again\n")
    assert names(vestal) == {"echo": "ready, draining", "second": "ready"}
    assert "echo  ready, draining\n" in vestal("status").out
    with vestal.start("watch") as watch:
        assert watch.stdout is not None
        assert b'echo="ready, draining" second=ready' in watch.stdout.readline()
        watch.kill()
    assert backend_of(vestal) == "second"
    assert vestal("run", "--model", "second", "hello").code == 0
    refused = vestal("backend", "drain", "second"), vestal("run", "hello")
    assert [done.code for done in refused] == [0, 1]
    assert refused[1].err.startswith("vestal: backend_unavailable: ")
    assert vestal("backend", "undrain", "echo").out == "backend echo takes requests again\n"
    assert backend_of(vestal) == "echo"


def test_a_route_is_explained_by_the_router_itself(vestal: Vestal, start: Start) -> None:
    start(echo("first", v2=False), echo("second", aliases=["fast"]), echo("third"), router={"policy": "least_busy"})
    verdicts = [line.split()[:2] for line in vestal("route", "explain").out.splitlines()[1:]]
    assert verdicts == [["chosen", "second"], ["possible", "third"], ["incapable", "first"]]
    verdicts = [line.split()[:2] for line in vestal("route", "explain", "--v1", "fast").out.splitlines()[1:]]
    assert verdicts == [["chosen", "second"], ["other_model", "first"], ["other_model", "third"]]
    nobody = vestal("route", "explain", "--embed")
    assert nobody.code == 1
    assert nobody.out.splitlines()[-1].startswith("a client would hear unsupported: no backend can embed")
    assert vestal("embed", "hello").code != 0
    wrong = vestal("route", "explain", "--needs", "wings")
    assert (wrong.code, wrong.out) == (1, "")
    assert "'wings' is no capability and no option" in wrong.err


def test_a_backend_whose_breaker_is_open_is_told_with_the_seconds_that_are_left(vestal: Vestal, start: Start) -> None:
    async def break_off(asked: Asked) -> None:
        await asked.stream(sse(chunk("Hel")))
        asked.writer.transport.abort()

    with running(chat_like(break_off)) as server:
        cluster = {"name": "cluster", "adapter": "openai", "preset": "vllm", "base_url": server.url}
        start(cluster, router={"breaker_failures": 2, "breaker_cold": "10m"})
        assert [vestal("run", "hello").code for _ in range(2)] == [1, 1]
        refused = vestal("run", "hello")
        assert refused.err.startswith("vestal: backend_unavailable: ")
        assert "try again in " in refused.err
        assert "cluster  ready, cold " in vestal("status").out
        assert "2 failures of late, the last: backend_crashed" in vestal("status").out
        assert "ready, cold " in vestal("backend").out
        explained = vestal("route", "explain")
        assert (explained.code, explained.out.splitlines()[1].split()[:2]) == (1, ["cold", "cluster"])
        assert explained.out.splitlines()[-1].startswith("a client would hear backend_unavailable: ")
