"""Mangled frames against every decoder there is, each direction of each channel: a fault is one error, never a raise.

VESTAL_FUZZ says how many frames each direction gets (100,000 before a release); `-rP` shows what they came to.
Whatever fails here fails again: the seeds are fixed.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.fuzz.corpus import CHILD_FRAMES, HOST_FRAMES, PLACES, Place, frames
from tests.fuzz.mangler import Mangler, unfinished
from vectors.parts import offer
from vestal import messages as m
from vestal.backend import CountRequest, EmbedRequest, GenerateRequest, GenerateRequestV2
from vestal.connection import ClientConnection, ServerConnection
from vestal.errors import ERROR_CLASSES, LocalProtocolError, RemoteProtocolError, WireError
from vestal.framing import MAX_FRAME_LIMIT, FrameReader
from vestal.state import ConnectionState
from vestal.values import Message, MessageV2, TextBlock
from vestal_adapters.echo import EchoOptions
from vestal_adapters.echo.engine import EchoEngine
from vestal_adapters.worker import wire
from vestal_adapters.worker.channel import Channel
from vestal_adapters.worker.loop import HostBroken, HostGone, Loop, Pipe

FRAMES = int(os.environ.get("VESTAL_FUZZ", "5000"))
OF_ONE = 200  # frames that one connection is given, unless it ends before
TERMINAL = (m.Done, m.Embeddings, m.Counted, m.StatusReport, m.BackendsReport, m.QueueReport, m.MetricsReport)

pytestmark = pytest.mark.timeout(60 + FRAMES // 100)


def shares(channel: str) -> list[tuple[Place, int]]:
    """The places of a channel, and how many frames each is to get."""
    places = PLACES[channel]
    return [(place, -(-FRAMES // len(places))) for place in places]


# --- what a client sends ----------------------------------------------------------------------------------------


def daemon_at(place: Place) -> ServerConnection:
    connection = ServerConnection(place[0], offer)
    if place[1] is not None:
        hello = ClientConnection(place[0])
        hello.hello(versions=[place[1]], features=["queue_events"])
        connection.receive(hello.data_to_send())
        assert connection.state is ConnectionState.OPEN
        connection.data_to_send()
    return connection


def answers_of(connection: ServerConnection) -> list[m.Error | m.Welcome]:
    """What was queued, as a client reads it."""
    decoder = msgspec.msgpack.Decoder(m.Error | m.Welcome)
    return [decoder.decode(payload) for payload in FrameReader(MAX_FRAME_LIMIT).feed(connection.data_to_send())]


def check_daemon(connection: ServerConnection, items: list[m.AnyMessage | WireError]) -> None:
    """One error for each fault, in words of bounded length; the last one alone may end the connection."""
    faults = [item for item in items if isinstance(item, WireError)]
    answers = [answer for answer in answers_of(connection) if isinstance(answer, m.Error)]
    assert [answer.code for answer in answers] == [fault.code for fault in faults]
    for answer in answers:
        assert answer.code in ERROR_CLASSES
        assert answer.code != "internal"
        assert len(answer.message) < 2000, "what a client sent is not sent back to it at length"
        # Of several messages a later one may have opened what an earlier one named: its sender used an id twice.
        assert answer.id is None or answer.id not in connection.requests or len(items) > 1
    assert not any(fault.closes for fault in faults[:-1])
    ended = bool(faults) and (faults[-1].closes or connection.state is ConnectionState.CLOSING)
    assert connection.over is ended


@pytest.mark.parametrize("channel", PLACES)
def test_what_clients_and_operators_send_is_a_message_or_one_error(channel: str) -> None:
    seen: Counter[str] = Counter()
    for number, (place, share) in enumerate(shares(channel)):
        mangler = Mangler(frames(place, "client"), seed=number)
        connection, given = daemon_at(place), 0
        for _ in range(share):
            items: list[m.AnyMessage | WireError] = []
            data = mangler.frame()
            for piece in mangler.pieces(data):
                items += connection.receive(piece)
            check_daemon(connection, items)
            seen.update(item.code if isinstance(item, WireError) else "message" for item in items)
            given += 1
            if not connection.over and (unfinished(data) or given == OF_ONE):
                fault = connection.receive_eof()
                assert (fault is not None) is unfinished(data)
                assert fault is None or fault.code == "malformed_frame"
                seen["unfinished"] += fault is not None
            if connection.over:
                assert connection.receive(b"\0\0\0\0") == [], "after the last word nothing is read"
            if connection.over or (place[1] is None and connection.state is ConnectionState.OPEN):
                connection, given = daemon_at(place), 0
    print(dict(seen))
    everything = {"message", "malformed_frame", "frame_too_large", "unknown_message", "invalid_request", "unfinished"}
    assert everything <= set(seen), f"nothing of {everything - set(seen)} came: {seen}"


# --- what a daemon sends ----------------------------------------------------------------------------------------


def client_at(place: Place) -> ClientConnection:
    """A client with every request of the vectors in flight, each once."""
    socket_kind, version = place
    connection = ClientConnection(socket_kind)
    connection.hello(versions=[version or 1], features=["queue_events"])
    if version is None:
        return connection
    daemon = ServerConnection(socket_kind, offer)
    daemon.receive(connection.data_to_send())
    connection.receive(daemon.data_to_send())
    for frame in frames(place, "client"):
        for message in daemon.receive(frame):
            if not isinstance(message, WireError | m.Hello):
                try:
                    connection.send(message)
                except LocalProtocolError:  # the vectors use an id again
                    continue
    return connection


@pytest.mark.parametrize("channel", PLACES)
def test_what_a_daemon_sends_is_taken_or_ends_the_connection(channel: str) -> None:
    seen: Counter[str] = Counter()
    for number, (place, share) in enumerate(shares(channel)):
        mangler = Mangler(frames(place, "daemon"), seed=100 + number)
        connection, given, ended = client_at(place), 0, Counter[int]()
        for _ in range(share):
            given += 1
            before = set(connection.requests)
            data = mangler.frame()
            try:
                for piece in mangler.pieces(data):
                    for message in connection.receive(piece):
                        seen["message"] += 1
                        id = getattr(message, "id", None)
                        if isinstance(message, TERMINAL) or (isinstance(message, m.Error) and id in before):
                            ended[id or 0] += 1
            except RemoteProtocolError:
                seen["refused"] += 1
                assert connection.over
                assert connection.receive(b"\0\0\0\0") == []
            assert set(ended.values()) <= {1}, "a request ended twice"
            greeted = place[1] is None and connection.welcome is not None
            if connection.over or greeted or unfinished(data) or given == OF_ONE:
                connection.receive_eof()
                connection, given, ended = client_at(place), 0, Counter()
    print(dict(seen))
    assert min(seen["message"], seen["refused"]) > FRAMES // 50, seen


# --- what a worker sends ----------------------------------------------------------------------------------------


class Deaf(asyncio.Transport):
    """Takes what the channel says to its worker."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert data

    def abort(self) -> None:
        """Nothing is open."""


