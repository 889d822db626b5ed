"""What is owed to a client that does not read is bounded, whatever it has asked for, and reading makes room again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.inside import Caller, Inside, Scripted, daemon
from vestal import messages as m
from vestal.backend import EmbedRequest, EmbedResult, EndEvent, TextEvent
from vestal.values import Usage
from vestald.config import Duration
from vestald.serving.outbox import LIMIT, Outbox
from vestald.serving.session import Session

MIB = 2**20
ROW = 4 * MIB  # bytes of one vector, for which a client asks with a few dozen


class Client:
    """A connection that reads when it is told to."""

    def __init__(self) -> None:
        self.buffered = 0
        self.reading = asyncio.Event()

    @property
    def congested(self) -> bool:
        return self.buffered > 0

    async def room(self) -> None:
        await self.reading.wait()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_places_are_given_in_order_until_the_limit_and_again_when_one_is_given_back() -> None:
    async def main() -> None:
        client = Client()
        outbox, order, ends = Outbox(client), list[int](), [asyncio.Event() for _ in range(5)]

        async def produce(number: int, size: int) -> None:
            async with outbox.place(size):
                order.append(number)
                await ends[number].wait()

        sizes = [LIMIT // 2, LIMIT // 2, LIMIT, 1, 1]
        tasks = [asyncio.ensure_future(produce(number, size)) for number, size in enumerate(sizes)]
        await settle()
        assert order == [0, 1], "the small ones do not overtake the large one"
        assert outbox.owed == LIMIT
        ends[0].set()
        await settle()
        assert order == [0, 1]
        ends[1].set()
        await settle()
        assert order == [0, 1, 2]
        tasks[3].cancel()  # one that waits leaves the line
        ends[2].set()
        await settle()
        assert order == [0, 1, 2, 4]
        ends[4].set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert outbox.owed == 0

    asyncio.run(main())


def test_an_answer_larger_than_the_limit_is_made_alone() -> None:
    async def main() -> None:
        client = Client()
        outbox = Outbox(client)
        async with outbox.place(8 * LIMIT):
            small = asyncio.ensure_future(outbox.place(1).__aenter__())
            await settle()
            assert not small.done()
        await small
        client.buffered = LIMIT  # what was made is not read
        waiting = asyncio.ensure_future(outbox.place(1).__aenter__())
        await settle()
        assert not waiting.done()
        client.buffered = 0
        client.reading.set()
        await waiting

    asyncio.run(main())


class Vectors:
    """An embedder that makes one vector of `ROW` bytes for each text, and counts how often it was asked."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self, request: EmbedRequest) -> EmbedResult:
        self.made += 1
        return EmbedResult(count=1, dimensions=ROW // 4, data=bytes(ROW), input_tokens=1)


def test_a_client_that_does_not_read_its_vectors_is_owed_a_bounded_number_of_bytes(short_dir: Path) -> None:
    async def main() -> None:
        vectors = Vectors()
        backend = Scripted(embed=vectors, embedding_dimensions=ROW // 4, slots=8)
        async with daemon(short_dir, backend, per_caller=100, requests_per_connection=64) as inside:
            sleeper, other = await inside.call("embed"), await inside.call("embed")
            sleeper.send(*(m.Embed(id=id, input=["a"]) for id in range(40)))
            for id in range(10):  # the others have their turn, many times over
                other.send(m.Embed(id=id, input=["b"]))
                assert isinstance(await other.end(id), m.Embeddings)
            assert vectors.made <= 10 + LIMIT // ROW + 1
            (session,) = (s for s in inside.app.house.sessions if s.conn.requests)
            assert session.outbox.owed <= LIMIT + ROW
            ends = [await sleeper.end(id) for id in range(40)]  # and once it reads, it gets them all
            assert [len(end.data) for end in ends if isinstance(end, m.Embeddings)] == [ROW] * 40
            assert session.outbox.owed == 0

    asyncio.run(main())


async def endless(_request: Any) -> Any:
    while True:
        for _ in range(100):
            yield TextEvent("w" * 100)
        await asyncio.sleep(0)


async def short(_request: Any) -> Any:
    for number in range(500):
        yield TextEvent(f"{number} ")
    yield EndEvent("end", Usage(1, 0, 500))


@pytest.mark.parametrize("version", [1, 2])
def test_a_hundred_clients_that_do_not_read_are_owed_little_and_one_that_reads_gets_its_answers(
    short_dir: Path, version: int
) -> None:
    async def main() -> None:
        flood, quick = Scripted(endless, name="flood", slots=100), Scripted(short, name="quick")
        async with daemon(short_dir, flood, quick, per_caller=200, queue_depth=200) as inside:
            sleepers = [await inside.call(version=version) for _ in range(100)]
            for sleeper in sleepers:
                sleeper.ask(1, model="flood")
            reader = await inside.call(version=version)
            for id in range(20):
                reader.ask(id, model="quick")
                assert (await reader.done(id)).usage.output_tokens == 500
            await until_all_wait(inside, reader, sleepers)
            owed = [session.outbox.owed for session in sessions_of(inside)]
            assert len(owed) == 100
            assert max(owed) < 512 * 1024
            assert flood.running == 100, "they are paused, not ended"

    asyncio.run(main())


class Reluctant(Scripted):
    """Its streams close when they may."""

    def __init__(self, script: Callable[[Any], AsyncIterator[Any]]) -> None:
        super().__init__(script)
        self.closing, self.may_close = asyncio.Event(), asyncio.Event()

    async def _run(self, request: Any) -> AsyncIterator[Any]:
        try:
            async for event in super()._run(request):
                yield event
        finally:
            self.closing.set()
            await self.may_close.wait()


def test_one_that_reads_too_late_is_told_so_at_once_however_long_its_stream_takes_to_close(short_dir: Path) -> None:
    async def main() -> None:
        backend = Reluctant(endless)
        async with daemon(short_dir, backend, write_timeout=Duration(0.05)) as inside:
            sleeper = await inside.call()
            sleeper.ask(1)
            await backend.closing.wait()
            assert (await sleeper.error(1)).code == "slow_consumer"
            assert inside.app.house.generating.scheduler.running == 1, "the slot is taken until the stream is closed"
            backend.may_close.set()

    asyncio.run(main())


def sessions_of(inside: Inside) -> list[Session]:
    return [session for session in inside.app.house.sessions if session.conn.requests]


async def until_all_wait(inside: Inside, reader: Caller, sleepers: list[Caller]) -> None:
    """Return when every sleeper's answer is paused: it has been made as far as it will be."""
    while not all(session.congested for session in sessions_of(inside)):
        await reader.ping()
