"""The asyncio clients do what the blocking ones do, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

import vestal
from vestal import messages as m
from vestal.errors import ERROR_CLASSES, ConnectionFailed
from vestal.testing import Peer, Script, ScriptedDaemon, done, echo, status_report
from vestal.values import TextBlock, Tool, ToolUseBlock, Usage

WAIT = 20.0
Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function to its end, and finds tasks that nobody awaited."""
    factory = None if request.param == "asyncio" else uvloop.new_event_loop

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def alone() -> None:
            async with asyncio.timeout(WAIT):
                await main()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(alone())

    return run


@asynccontextmanager
async def talking(*scripts: Script, **daemon: Any) -> AsyncIterator[vestal.AsyncClient]:
    """A client of a daemon that plays one script per connection, in order."""
    with ScriptedDaemon(infer=scripts, **daemon) as scripted:
        async with vestal.AsyncClient(runtime_dir=scripted.runtime_dir) as client:
            yield client


# --- what comes back ----------------------------------------------------------------------------------------------


def test_a_stream_yields_the_pieces_as_they_came(run: Run) -> None:
    async def main() -> None:
        async with talking(echo) as client:
            stream = client.stream("Why is the sky blue?", max_tokens=64)
            assert [piece async for piece in stream] == ["Why", " is", " the", " sky", " blue?"]
            assert (stream.result.text, stream.result.stop_reason) == ("Why is the sky blue?", "end")
            assert [piece async for piece in stream] == []

    run(main)


@pytest.mark.parametrize("version", [1, 2])
def test_generate_count_ping_and_what_the_daemon_says_of_itself(run: Run, version: int) -> None:
    def script(peer: Peer) -> None:
        request: Any = peer.next()
        assert not request.stream
        whole: dict[str, Any] = {"text": "Hi"} if version == 1 else {"content": [TextBlock("Hi")]}
        peer.send(done(request.id, "length", **whole))
        count: Any = peer.next()
        peer.send(m.Counted(id=count.id, input_tokens=9, context_length=2048))
        peer.expect_end()

    async def main() -> None:
        async with talking(script, versions=(version,)) as client:
            with pytest.raises(vestal.LocalProtocolError, match="has not connected yet"):
                client.version  # noqa: B018  # reading it is what raises
            result = await client.generate([{"role": "user", "content": "Hi"}], max_tokens=20, temperature=0)
            assert (result.text, result.stop_reason) == ("Hi", "length")
            assert (await client.count("b", system="a")).input_tokens == 9
            assert 0 < await client.ping() < 10
            assert (client.version, client.welcome.server, client.backends[0].name) == (
                version,
                "scripted/0",
                "scripted",
            )

    run(main)


def test_events_are_the_frames_of_the_wire(run: Run) -> None:
    frames: list[Any] = []

    def script(peer: Peer) -> None:
        id = peer.expect(m.GenerateV2).id
        frames.append(m.Started(id=id, backend="chat", model="smol"))
        frames.extend([m.ThinkingDelta(id, "hm"), m.Text(id, "Hi")])
        frames.append(m.ToolUse(id=id, call_id="c", name="clock", input={}))
        frames.append(done(id, "tool_use"))
        peer.send(*frames)

    async def main() -> None:
        async with talking(script) as client:
            events = client.events("Hi", tools=[Tool(name="clock", input_schema={})])
            assert [event async for event in events] == frames
            assert events.result.tool_uses == [ToolUseBlock("c", "clock", {})]
            assert (events.result.thinking, events.result.text) == ("hm", "Hi")

    run(main)


def test_many_tasks_share_one_connection(run: Run) -> None:
    connections: list[Peer] = []

    def script(peer: Peer) -> None:
        connections.append(peer)
        echo(peer)

    async def main() -> None:
        async with talking(script) as client:
            texts = [f"{n} says so" for n in range(50)]
            assert [result.text for result in await asyncio.gather(*map(client.generate, texts))] == texts

    run(main)
    assert len(connections) == 1


def test_answers_out_of_order_reach_their_callers(run: Run) -> None:
    def script(peer: Peer) -> None:
        requests = [peer.expect(m.GenerateV2) for _ in range(3)]
        for request in reversed(requests):
            peer.send(m.Text(request.id, str(request.max_tokens)), done(request.id))

    async def main() -> None:
        async with talking(script) as client, asyncio.TaskGroup() as group:
            streams = [client.stream("Hi", max_tokens=n) for n in (1, 2, 3)]
            tasks = [group.create_task(stream.finish()) for stream in streams]
            assert [(await task).text for task in tasks] == ["1", "2", "3"]

    run(main)