def with_jobs(progress: Callable[[float, str], None], lost: Callable[[str], None]) -> Channel:
    """A channel whose worker has loaded, and has a job of each kind."""
    channel = Channel(progress, lost)
    channel.connection_made(Deaf())
    channel.submit(GenerateRequest(messages=[Message("user", "x")]))
    channel.submit(GenerateRequestV2(messages=[MessageV2("user", [TextBlock("x")])]))
    return channel


def test_what_a_worker_sends_is_taken_or_loses_the_worker_once() -> None:
    seen: Counter[str] = Counter()

    async def main() -> None:
        mangler = Mangler(CHILD_FRAMES, seed=200)
        lost: list[str] = []
        channel, waiting = with_jobs(lambda percent, detail: None, lost.append), set[asyncio.Task[object]]()
        for number in range(FRAMES):
            if not waiting:
                waiting.add(asyncio.create_task(channel.embed(EmbedRequest(input=["x", "y"]))))
                waiting.add(asyncio.create_task(channel.count(CountRequest(messages=[]))))
                await asyncio.sleep(0)
            data = mangler.frame()
            for piece in mangler.pieces(data):
                channel.data_received(piece)
            if lost or unfinished(data) or number % OF_ONE == OF_ONE - 1:
                channel.connection_lost(None)
                assert len(lost) == 1
                assert lost[0] == "" or lost[0].startswith("broke the worker protocol: ")
                assert len(lost[0]) < 300
                seen["lost" if lost[0] else "kept"] += 1
                channel.fail(lambda: WireError("the end"))
                await asyncio.gather(*waiting, return_exceptions=True)
                seen.update(type(task.exception()).__name__ for task in waiting)
                if channel.loaded.done():
                    seen["loaded"] += channel.loaded.exception() is None
                waiting.clear()
                lost.clear()
                channel = with_jobs(lambda percent, detail: None, lost.append)
        channel.close()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(main())
    print(dict(seen))
    assert seen["lost"] > FRAMES // 50, seen
    assert seen["loaded"], seen
    assert set(seen) <= {"lost", "kept", "loaded", "WireError", "NoneType", "InternalError", *_engine_errors()}, seen


def _engine_errors() -> Iterator[str]:
    return (cls.__name__ for cls in ERROR_CLASSES.values())


# --- what the host sends ----------------------------------------------------------------------------------------


def worked_off(data: bytes) -> tuple[str, bytes]:
    """Give a worker the data and then the end of its pipe: how it ended, and what it said."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        end = "stopped"
        try:
            Loop(Pipe(theirs), EchoEngine(EchoOptions(v2=True, embed=True, slots=8))).run([])
        except HostGone:
            end = "gone"
        except HostBroken as broken:
            assert len(broken.message) < 300
            end = "broken"
        theirs.shutdown(socket.SHUT_WR)
        with ours.makefile("rb") as said:
            return end, said.read()


def test_what_a_host_sends_is_answered_or_ends_the_worker_in_words(capfd: pytest.CaptureFixture[str]) -> None:
    mangler = Mangler(HOST_FRAMES, seed=300)
    seen: Counter[str] = Counter()
    decoder = msgspec.msgpack.Decoder(wire.ChildMessage)
    for _ in range(FRAMES):
        end, said = worked_off(mangler.frame())
        seen[end] += 1
        for payload in FrameReader(wire.MAX_FRAME).feed(said):
            answer = decoder.decode(payload)
            seen[type(answer).__name__] += 1
            assert not (isinstance(answer, wire.Failed) and answer.code == "internal"), answer
    assert "bug in the engine" not in capfd.readouterr().err
    print(dict(seen))
    assert {"stopped", "gone", "broken", "Outputs", "Embedded", "Counted", "Failed", "Pong"} <= set(seen), seen
