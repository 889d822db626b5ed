"""`vestal route explain`: what is asked, and how the answer looks on 60 columns and in a pipe."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from tests.protocol.cli.harness import Outcome, Vestal
from vestal import messages as m
from vestal.cli.route import route_lines
from vestal.testing import Gone, Peer, ScriptedDaemon
from vestal.values import Capabilities

CHAT = m.RouteCandidate(
    backend="chat", model="small", verdict="chosen", reason="the least busy", running=1, waiting=0, slots=4
)
COLD = m.RouteCandidate(
    backend="cluster", model="small", verdict="cold", slots=8,
    reason="it is left alone for 22 s after failures, last: backend_unavailable",
)  # fmt: skip
REFUSAL = m.Error(
    code="backend_unavailable", message="backend 'cluster' is left alone for 22 s", retryable=True,
    retry_after_ms=21_500, hint="try again later",
)  # fmt: skip
CHOSEN = m.RouteReport(id=1, policy="least_busy", candidates=[CHAT, COLD], chosen="chat")
REFUSED = m.RouteReport(id=1, policy="priority", candidates=[COLD], refusal=REFUSAL)


def explained(vestal: Vestal, *words: str, report: m.RouteReport = CHOSEN, v2: bool = True) -> tuple[Any, Outcome]:
    """What the daemon was asked by `vestal route explain`, and how that ended."""
    asked: list[Any] = []

    def script(peer: Peer) -> None:
        backend = m.BackendStatus(
            name="chat", adapter="echo", model="small", state="ready", capabilities=Capabilities(v2=v2)
        )
        peer.send(m.BackendsReport(id=peer.expect(m.Backends).id, backends=[backend]))
        with suppress(Gone):
            asked.append(peer.expect(m.ExplainRoute))
            peer.send(m.RouteReport(**{**_fields(report), "id": asked[0].id}))

    vestal.runtime_dir.mkdir(mode=0o700)
    with ScriptedDaemon(admin=script, runtime_dir=vestal.runtime_dir):
        done = vestal("route", "explain", *words)
    return asked[0], done


def _fields(report: m.RouteReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


def test_a_line_for_each_backend_with_verdict_load_and_reason() -> None:
    assert route_lines(CHOSEN, None) == [
        "VERDICT  BACKEND  BUSY  WAIT  WHY",
        "chosen   chat      1/4     0  the least busy",
        "cold     cluster   0/8     0  it is left alone for 22 s after failures, last: backend_unavailable",
    ]


def test_on_sixty_columns_the_reasons_are_below() -> None:
    assert route_lines(CHOSEN, 60) == [
        "VERDICT  BACKEND  BUSY  WAIT",
        "chosen   chat      1/4     0",
        "  the least busy",
        "cold     cluster   0/8     0",
        "  it is left alone for 22 s after failures, last:",
        "  backend_unavailable",
    ]


def test_what_a_client_would_hear_stands_below_when_nobody_would_get_it() -> None:
    assert route_lines(REFUSED, None)[-1] == (
        "a client would hear backend_unavailable: backend 'cluster' is left alone for 22 s (try again later); "
        "try again in 21.5 s"
    )
    assert max(map(len, route_lines(REFUSED, 60))) <= 60


def test_names_of_strangers_cannot_draw() -> None:
    evil = m.RouteCandidate(backend="\x1b[2J", model="", verdict="possible", reason="\x1b[2J\n")
    for width in (None, 20):
        assert all(
            line.isprintable() for line in route_lines(m.RouteReport(id=1, policy="priority", candidates=[evil]), width)
        )


@pytest.mark.parametrize(
    ("words", "v2", "asked"),
    [
        ((), True, m.ExplainRoute(id=2, version=2)),
        ((), False, m.ExplainRoute(id=2, version=1)),
        (("--v1", "small"), True, m.ExplainRoute(id=2, version=1, model="small")),
        (
            ("--needs", "tools,seed", "small"),
            True,
            m.ExplainRoute(id=2, version=2, model="small", needs=["tools", "seed"]),
        ),
        (("--embed",), True, m.ExplainRoute(id=2, version=2, socket="embed")),
        (
            ("--embed", "--task", "query", "--dimensions", "64"),
            True,
            m.ExplainRoute(id=2, version=2, socket="embed", task="query", dimensions=64),
        ),
    ],
)
def test_what_is_asked(vestal: Vestal, words: tuple[str, ...], v2: bool, asked: m.ExplainRoute) -> None:
    got, done = explained(vestal, *words, v2=v2)
    assert got == asked
    assert (done.code, done.out.splitlines()[1].split()[:2]) == (0, ["chosen", "chat"])


@pytest.mark.parametrize("words", [("--task", "query"), ("--dimensions", "64")])
def test_what_only_an_embed_has_wants_to_be_asked_of_one(vestal: Vestal, words: tuple[str, ...]) -> None:
    done = vestal("route", "explain", *words)
    assert (done.code, done.err) == (2, f"vestal: {words[0]} is of an embed: add --embed\n")


def test_the_exit_code_tells_whether_a_backend_would_get_it(vestal: Vestal) -> None:
    _, done = explained(vestal, report=REFUSED)
    assert (done.code, done.err) == (1, "")


def test_as_json_it_is_the_daemons_own_report(vestal: Vestal) -> None:
    _, done = explained(vestal, "--json", report=REFUSED)
    told = json.loads(done.out)
    assert (done.code, told["chosen"], told["refusal"]["code"]) == (1, None, "backend_unavailable")
    assert told["candidates"][0]["verdict"] == "cold"
