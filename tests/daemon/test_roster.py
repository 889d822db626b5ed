"""One more, one less, another in its place: what an operator may do with backends, and what that leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.daemon.inside import END, Inside, Scripted, daemon, declared
from vestal import messages as m
from vestal.backend import EmbedResult, Ready, TextEvent, Unavailable
from vestal.errors import InvalidRequest, VestalError
from vestal.values import Capabilities
from vestald.backends import starting
from vestald.backends.registry import Declared
from vestald.backends.unit import Unit
from vestald.config import Sources
from vestald.house import House
from vestald.roster import place_among


@pytest.mark.parametrize(
    ("name", "running", "declared", "index"),
    [
        ("b", [], ["b"], 0),
        ("b", ["a", "c"], ["a", "b", "c"], 1),
        ("a", ["b", "c"], ["a", "b", "c"], 0),
        ("c", ["a", "b"], ["a", "b", "c"], 2),
        ("b", ["c", "a"], ["a", "b", "c"], 0),  # what runs keeps its order
        ("b", ["gone", "c"], ["a", "b", "c"], 1),
    ],
)
def test_one_more_stands_before_those_that_the_file_has_after_it(
    name: str, running: list[str], declared: list[str], index: int
) -> None:
    assert place_among(name, running, declared) == index


@given(st.permutations("abcdef"), st.data())
def test_added_in_any_order_they_stand_as_in_the_file(order: list[str], data: st.DataObject) -> None:
    running: list[str] = []
    for name in data.draw(st.permutations(order)):
        running.insert(place_among(name, running, order), name)
    assert running == order


# --- a daemon without a file ------------------------------------------------------------------------------------

Scene = Callable[[Inside], Awaitable[None]]


async def hello(_request: Any) -> Any:
    yield TextEvent("hello")
    yield END


def play(directory: Path, scene: Scene, *backends: Scripted | Declared, drain_deadline: float = 5.0) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), daemon(directory, *backends, drain_deadline=drain_deadline) as inside:
            await scene(inside)

    asyncio.run(main())


async def until(inside: Inside, kind: str, act: Callable[[], None]) -> dict[str, Any]:
    """The facts of the next event of that kind after `act`."""
    told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def note(_seq: int, what: str, facts: dict[str, Any]) -> None:
        if what == kind and not told.done():
            told.set_result(facts)

    unsubscribe = inside.app.house.events.subscribe(note)
    act()
    facts = await told
    unsubscribe()
    return facts


def unit(inside: Inside, name: str) -> Unit:
    return next(unit for unit in inside.app.house.supervisor.units if unit.name == name)


def test_without_a_file_a_restart_is_of_what_runs_and_nothing_can_be_added(short_dir: Path) -> None:
    backend = Scripted(hello, name="a")

    async def scene(inside: Inside) -> None:
        roster = inside.app.house.roster
        await until(inside, "backend_state", lambda: roster.restart("a", None))
        while unit(inside, "a").state != "ready":
            await asyncio.sleep(0)
        assert backend.starts == 2
        with pytest.raises(InvalidRequest, match="no configuration to read again"):
            roster.add("b")

    play(short_dir, scene, backend)


def test_a_stream_that_does_not_close_holds_up_neither_its_client_nor_the_removal(short_dir: Path) -> None:
    let_go = asyncio.Event()

    async def stays(_request: Any) -> Any:
        try:
            yield TextEvent("one ")
            await asyncio.get_running_loop().create_future()
        finally:
            await let_go.wait()

    async def scene(inside: Inside) -> None:
        caller = await inside.call()
        caller.ask(1, model="stays")
        await caller.first(lambda frame: isinstance(frame, m.Token))
        await until(inside, "backend_removed", lambda: inside.app.house.roster.remove("stays", 0.01))
        error = await caller.error(1)
        assert (error.code, error.retryable) == ("backend_unavailable", True)
        assert "1 tokens were made" in error.message
        assert "stays" not in inside.app.house.generating.scheduler.lanes
        let_go.set()
        await inside.app.house.jobs.idle()
        assert inside.app.house.generating.scheduler.running == 0
        caller.ask(2)
        assert (await caller.done(2)).backend == "other"

    play(short_dir, scene, Scripted(stays, name="stays"), Scripted(hello, name="other"))


def test_one_that_does_not_stop_stays_to_be_seen_and_to_be_removed_again(short_dir: Path) -> None:
    stuck = [True]

    async def stop(_timeout: float) -> None:
        if stuck[0]:
            raise RuntimeError("oops")

    async def scene(inside: Inside) -> None:
        roster = inside.app.house.roster
        facts = await until(inside, "backend_remove_failed", lambda: roster.remove("bad", None))
        says = "backend 'bad' did not stop but raised RuntimeError"
        assert facts == {"backend": "bad", "error": f"{says} (restart the daemon)"}
        bad = unit(inside, "bad")
        assert (bad.state, bad.given_up, bad.stuck, bad.detail) == ("stopping", True, True, says)
        with pytest.raises(InvalidRequest, match="is there: it is stopping") as refused:
            roster.add("bad")
        assert "vestal backend remove bad" in str(refused.value)
        assert "vestal backend restart" not in str(refused.value), "it would have to stop for that"
        caller = await inside.call()
        caller.ask(1, model="bad")
        assert (await caller.error(1)).code == "backend_unavailable"
        stuck[0] = False
        await until(inside, "backend_removed", lambda: roster.remove("bad", None))
        assert [unit.name for unit in inside.app.house.supervisor.units] == ["good"]

    play(short_dir, scene, Scripted(hello, name="good"), Scripted(hello, name="bad", stop=stop))


@pytest.mark.parametrize("state", ["ready", "failed"])
def test_whoever_hears_that_a_restart_is_over_may_restart_at_once(short_dir: Path, state: str) -> None:
    """Within the event itself: no turn of the loop is needed to tidy up."""
    broken = iter([False, state == "failed", False])

    async def start(_report: Any) -> None:
        if next(broken):
            raise VestalError("no file")

    async def scene(inside: Inside) -> None:
        roster, again = inside.app.house.roster, asyncio.Event()

        def note(_seq: int, kind: str, facts: dict[str, Any]) -> None:
            if kind == "backend_state" and facts["state"] == state and not again.is_set():
                roster.restart("a", None)
                again.set()

        inside.app.house.events.subscribe(note)
        roster.restart("a", None)
        await again.wait()
        while unit(inside, "a").life < (3 if state == "ready" else 2):
            await asyncio.sleep(0)

    play(short_dir, scene, Scripted(hello, name="a", start=start))


def test_between_two_backends_of_a_name_it_can_what_the_first_could(short_dir: Path) -> None:
    """A new one knows what it can do when it is ready: until then, sockets and requests go by the old one."""

    async def scene(inside: Inside) -> None:
        one = unit(inside, "a")
        before = one.capabilities
        another = Scripted(hello, name="a", slots=7)
        another.capabilities = Capabilities()
        one.replace(type(one.declared)(one.declared.table, one.declared.keys, another))
        assert one.capabilities == before
        assert inside.app.house.roster.doors() == {"infer"}
        one.serves()
        assert one.capabilities == another.capabilities

    play(short_dir, scene, Scripted(hello, name="a", slots=3))


def test_what_waited_for_one_that_can_less_when_it_is_back_is_refused_and_not_served_by_halves(short_dir: Path) -> None:
    let_go = asyncio.Event()

    async def stays(_request: Any) -> Any:
        await let_go.wait()
        yield END

    async def scene(inside: Inside) -> None:
        roster = inside.app.house.roster
        caller = await inside.call(features=("queue_events",))
        caller.ask(1)
        caller.ask(2, temperature=0.5)
        await caller.first(lambda frame: isinstance(frame, m.Queued))
        less = declared(Scripted(hello, name="a", options=("max_tokens",)))
        with patch.object(roster, "_sources", Sources()), patch.object(roster, "_declared", lambda _: (less, ["a"])):
            roster.restart("a", None)
        let_go.set()
        assert (await caller.done(1)).stop_reason == "end"
        error = await caller.error(2)
        assert (error.code, (error.details or {})["option"]) == ("unsupported", "temperature")

    play(short_dir, scene, Scripted(stays, name="a", options=("max_tokens", "temperature")))


def test_what_is_being_removed_or_restarted_cannot_be_added_and_is_said_to_be(short_dir: Path) -> None:
    let_go = asyncio.Event()

    async def stop(_timeout: float) -> None:
        await let_go.wait()

    async def scene(inside: Inside) -> None:
        roster = inside.app.house.roster
        roster.remove("a", None)
        roster.restart("b", None)
        for name, what in (("a", "removed"), ("b", "restarted")):
            with pytest.raises(InvalidRequest, match=f"'{name}' cannot be added now: it is being {what}") as refused:
                roster.add(name)
            assert "vestal backend restart" not in str(refused.value)
        let_go.set()

    play(short_dir, scene, Scripted(hello, name="a", stop=stop), Scripted(hello, name="b", stop=stop))


class Pausing:
    """`asyncio`, where a pause lasts until `over` is set."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, _seconds: float) -> None:
        self.over = asyncio.get_running_loop().create_future()
        await self.over


