"""`vestal backend`: against a daemon that follows a script, so that every turn it may take is taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from tests.protocol.cli.harness import PATIENCE, Vestal
from vestal import messages as m
from vestal.cli.backends import backend_table
from vestal.errors import InvalidRequest
from vestal.testing import Gone, Peer, ScriptedDaemon, status_report
from vestal.values import Capabilities

CHAT = m.BackendStatus(name="chat", adapter="llamacpp", model="smollm2-135m", state="ready", slots=4)
CHAT_ABLE = msgspec.structs.replace(CHAT, capabilities=Capabilities())
Step = tuple[dict[str, Any], m.BackendStatus | None]
"""An event's facts with its `kind`, and the backend as it is from then on."""


def state(word: Any, **facts: Any) -> Step:
    """The event of a change of state, and the backend in it."""
    changed = msgspec.structs.replace(CHAT, state=word, **facts)
    return {"kind": "backend_state", "backend": "chat", "state": word, "detail": changed.detail}, changed


class House:
    """A daemon with one backend: a command to change it begins the story, and each look at it brings its next step.

    `doors` are its sockets and why others are not there, one pair for each look at them.
    """

    def __init__(self, *story: Step, before: m.BackendStatus | None = None) -> None:
        self.commands: list[m.AnyMessage] = []
        self.doors: Iterator[tuple[dict[str, str], dict[str, str]]] = repeat(({"infer": "/run/infer.sock"}, {}))
        self._story = iter(story)
        self._backend = before
        self._events: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def scripts(self) -> list[Any]:
        """The subscription comes first."""
        return [self.tell, self.obey]

    def tell(self, peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        peer.send(m.Snapshot(id=id, seq=0, status=status_report(id, "ready")))
        seq = 0
        while (event := self._events.get(timeout=PATIENCE)) is not None:
            seq += 1
            with suppress(Gone):
                peer.send(m.Event(id=id, seq=seq, kind=event["kind"], data=event))

    def obey(self, peer: Peer) -> None:
        with suppress(Gone):
            while True:
                message: Any = peer.next()
                there = [self._backend] if self._backend else []
                if isinstance(message, m.Backends):
                    peer.send(m.BackendsReport(id=message.id, backends=there))
                elif isinstance(message, m.Status):
                    sockets, faults = next(self.doors)
                    report = status_report(message.id, "ready")
                    peer.send(msgspec.structs.replace(report, backends=there, sockets=sockets, socket_faults=faults))
                else:
                    self.commands.append(message)
                    peer.send(m.Acknowledged(id=message.id, state="ready"))
                self._turn()
        self._events.put(None)

    def _turn(self) -> None:
        event, self._backend = next(self._story, (None, self._backend))
        if event is not None:
            self._events.put(event)


@contextmanager
def housed(vestal: Vestal, house: House, *, watched: bool = True) -> Iterator[House]:
    vestal.runtime_dir.mkdir(mode=0o700)
    with ScriptedDaemon(admin=house.scripts() if watched else house.obey, runtime_dir=vestal.runtime_dir):
        yield house


LOADING: tuple[Step, ...] = (
    state("loading", percent=0.0),
    ({"kind": "backend_loading", "backend": "chat", "percent": 37.5}, state("loading", percent=37.5)[1]),
)


def test_add_waits_until_the_backend_is_ready(vestal: Vestal) -> None:
    other = {"kind": "backend_state", "backend": "other", "state": "ready"}
    with housed(vestal, House((other, state("starting")[1]), *LOADING, state("ready"))) as house:
        done = vestal("backend", "add", "chat")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("backend chat is ready after ")
    assert done.out.count("\n") == 1
    assert house.commands == [m.AddBackend(id=1, backend="chat")]


def test_add_waits_for_the_socket_or_for_why_it_is_not_there(vestal: Vestal) -> None:
    house = House(
        *LOADING, state("ready", capabilities=Capabilities()), ({"kind": "socket_failed", "socket": "infer"}, CHAT_ABLE)
    )
    house.doors = iter([({}, {}), ({}, {"infer": "it is a file (move it away)"})])
    with housed(vestal, house):
        done = vestal("backend", "add", "chat")
    assert (done.code, done.out.startswith("backend chat is ready after ")) == (0, True)
    assert done.err == (
        "vestal: warning: no request reaches it by infer.sock, which is not there: it is a file (move it away);"
        " the daemon tries again now and then\n"
    )
    assert next(house.doors, None) is None


def test_add_shows_on_a_terminal_how_far_it_is(vestal: Vestal) -> None:
    with housed(vestal, House(*LOADING, state("ready"))), vestal.terminal("backend", "add", "chat") as terminal:
        terminal.expect("chat: ███████░░░░░░░░░░░░░  38 %")
        assert terminal.finish() == 0
        (line,) = terminal.lines
        assert line.startswith("backend chat is ready after ")


def test_a_backend_that_does_not_start_is_told_with_the_reason_and_the_exit_code(vestal: Vestal) -> None:
    with housed(vestal, House(*LOADING, state("failed", detail="the file is no GGUF"))):
        assert vestal("backend", "add", "chat") == (69, "", "vestal: backend chat did not start: the file is no GGUF\n")


def test_one_that_is_tried_again_is_told_of_as_such(vestal: Vestal) -> None:
    with housed(vestal, House(*LOADING, state("failed", detail="the server is away", required=False))):
        assert vestal("backend", "add", "chat").err == (
            "vestal: backend chat did not start: the server is away (it is tried again; `vestal backend remove chat` "
            "ends that)\n"
        )


def test_who_does_not_want_to_wait_need_not(vestal: Vestal) -> None:
    with housed(vestal, House(), watched=False) as house:
        assert vestal("backend", "add", "--no-wait", "chat").out == (
            "backend chat starts; `vestal backend list` shows how far it is\n"
        )
        assert vestal("backend", "restart", "--no-wait", "chat").code == 0
        assert vestal("backend", "remove", "--no-wait", "--deadline", "250ms", "chat").code == 0
    assert [type(command) for command in house.commands] == [m.AddBackend, m.RestartBackend, m.RemoveBackend]
    assert house.commands[2] == m.RemoveBackend(id=1, backend="chat", deadline_ms=250)


@pytest.mark.parametrize("deed", ["add", "remove", "restart", "drain", "undrain"])
def test_what_the_daemon_refuses_is_told_in_its_words(vestal: Vestal, deed: str) -> None:
    def refuse(peer: Peer) -> None:
        with suppress(Gone):
            while True:
                message: Any = peer.next()
                if isinstance(message, m.Subscribe):
                    peer.send(m.Snapshot(id=message.id, seq=0, status=status_report(message.id, "ready")))
                else:
                    peer.fail(message.id, InvalidRequest("there is no backend 'chat'", hint="backends: echo"))

    vestal.runtime_dir.mkdir(mode=0o700)
    with ScriptedDaemon(admin=refuse, runtime_dir=vestal.runtime_dir):
        done = vestal("backend", deed, "chat")
    assert done == (1, "", "vestal: invalid_request: there is no backend 'chat' (backends: echo)\n")


def test_restart_is_over_when_the_new_one_is_ready_not_while_the_old_one_is(vestal: Vestal) -> None:
    story = (
        state("unavailable"), state("ready"), state("stopping"), state("stopped"), state("starting"), *LOADING,
        state("ready"),
    )  # fmt: skip
    with housed(vestal, House(*story, before=CHAT)) as house:
        done = vestal("backend", "restart", "chat", "--deadline", "2s")
        assert done.out.startswith("backend chat is ready after ")
        assert next(house._story, None) is None, "it was over before the new one was ready"
    assert house.commands == [m.RestartBackend(id=1, backend="chat", deadline_ms=2000)]


def test_a_restart_that_does_not_stop_the_backend_is_told(vestal: Vestal) -> None:
    failed = {"kind": "backend_restart_failed", "backend": "chat", "error": "it did not stop within 10 s"}
    with housed(vestal, House(state("stopping"), (failed, state("stopping")[1]), before=CHAT)):
        done = vestal("backend", "restart", "chat")
    assert done == (69, "", "vestal: backend chat was not restarted: it did not stop within 10 s\n")


def test_remove_waits_until_it_is_gone_and_shows_what_still_runs(vestal: Vestal) -> None:
    draining = state("ready", draining=True, running=2, waiting=1)
    cut = {"kind": "requests_cut", "count": 2, "backends": ["chat"]}
    gone = {"kind": "backend_removed", "backend": "chat"}
    story: tuple[Step, ...] = (draining, (cut, draining[1]), state("stopping"), (gone, None))
    with housed(vestal, House(*story, before=CHAT)) as house, vestal.terminal("backend", "remove", "chat") as terminal:
        terminal.expect("chat: 2 requests running, 1 waiting")
        assert terminal.finish() == 0
        (line,) = terminal.lines
        assert line.startswith("backend chat is removed after ")
        assert line.endswith("; 2 requests cut at the deadline")
    assert house.commands == [m.RemoveBackend(id=1, backend="chat")]


def test_a_backend_that_would_not_stop_is_told(vestal: Vestal) -> None:
    failed = {"kind": "backend_remove_failed", "backend": "chat", "error": "it did not stop within 10 s"}
    with housed(vestal, House((failed, CHAT), before=CHAT)):
        done = vestal("backend", "remove", "chat")
    assert done == (69, "", "vestal: backend chat was not removed: it did not stop within 10 s\n")


def test_without_an_event_the_backend_is_looked_at_all_the_same(vestal: Vestal) -> None:
    with housed(vestal, House(({"kind": "daemon_state"}, None), before=CHAT)):
        assert vestal("backend", "remove", "chat").out.startswith("backend chat is removed after ")


def test_ctrl_c_ends_the_waiting_and_says_so(vestal: Vestal) -> None:
    with housed(vestal, House(*LOADING)), vestal.terminal("backend", "add", "chat") as terminal:
        terminal.expect("38 %")
        terminal.press("\x03")
        assert terminal.finish() == 130
        assert terminal.lines[-1] == "vestal: not waiting any longer; vestald goes on with backend chat"


def test_a_daemon_that_goes_meanwhile_is_told(vestal: Vestal) -> None:
    def vanish(peer: Peer) -> None:
        peer.expect(m.Subscribe)
        peer.send(m.Snapshot(id=1, seq=0, status=status_report(1, "ready")))

    vestal.runtime_dir.mkdir(mode=0o700)
    with ScriptedDaemon(admin=[vanish, House().obey], runtime_dir=vestal.runtime_dir):
        done = vestal("backend", "add", "chat")
    assert (done.code, done.out) == (69, "")
    assert done.err.startswith("vestal: vestald is gone: ")


def test_drain_says_what_it_leaves_and_how_to_take_it_back(vestal: Vestal) -> None:
    with housed(vestal, House(before=msgspec.structs.replace(CHAT, running=2)), watched=False) as house:
        assert vestal("backend", "drain", "chat").out == (
            "backend chat takes no new requests (2 requests running, 0 waiting); "
            "`vestal backend undrain chat` lets it again\n"
        )
        assert vestal("backend", "undrain", "chat").out == "backend chat takes requests again\n"
    assert house.commands == [m.DrainBackend(id=1, backend="chat"), m.UndrainBackend(id=1, backend="chat")]


# --- list -----------------------------------------------------------------------------------------------------------

COLD = m.BackendStatus(
    name="cluster", adapter="openai", model="small", state="ready", slots=8, aliases=["default", "fast"], waiting=1,
    breaker=m.BreakerStatus(state="open", failures=3, cold_ms=21_300, last="backend_unavailable"),
)  # fmt: skip


def test_the_list_has_names_standing_and_what_is_wrong() -> None:
    broken = msgspec.structs.replace(CHAT, name="more", model="", state="failed", detail="no\nsuch file")
    loading = msgspec.structs.replace(CHAT, name="late", state="loading", percent=37.5)
    assert backend_table([CHAT, COLD, broken, loading], None) == [
        "NAME     STATE             BUSY  WAIT  MODEL         ALIASES",
        "chat     ready              0/4     0  smollm2-135m  -",
        "cluster  ready, cold 22 s   0/8     1  small         default, fast",
        "more     failed             0/4     0  -             -",
        "late     loading 38 %       0/4     0  smollm2-135m  -",
        "cluster: its last failure was backend_unavailable",
        r"more: no\nsuch file",
    ]
    assert max(map(len, backend_table([CHAT, COLD, broken], 60))) == 60
    assert backend_table([msgspec.structs.replace(CHAT, detail="its worker answered in 1 ms")], None)[2:] == []
    away = msgspec.structs.replace(COLD, detail="no answer from it " * 9)
    assert "backend_unavailable" in backend_table([away], 60)[2], (
        "a failure counts for more than what it says of itself"
    )


@pytest.mark.parametrize("words", [("backend",), ("backend", "list")])
def test_the_list_is_asked_of_the_daemon(vestal: Vestal, words: tuple[str, ...]) -> None:
    with housed(vestal, House(before=COLD), watched=False):
        assert vestal(*words).out.splitlines()[1].split()[:4] == ["cluster", "ready,", "cold", "22"]
        (line,) = vestal(*words, "--json").out.splitlines()
    told = json.loads(line)
    assert (told["name"], told["aliases"], told["breaker"]["cold_ms"]) == ("cluster", ["default", "fast"], 21_300)