# --- what is raised -----------------------------------------------------------------------------------------------


def test_every_error_code_is_raised_as_its_class(run: Run) -> None:
    codes = sorted(ERROR_CLASSES)

    def script(peer: Peer) -> None:
        for code in codes:
            peer.fail(peer.expect(m.GenerateV2).id, ERROR_CLASSES[code]("what", hint="do", details={"n": 1}))
        request = peer.expect(m.GenerateV2)
        peer.send(m.Text(request.id, "a"))
        peer.fail(request.id, vestal.BackendCrashed("SIGABRT"))

    async def main() -> None:
        async with talking(script) as client:
            for code in codes:
                with pytest.raises(ERROR_CLASSES[code]) as caught:
                    await client.generate("Hi")
                assert (caught.value.code, caught.value.hint, caught.value.details) == (code, "do", {"n": 1})
            stream = client.stream("Hi")
            assert await anext(stream) == "a"
            for _ in range(2):
                with pytest.raises(vestal.BackendCrashed):
                    await anext(stream)

    run(main)


def test_what_is_refused_here_is_never_sent(run: Run) -> None:
    async def main() -> None:
        async with talking(echo, versions=(1,)) as client:
            with pytest.raises(vestal.InvalidRequest, match="did you mean `max_tokens`"):
                client.stream("Hi", max_token=3)  # type: ignore[call-arg]  # the type checker tells too
            with pytest.raises(vestal.Unsupported, match="`tools` needs protocol version 2"):
                await client.generate("Hi", tools=[Tool(name="clock", input_schema={})])
            stream = client.stream("Hi", temperature=99)
            for _ in range(2):
                with pytest.raises(vestal.InvalidRequest, match="temperature"):
                    await anext(stream)
            assert (await client.generate("ok")).text == "ok"

    run(main)


def test_a_lost_connection_is_told_to_every_caller_and_replaced(run: Run) -> None:
    def lose(peer: Peer) -> None:
        first, _ = peer.expect(m.GenerateV2), peer.expect(m.GenerateV2)
        peer.send(m.Text(first.id, "a"))

    async def main() -> None:
        async with talking(lose, echo) as client:
            told = await asyncio.gather(*(client.generate(text) for text in "ab"), return_exceptions=True)
            for error in told:
                assert isinstance(error, vestal.ConnectionLost)
                assert "outstanding: generate 1 (streaming), generate 2 (generate)" in str(error)
            assert (await client.generate("again")).text == "again"

    run(main)


def test_a_daemon_that_breaks_the_rules_is_named_and_left(run: Run) -> None:
    def first(peer: Peer) -> None:
        peer.expect(m.GenerateV2)
        peer.raw(b"\x00\x00\x00\x01\xc1")
        peer.expect_end()

    async def main() -> None:
        async with talking(first, echo) as client:
            with pytest.raises(vestal.RemoteProtocolError, match="sent a bad frame"):
                await client.generate("a")
            assert (await client.generate("b")).text == "b"

    run(main)


