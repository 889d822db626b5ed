"""The host's end of the pipe against a worker that is a few bytes in the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.backend import (
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    TextEvent,
)
from vestal.counting import MAX_VALUES
from vestal.errors import BackendUnavailable, SlowConsumer
from vestal.framing import FrameReader, frame
from vestal.values import Capabilities, Message, Usage
from vestal_adapters.worker import stream as stream_module
from vestal_adapters.worker import wire
from vestal_adapters.worker.channel import Channel

ASK = GenerateRequest(messages=[Message("user", "x")])
END = EndEvent("end", Usage(1, 0, 1))


class Far:
    """The worker's end, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = FrameReader(wire.MAX_FRAME)

    async def said(self) -> list[wire.HostMessage]:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 20)
        return [wire.decode_host(payload) for payload in self._frames.feed(data)]


def with_channel(test: Callable[[Channel, Far, list[str]], object]) -> None:
    async def main() -> None:
        lost: list[str] = []
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        channel = Channel(lambda percent, detail: None, lost.append)
        await channel.connect(ours)
        channel.data_received(wire.encode(wire.Loaded(Capabilities())))
        try:
            await test(channel, Far(theirs), lost)  # type: ignore[misc]  # each test is a coroutine function
        finally:
            channel.close()
            await channel.closed()
            theirs.close()

    asyncio.run(main())


def test_events_go_to_their_stream_and_unknown_jobs_are_ignored() -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        one, two = channel.submit(ASK), channel.submit(ASK)
        events: list[tuple[int, wire.JobEvent]] = [
            (two.number, TextEvent("b")),
            (99, TextEvent("nobody's")),
            (one.number, TextEvent("a")),
            (one.number, END),
        ]
        channel.data_received(wire.encode(wire.Outputs(events)))
        channel.data_received(wire.encode(wire.Failed(98, "internal", "nobody's")))
        channel.data_received(wire.encode(wire.Counted(97, 1)))
        assert list(one.events) == [TextEvent("a"), END]
        assert list(two.events) == [TextEvent("b")]
        assert (one.ended, two.ended, lost) == (True, False, [])

    with_channel(test)


def test_what_comes_after_a_stream_s_end_or_release_is_ignored() -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        ended, released = channel.submit(ASK), channel.submit(ASK)
        channel.data_received(wire.encode(wire.Outputs([(ended.number, END), (ended.number, TextEvent("late"))])))
        channel.release(ended)
        channel.release(released)
        channel.release(released)
        channel.data_received(wire.encode(wire.Outputs([(released.number, TextEvent("late"))])))
        assert list(ended.events) == [END]
        assert not released.events
        said = await far.said()
        assert said[2:] == [wire.Cancel(released.number)]
        assert lost == []

    with_channel(test)


def test_a_stream_that_overflows_fails_and_is_cancelled_in_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_CHARACTERS", 10)

    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        stream = channel.submit(ASK)
        text = wire.encode(wire.Outputs([(stream.number, TextEvent("x" * 8))]))
        for _ in range(5):
            channel.data_received(text)
        assert isinstance(stream.error, SlowConsumer)
        assert (await far.said())[1:] == [wire.Cancel(stream.number)]
        assert lost == []

    with_channel(test)


def test_frames_may_come_in_any_pieces() -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        stream = channel.submit(ASK)
        data = b"".join(wire.encode(wire.Outputs([(stream.number, TextEvent(str(n)))])) for n in range(20))
        for at in range(len(data)):
            channel.data_received(data[at : at + 1])
        assert "".join(event.text for event in stream.events if isinstance(event, TextEvent)) == "".join(
            str(n) for n in range(20)
        )

    with_channel(test)


def test_an_answer_of_the_wrong_kind_loses_the_channel_once() -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        counting = asyncio.create_task(channel.count(CountRequest(messages=[])))
        await far.said()
        vectors = EmbedResult(count=0, dimensions=1, data=b"", input_tokens=0)
        channel.data_received(wire.encode(wire.Embedded(1, vectors)))
        channel.data_received(b"\xff" * 10)
        assert lost == ["broke the worker protocol: embedded, and was to be counted"]
        channel.fail(lambda: BackendUnavailable("gone"))
        with pytest.raises(BackendUnavailable):
            await counting
        with pytest.raises(BackendUnavailable):
            channel.submit(ASK)

    with_channel(test)


