"""The barest relay: a uvloop protocol, msgspec, an async generator behind it. No admission, no states, no limits.

It speaks just enough of the wire for `consumer` to read it: any hello gets a welcome, any generate its words.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import uvloop

from vestal import messages as m
from vestal.framing import MAX_FRAME_LIMIT, PREFIX, FrameReader
from vestal.values import Timings, Usage

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(m.Hello | m.Generate).decode
_TURN = 64 * 1024


async def _words(text: str) -> AsyncIterator[str]:
    for word in re.findall(r"\s*\S+", text):
        yield word


class Relay(asyncio.Protocol):
    def __init__(self) -> None:
        self.reader = FrameReader(MAX_FRAME_LIMIT)
        self.room = asyncio.Event()
        self.room.set()
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def data_received(self, data: bytes) -> None:
        for payload in self.reader.feed(data):
            message = _decode(payload)
            if isinstance(message, m.Hello):
                self.transport.write(_frame(_welcome()))
            else:
                task = asyncio.ensure_future(self.answer(message))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def answer(self, message: m.Generate) -> None:
        out, id = bytearray(), message.id
        async for word in _words(message.messages[-1].content):
            payload = _encode(m.Token(id, word))
            out += PREFIX.pack(len(payload))
            out += payload
            if len(out) >= _TURN:
                self.transport.write(out)
                out = bytearray()
                await asyncio.sleep(0)
                await self.room.wait()
        out += _frame(m.Done(id=id, stop_reason="end", usage=Usage(), backend="", model="", timings=Timings()))
        self.transport.write(out)


def _frame(message: msgspec.Struct) -> bytes:
    payload = _encode(message)
    return PREFIX.pack(len(payload)) + payload


def _welcome() -> m.Welcome:
    limits = m.Limits(frame=MAX_FRAME_LIMIT, requests_per_connection=1000, queue_depth=1000, per_caller=1000)
    return m.Welcome(version=1, server="bare", session="", features=[], limits=limits, backends=[])


async def _serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Relay, path)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