def test_goaway_is_noted(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.send(m.Goaway(reason="stopping", deadline_ms=500), done(peer.expect(m.GenerateV2).id))

    async def main() -> None:
        async with talking(script) as client:
            assert client.goaway is None
            await client.generate("a")
            assert client.goaway == m.Goaway(reason="stopping", deadline_ms=500)

    run(main)


def test_a_closed_client_is_not_used_again_and_ends_every_wait(run: Run) -> None:
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.expect(m.GenerateV2)
        asked.set()
        peer.expect_end()

    async def main() -> None:
        async with talking(script) as client, asyncio.TaskGroup() as group:
            waiting = group.create_task(_outcome(client.generate("a")))
            await asyncio.to_thread(asked.wait, WAIT)
            await client.aclose()
            await client.aclose()
            assert "this client closed it" in str(await waiting)
            with pytest.raises(vestal.LocalProtocolError, match="this client is closed"):
                await client.generate("b")

    run(main)


async def _outcome(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except vestal.VestalError as error:
        return error


def test_a_client_belongs_to_one_event_loop() -> None:
    with ScriptedDaemon(infer=echo) as daemon:
        client = vestal.AsyncClient(runtime_dir=daemon.runtime_dir)

        async def use() -> None:
            await client.generate("a")

        with asyncio.Runner() as first, asyncio.Runner() as second:
            first.run(use())
            with pytest.raises(vestal.LocalProtocolError, match="belongs to another event loop"):
                second.run(use())
            first.run(client.aclose())


# --- cancelling ---------------------------------------------------------------------------------------------------


def answers_a_cancel(peer: Peer) -> None:
    request = peer.expect(m.GenerateV2)
    peer.send(m.Text(request.id, "a"))
    assert peer.expect(m.Cancel).id == request.id
    peer.send(m.Text(request.id, "late"), done(request.id, "cancelled", output_tokens=2))
    echo(peer)


def test_cancel_ends_the_iteration_with_a_valid_result(run: Run) -> None:
    async def main() -> None:
        async with talking(answers_a_cancel) as client:
            stream = client.stream("Hi")
            pieces = []
            async for piece in stream:
                pieces.append(piece)
                stream.cancel()
            assert pieces == ["a"]
            assert (stream.result.stop_reason, stream.result.text) == ("cancelled", "alate")

    run(main)


def test_a_stream_cancelled_before_it_began_sends_nothing(run: Run) -> None:
    async def main() -> None:
        async with talking(echo) as client:
            stream = client.stream("Hi")
            stream.cancel()
            assert [piece async for piece in stream] == []
            assert repr(client).endswith("not connected>")

    run(main)


async def cancel_the_task(client: vestal.AsyncClient) -> None:
    async def read() -> None:
        async for _ in client.stream("Hi"):
            got.set()

    got = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(read())
        await got.wait()
        task.cancel()
    assert task.cancelled()


async def time_out(client: vestal.AsyncClient) -> None:
    await client.connect()  # or that would be what takes the time
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.generate("Hi")


async def break_out(client: vestal.AsyncClient) -> None:
    async for _ in client.stream("Hi"):
        break


async def leave_with(client: vestal.AsyncClient) -> None:
    async with client.events("Hi") as events:
        await anext(events)


async def close(client: vestal.AsyncClient) -> None:
    stream = client.stream("Hi")
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(vestal.LocalProtocolError, match="closed before its end"):
        stream.result  # noqa: B018  # reading it is what raises


async def garbage_cycle(client: vestal.AsyncClient) -> None:
    stream = client.stream("Hi")
    await anext(stream)
    stream.itself = stream  # type: ignore[attr-defined]  # the cycle
    del stream
    gc.collect()


LEAVE = [cancel_the_task, time_out, break_out, leave_with, close, garbage_cycle]


@pytest.mark.parametrize("leave", LEAVE)
def test_a_stream_that_is_left_is_cancelled(run: Run, leave: Callable[[vestal.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with talking(answers_a_cancel) as client:
            await leave(client)
            await asyncio.sleep(0)  # a finaliser's cancel comes one turn of the loop later
            assert (await client.generate("next one")).text == "next one"
            assert "calls=0" in repr(client)

    run(main)


def test_one_stream_is_for_one_task(run: Run) -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        peer.send(m.Text(request.id, "a"))
        peer.expect(m.CountV2)
        peer.send(m.Text(request.id, "b"), done(request.id))

    async def main() -> None:
        async with talking(script) as client, asyncio.TaskGroup() as group:
            stream = client.stream("Hi")
            assert await anext(stream) == "a"
            reader = group.create_task(stream.finish())
            await asyncio.sleep(0)
            with pytest.raises(vestal.LocalProtocolError, match="another task already waits"):
                await anext(stream)
            with pytest.raises(vestal.ConnectionLost):
                await client.count("go on")
            assert (await reader).text == "ab"

    run(main)


# --- reaching the daemon ------------------------------------------------------------------------------------------


def test_no_daemon_is_told_as_such(run: Run, short_dir: Path) -> None:
    async def main() -> None:
        async with vestal.AsyncClient(runtime_dir=short_dir) as client:
            with pytest.raises(vestal.DaemonNotRunning, match="start it: vestald"):
                await client.generate("Hi")

    run(main)


def test_a_daemon_that_loads_is_asked_how_far_it_is(run: Run) -> None:
    def admin(peer: Peer) -> None:
        peer.send(status_report(peer.expect(m.Status).id, "loading", 43))
        peer.expect_end()

    async def main() -> None:
        with ScriptedDaemon(admin=admin) as daemon:
            async with vestal.AsyncClient(runtime_dir=daemon.runtime_dir) as client:
                with pytest.raises(vestal.DaemonNotReady, match="is loading: scripted loading 43 %"):
                    await client.connect()

    run(main)


@pytest.mark.parametrize("backlog", [0, 16])
def test_what_listens_and_does_not_answer_costs_no_more_than_the_connect_timeout(
    run: Run, short_dir: Path, backlog: int
) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
            server.bind(str(short_dir / "infer.sock"))
            server.listen(backlog)
            first.connect(str(short_dir / "infer.sock"))
            async with vestal.AsyncClient(runtime_dir=short_dir, connect_timeout=0.05) as client:
                with pytest.raises(ConnectionFailed, match=r"backlog stayed full|no welcome within 0\.05 s"):
                    await client.connect()

    run(main)


def test_progress_is_followed_until_the_socket_opens(run: Run) -> None:
    def asked(peer: Peer) -> None:
        peer.send(status_report(peer.expect(m.Status).id, "loading", 10))
        peer.expect_end()

    def admin(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        peer.send(m.Snapshot(id=id, seq=1, status=status_report(id, "loading", 10)))
        peer.send(status_report(peer.expect(m.Status).id, "loading", 10))
        peer.send(m.Event(id=id, seq=2, kind="backend_loading", data={}))
        peer.send(status_report(peer.expect(m.Status).id, "loading", 90))
        daemon.open("infer", echo)
        peer.send(m.Event(id=id, seq=3, kind="daemon_state", data={}))
        peer.send(status_report(peer.expect(m.Status).id, "ready", 100))
        peer.expect_end()

    daemon = ScriptedDaemon(admin=[asked, admin])

    async def main() -> None:
        told: list[str] = []
        with daemon:
            async with vestal.AsyncClient(runtime_dir=daemon.runtime_dir) as client:
                await client.wait_ready(timeout=WAIT, on_progress=lambda progress: told.append(str(progress)))
                assert (await client.generate("Hi")).text == "Hi"
        shown = ["loading: scripted loading 10 %", "loading: scripted loading 90 %", "ready: scripted ready"]
        assert told == shown

    run(main)


def test_waiting_for_nothing_ends_with_the_last_state(run: Run, short_dir: Path) -> None:
    def admin(peer: Peer) -> None:
        message = peer.next()
        if isinstance(message, m.Subscribe):
            peer.send(m.Snapshot(id=message.id, seq=1, status=status_report(message.id, "loading", 43)))
            message = peer.next()
        assert isinstance(message, m.Status)
        peer.send(status_report(message.id, "loading", 43))
        peer.expect_end()

    async def main() -> None:
        with pytest.raises(vestal.DaemonNotRunning, match=r"waited 0\.1 s"):
            await vestal.AsyncClient(runtime_dir=short_dir).wait_ready(timeout=0.1)
        with ScriptedDaemon(admin=admin) as daemon:
            client = vestal.AsyncClient(runtime_dir=daemon.runtime_dir)
            with pytest.raises(vestal.DaemonNotReady, match=r"loading 43 % \(waited 1 s\)"):
                await client.wait_ready(timeout=1.0)

    run(main)


# --- the other sockets --------------------------------------------------------------------------------------------


def test_embed_gives_rows_in_order(run: Run) -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.Embed)
        data = b"\x00\x00\x80\x3f\x00\x00\x00\x40" * len(request.input)
        fields: dict[str, Any] = {"id": request.id, "count": 2, "dimensions": 2, "dtype": "f32le", "data": data}
        peer.send(m.Embeddings(**fields, usage=Usage(4), model="minilm", backend="vectors"))

    async def main() -> None:
        with ScriptedDaemon(embed=script) as daemon:
            async with vestal.AsyncEmbedClient(runtime_dir=daemon.runtime_dir) as client:
                assert (await client.embed(["a", "b"])).vectors == [[1.0, 2.0], [1.0, 2.0]]

    run(main)


COMMANDS: list[tuple[str, tuple[Any, ...], dict[str, Any], type]] = [
    ("status", (), {}, m.Status),
    ("backends", (), {}, m.Backends),
    ("queue", (), {}, m.Queue),
    ("metrics", (), {}, m.Metrics),
    ("cancel_request", (9,), {"request": 9}, m.CancelRequest),
    ("drain", (), {}, m.Drain),
    ("undrain", (), {}, m.Undrain),
    ("add_backend", ("chat",), {"backend": "chat"}, m.AddBackend),
    ("remove_backend", ("chat", 0.25), {"backend": "chat", "deadline_ms": 250}, m.RemoveBackend),
    ("drain_backend", ("chat",), {"backend": "chat"}, m.DrainBackend),
    ("undrain_backend", ("chat",), {"backend": "chat"}, m.UndrainBackend),
    ("restart_backend", ("chat", 0), {"backend": "chat", "deadline_ms": 0}, m.RestartBackend),
    ("explain_route", ("small",), {"model": "small", "needs": [], "socket": "infer"}, m.ExplainRoute),
    ("reload", (), {}, m.Reload),
    ("stop", (1.5,), {"deadline_ms": 1500}, m.Stop),
]
ANSWERS: dict[type, Callable[[Any], Any]] = {
    m.Status: lambda id: status_report(id, "ready"),
    m.Backends: lambda id: m.BackendsReport(id=id, backends=[]),
    m.Queue: lambda id: m.QueueReport(id=id, depth=0, limit=64, entries=[]),
    m.Metrics: lambda id: m.MetricsReport(id=id, text="up 1"),
    m.ExplainRoute: lambda id: m.RouteReport(id=id, policy="priority", candidates=[], chosen="chat"),
    m.Reload: lambda id: m.Reloaded(id=id, file=None, applied=[], restart_to_apply=[]),
}


def test_admin_commands(run: Run) -> None:
    def script(peer: Peer) -> None:
        for _, _, fields, kind in COMMANDS:
            message: Any = peer.expect(kind)
            assert {name: getattr(message, name) for name in fields} == fields
            peer.send(ANSWERS[kind](message.id) if kind in ANSWERS else m.Acknowledged(id=message.id, state="ready"))

    async def main() -> None:
        with ScriptedDaemon(admin=script) as daemon:
            async with vestal.AsyncAdminClient(runtime_dir=daemon.runtime_dir) as client:
                answers = {name: await getattr(client, name)(*given) for name, given, _, _ in COMMANDS}
        assert (answers["status"].state, answers["metrics"], answers["backends"]) == ("ready", "up 1", [])
        assert answers["reload"].restart_to_apply == []
        assert answers["explain_route"].chosen == "chat"
        assert answers["stop"] == m.Acknowledged(id=len(COMMANDS), state="ready")

    run(main)


def test_a_subscription_ends_with_the_daemons_goodbye_and_not_with_its_death(run: Run) -> None:
    def goodbye(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        snapshot = m.Snapshot(id=id, seq=4, status=status_report(id, "ready"))
        peer.send(snapshot, m.Event(id=id, seq=5, kind="daemon_state", data={}), m.Goaway(reason="stop", deadline_ms=1))

    def death(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        peer.send(m.Snapshot(id=id, seq=4, status=status_report(id, "ready")))

    async def main() -> None:
        with ScriptedDaemon(admin=[goodbye, death]) as daemon:
            client = vestal.AsyncAdminClient(runtime_dir=daemon.runtime_dir)
            async with client.subscribe() as subscription:
                assert [type(frame) async for frame in subscription] == [m.Snapshot, m.Event]
                assert subscription.goaway is not None
            async with client.subscribe() as subscription:
                await anext(subscription)
                with pytest.raises(vestal.ConnectionLost):
                    await anext(subscription)

    run(main)


def test_requests_larger_than_the_transports_buffer_wait_for_room(run: Run) -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            request = peer.expect(m.GenerateV2)
            peer.send(done(request.id, output_tokens=len(request.attachments[0].data)))

    async def main() -> None:
        picture = vestal.Attachment("image", "image/png", b"\0" * 8_000_000)
        message = vestal.MessageV2("user", [vestal.ImageBlock(0)])
        async with talking(script) as client:
            sent = (client.generate([message], attachments=[picture]) for _ in range(3))
            assert [result.usage.output_tokens for result in await asyncio.gather(*sent)] == [8_000_000] * 3

    run(main)