def test_only_words_about_what_runs_are_a_sign_of_life() -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        stream = channel.submit(ASK)
        channel.heard = 0.0
        channel.data_received(wire.encode(wire.Outputs([])))
        channel.data_received(wire.encode(wire.Outputs([(stream.number + 1, TextEvent("x"))])))
        channel.data_received(wire.encode(wire.Counted(99, 1)))
        assert channel.heard == 0.0
        channel.data_received(wire.encode(wire.Outputs([(stream.number, TextEvent("x"))])))
        assert channel.heard > 0.0
        assert lost == []

    with_channel(test)


def test_a_message_of_too_many_values_loses_the_channel_undecoded() -> None:
    """Its arrays would be a hundred times as large in memory."""

    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        arrays = b"\xdd" + (MAX_VALUES + 1).to_bytes(4, "big") + b"\x90" * (MAX_VALUES + 1)
        channel.data_received(frame(b"\x82\xa4type\xa7outputs\xa6events" + arrays))
        assert lost == ["broke the worker protocol: a message of more than 1048576 values"]

    with_channel(test)


def test_the_end_of_the_pipe_is_told_once_without_a_fault() -> None:
    async def main() -> None:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        ours, theirs = socket.socketpair()
        channel = Channel(lambda percent, detail: None, told.set_result)
        await channel.connect(ours)
        theirs.close()
        assert await told == ""
        await channel.closed()
        with pytest.raises(BackendUnavailable):
            await channel.loaded

    asyncio.run(main())


def test_closing_is_not_losing() -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        channel.close()
        channel.close()
        await channel.closed()
        channel.data_received(b"\xff" * 10)
        assert lost == []

    with_channel(test)


def test_a_fault_is_told_without_quoting_the_worker() -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        stream = channel.submit(ASK)
        frame = wire.encode(wire.Outputs([(stream.number, TextEvent("x")), (stream.number, END)]))
        channel.data_received(frame.replace(b"\xa3end\xa5", b"\xa3ssn\xa5"))
        assert lost == ["broke the worker protocol: ValidationError - at `$.events[1][1].stop_reason`"]

    with_channel(test)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_raise_and_none_lose_the_channel_twice(chunks: list[bytes]) -> None:
    async def main() -> None:
        lost: list[str] = []
        channel = Channel(lambda percent, detail: None, lost.append)
        for chunk in chunks:
            channel.data_received(chunk)
        channel.connection_lost(None)
        assert len(lost) == 1

    asyncio.run(main())


@given(
    st.lists(
        st.sampled_from(
            [
                wire.Progress(1.0),
                wire.Loaded(Capabilities()),
                wire.LoadFailed("x"),
                wire.Outputs([(1, TextEvent("x")), (2, END)]),
                wire.Embedded(3, EmbedResult(count=1, dimensions=1, data=b"\0" * 4, input_tokens=0)),
                wire.Counted(4, 1),
                wire.Counted(3, 1),
                wire.Failed(1, "internal", "x"),
                wire.Pong(0),
            ]
        ),
        max_size=12,
    )
)
def test_messages_in_any_order_end_each_job_at_most_once(messages: list[wire.ChildMessage]) -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        streams = [channel.submit(ASK), channel.submit(ASK)]
        asked = [
            asyncio.create_task(channel.embed(EmbedRequest(input=["x"]))),
            asyncio.create_task(channel.count(CountRequest(messages=[]))),
        ]
        await asyncio.sleep(0)
        for message in messages:
            channel.data_received(wire.encode(message))
        channel.fail(lambda: BackendUnavailable("the end"))
        await asyncio.gather(*asked, return_exceptions=True)
        for stream in streams:
            assert stream.ended
            ends = [event for event in stream.events if isinstance(event, EndEvent)]
            assert len(ends) + (stream.error is not None) == 1
        assert len(lost) <= 1

    with_channel(test)


def test_embeddings_must_be_those_that_were_asked_for() -> None:
    async def test(channel: Channel, far: Far, lost: list[str]) -> None:
        asking = asyncio.create_task(channel.embed(EmbedRequest(input=["x"], dimensions=2)))
        (asked,) = await far.said()
        assert isinstance(asked, wire.Embed)
        result = EmbedResult(count=1, dimensions=2, data=b"\0" * 8, input_tokens=1)
        channel.data_received(wire.encode(wire.Embedded(asked.job, result)))
        assert await asking == result
        again = asyncio.create_task(channel.embed(EmbedRequest(input=["x"], dimensions=2)))
        (asked,) = await far.said()
        assert isinstance(asked, wire.Embed)
        other = EmbedResult(count=1, dimensions=1, data=b"\0" * 4, input_tokens=1)
        channel.data_received(wire.encode(wire.Embedded(asked.job, other)))
        assert len(lost) == 1
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    with_channel(test)