def test_a_restart_in_the_moment_in_which_a_start_is_tried_again_is_in_nobodys_way(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause before the next try is over, and who made it goes on right after the command."""
    monkeypatch.setattr(starting, "asyncio", clock := Pausing())
    faults = iter([VestalError("no file")])

    async def start(_report: Any) -> None:
        if (fault := next(faults, None)) is not None:
            raise fault

    async def scene(inside: Inside) -> None:
        told: list[str] = []
        inside.app.house.events.subscribe(lambda _seq, kind, _facts: told.append(kind))
        while clock.over is None:
            await asyncio.sleep(0)
        clock.over.set_result(None)
        inside.app.house.roster.restart("b", None)
        while unit(inside, "b").state != "ready":
            await asyncio.sleep(0)
        assert "backend_start_failed" not in told

    play(short_dir, scene, Scripted(hello, name="a"), declared(Scripted(hello, name="b", start=start), required=False))


@pytest.mark.parametrize("command", ["remove", "restart"])
def test_a_fault_of_the_daemons_own_is_told_to_who_waits_for_the_command(short_dir: Path, command: str) -> None:
    async def scene(inside: Inside) -> None:
        roster = inside.app.house.roster
        with patch.object(inside.app.house.supervisor, "stop", side_effect=KeyError("who")):
            facts = await until(inside, f"backend_{command}_failed", lambda: getattr(roster, command)("a", None))
        assert facts["backend"] == "a"
        assert "KeyError: 'who' (this is a fault in vestald" in facts["error"]
        await until(inside, "backend_removed", lambda: roster.remove("a", None))

    play(short_dir, scene, Scripted(hello, name="a"), Scripted(hello, name="b"))


def test_one_that_has_given_up_holds_no_socket_open_until_it_is_started_again(short_dir: Path) -> None:
    backend = Scripted(hello, name="a")

    async def scene(inside: Inside) -> None:
        app = inside.app
        backend.report(Unavailable("it died", recovering=True))
        assert inside.exists("infer")
        await until(inside, "socket_closed", lambda: backend.report(Unavailable("it died too often", recovering=False)))
        assert not inside.exists("infer")
        assert app.house.sockets.keys() == {"admin"}
        await until(inside, "socket_opened", lambda: app.house.roster.restart("a", None))
        caller = await inside.call()
        caller.ask(1)
        assert (await caller.done(1)).backend == "a"
        await until(inside, "socket_closed", lambda: backend.report(Unavailable("again", recovering=False)))
        await until(inside, "socket_opened", lambda: backend.report(Ready()))

    play(short_dir, scene, backend)


def test_a_request_that_others_go_on_with_is_not_ended_with_the_backend_that_goes(short_dir: Path) -> None:
    vectors = EmbedResult(data=bytes(8), count=1, dimensions=2, input_tokens=1)
    asked: list[str] = []

    async def stays(_request: Any) -> EmbedResult:
        asked.append("stays")
        await asyncio.get_running_loop().create_future()
        return vectors

    async def quick(_request: Any) -> EmbedResult:
        asked.append("quick")
        return vectors

    async def scene(inside: Inside) -> None:
        caller = await inside.call("embed")
        caller.send(m.Embed(id=1, input=["one", "two"]))
        while len(asked) < 2:
            await asyncio.sleep(0)
        told: list[str] = []
        inside.app.house.events.subscribe(lambda _seq, kind, _facts: told.append(kind))
        await until(inside, "backend_removed", lambda: inside.app.house.roster.remove("stays", 0.01))
        answer = await caller.end(1)
        assert isinstance(answer, m.Embeddings), answer
        assert {part.backend for part in answer.parts} == {"quick"}
        assert "requests_cut" not in told

    alike: dict[str, Any] = {"model": "v", "embedding_dimensions": 2, "embedding_batch": 1, "generate": False}
    play(
        short_dir,
        scene,
        Scripted(name="stays", embed=stays, **alike),
        Scripted(name="quick", embed=quick, **alike),
    )


# --- room -------------------------------------------------------------------------------------------------------


def test_the_room_for_connections_follows_the_backends_and_one_too_many_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "v.toml"
    table = '[[backend]]\nname = "{}"\nadapter = "echo"\n'
    file.write_text(table.format("a"))

    async def main() -> None:
        sources = Sources(file, environ={})
        house = House(sources.read(), lambda _deadline, _why: None, sources)
        before = house.places.in_all
        file.write_text(table.format("a") + table.format("b"))
        house.roster.add("b")
        assert house.places.in_all == before - 16
        file.write_text("".join(map(table.format, "abc")))
        house.descriptors = house.descriptors - house.places.in_all + 20
        with pytest.raises(InvalidRequest, match="open files are allowed; with 3 backends"):
            house.roster.add("c")
        assert [table.name for table in house.config.backends] == ["a", "b"]
        await house.aclose(1.0)

    asyncio.run(main())
