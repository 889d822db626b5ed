"""The host's end of a worker's pipe: jobs out, frames in, and each event to the job it belongs to.

A worker is a guest. Whatever arrives is checked, and nothing it sends can raise out of the protocol's
callbacks: the first thing that is not of the protocol loses the channel. It is lost once, with a reason, and a
worker's death looks the same. A job number that is not known is not an error: a job that was cancelled here may
still be spoken of there.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from vestal.backend import (
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EmbedResult,
    GenerateRequest,
    GenerateRequestV2,
)
from vestal.counting import MAX_VALUES, has_more_values
from vestal.errors import BackendUnavailable, VestalError, WireError
from vestal.framing import FrameReader
from vestal.values import Capabilities
from vestal_adapters.worker import wire
from vestal_adapters.worker.sandbox import OFF, SandboxMode
from vestal_adapters.worker.stream import Stream

__all__ = ["Channel"]


class _Reply(Struct):
    """A job that is answered once: what kind of answer it takes, and who waits for it."""

    answer: asyncio.Future[Any]
    request: EmbedRequest | CountRequest


class Channel(asyncio.Protocol):
    """`lost` is called once, with what the worker did wrong, or "" where it just ended."""

    def __init__(self, progress: Callable[[float, str], None], lost: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[Capabilities] = loop.create_future()
        self.confinement = OFF
        self.heard = time.monotonic()
        """When the worker last said anything of what it was asked: words about nothing are no sign of life."""
        self._closed: asyncio.Future[None] = loop.create_future()
        self._progress = progress
        self._tell_lost = lost
        self._transport: asyncio.Transport | None = None
        self._frames = FrameReader(wire.MAX_FRAME)
        self._streams: dict[int, Stream] = {}
        self._replies: dict[int, _Reply] = {}
        self._last_job = 0
        self._ping_sent: float | None = None
        self._pong: asyncio.Future[None] = loop.create_future()
        self._open = True

    async def connect(self, sock: socket.socket) -> None:
        """Take over this side's end of the pair."""
        # Not to be cancelled half-way: uvloop would close the descriptor behind the socket object's back, and the
        # object would later close whatever had got the same number. It is a matter of two passes of the loop.
        connecting = asyncio.create_task(self._connect(sock))
        cancelled: asyncio.CancelledError | None = None
        while not connecting.done():
            try:
                await asyncio.wait((connecting,))
            except asyncio.CancelledError as exc:
                cancelled = exc
        connecting.result()
        if cancelled is not None:
            raise cancelled

    async def _connect(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)
        except OSError:
            sock.close()
            self._closed.set_result(None)
            raise

    # --- what the host asks for -------------------------------------------------------------------------------

    def configure(
        self, engine: str, options: BackendOptions, sandbox: SandboxMode = "required", memory_limit: int | None = None
    ) -> None:
        self._send(wire.Configure(engine, Raw(msgspec.msgpack.encode(options)), sandbox, memory_limit))

    def submit(self, request: GenerateRequest | GenerateRequestV2) -> Stream:
        """Start a generation. Whoever consumes the stream calls `release` when done with it."""
        v2 = isinstance(request, GenerateRequestV2)
        stream = Stream(self._next_job(), v2=v2)
        message = wire.SubmitV2 if v2 else wire.Submit
        self._send(message(stream.number, request))  # type: ignore[arg-type]  # v2 decides both
        self._streams[stream.number] = stream
        return stream

    def release(self, stream: Stream) -> None:
        """Forget a stream; if it has not ended in the worker, cancel it there."""
        if self._streams.pop(stream.number, None) is not None:
            self._cancel(stream.number)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        return cast("EmbedResult", await self._ask(wire.Embed(self._next_job(), request)))

    async def count(self, request: CountRequest) -> int:
        return cast("int", await self._ask(wire.Count(self._next_job(), request)))

    async def _ask(self, message: wire.Embed | wire.Count) -> object:
        self._send(message)
        reply = _Reply(asyncio.get_running_loop().create_future(), message.request)
        self._replies[message.job] = reply
        try:
            return await reply.answer
        finally:
            if self._replies.pop(message.job, None) is not None:
                self._cancel(message.job)

    async def ping(self, timeout: float) -> float | None:
        """Seconds the worker took to answer between two steps; `None` if it has not within `timeout`."""
        if self._ping_sent is None:
            self._send(wire.Ping(0))
            self._ping_sent = time.monotonic()
            self._pong = asyncio.get_running_loop().create_future()
        sent = self._ping_sent
        pong = self._pong
        await asyncio.wait((pong, self._closed), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return time.monotonic() - sent if pong.done() else None

    def ask_to_stop(self) -> None:
        if self._open:
            self._send(wire.Stop())

    def _next_job(self) -> int:
        self._last_job += 1
        return self._last_job

    def _cancel(self, job: int) -> None:
        if self._open:
            self._send(wire.Cancel(job))

    def _send(self, message: wire.HostMessage) -> None:
        if not self._open or self._transport is None:
            raise BackendUnavailable("the worker is gone", hint="retry when the backend is ready again: vestal status")
        self._transport.write(wire.encode(message))

    # --- what arrives -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._open:  # closed while it was being connected
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._open:
            return
        try:
            for payload in self._frames.feed(data):
                if has_more_values(payload):
                    raise ValueError(f"a message of more than {MAX_VALUES} values")
                self._take(wire.decode_child(payload), len(payload))
        except Exception as exc:  # a guest's bytes must not raise into the event loop, whatever they are
            self._lose(f"broke the worker protocol: {_fault(exc)}")

    def _take(self, message: wire.ChildMessage, size: int) -> None:
        if type(message) is wire.Outputs:
            streams, known = self._streams, False
            for number, event in message.events:
                stream = streams.get(number)
                if stream is not None:
                    known = True
                    stream.put(event)
                    if stream.ended:
                        self._ended(stream)
            if known:
                self.heard = time.monotonic()
        elif isinstance(message, wire.Embedded):
            self._take_answer(message)
        elif size > wire.MAX_CONTROL:
            raise ValueError(f"a {type(message).__name__} of {size} bytes")
        elif isinstance(message, wire.Progress | wire.Loaded | wire.LoadFailed):
            self._take_loading(message)
        elif isinstance(message, wire.Pong):
            self._take_pong()
        elif isinstance(message, wire.Failed):
            self._take_failure(message)
        elif isinstance(message, wire.Counted):
            self._take_answer(message)

    def _ended(self, stream: Stream) -> None:
        del self._streams[stream.number]
        if stream.error is not None:  # it ended here, for want of a reader, and goes on there
            self._cancel(stream.number)

    def _take_loading(self, message: wire.Progress | wire.Loaded | wire.LoadFailed) -> None:
        if self.loaded.done():
            raise ValueError(f"{type(message).__name__} after loading")
        if isinstance(message, wire.Progress):
            self._progress(message.percent, message.detail)
        elif isinstance(message, wire.Loaded):
            self.confinement = message.confinement
            self.loaded.set_result(message.capabilities)
        else:
            self.loaded.set_exception(VestalError(message.message, hint=message.hint))

    def _take_pong(self) -> None:
        self._ping_sent = None
        if not self._pong.done():
            self._pong.set_result(None)

    def _take_failure(self, message: wire.Failed) -> None:
        error = wire.exception_of(message)
        if (stream := self._streams.pop(message.job, None)) is not None:
            self.heard = time.monotonic()
            stream.fail(error)
        elif (reply := self._replies.pop(message.job, None)) is not None:
            self.heard = time.monotonic()
            if not reply.answer.done():
                reply.answer.set_exception(error)

    def _take_answer(self, message: wire.Embedded | wire.Counted) -> None:
        if (reply := self._replies.get(message.job)) is None:
            return
        self.heard = time.monotonic()
        answer: object
        if isinstance(message, wire.Embedded):
            answer = _checked(message.result, reply.request)
        elif isinstance(reply.request, CountRequest):
            answer = message.tokens
        else:
            raise ValueError(f"job {message.job}: counted, and was to be embedded")
        del self._replies[message.job]
        if not reply.answer.done():
            reply.answer.set_result(answer)

    # --- the end ----------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("")
        if not self._closed.done():
            self._closed.set_result(None)

    def close(self) -> None:
        """Close this end without calling it lost. Idempotent; `closed` tells when the descriptor is gone."""
        self._open = False
        if not self.loaded.done():
            self.loaded.set_exception(BackendUnavailable("the worker was stopped while it was loading"))
        if not self.loaded.cancelled():
            self.loaded.exception()  # perhaps nobody waits for it any more: that is no news
        if self._transport is not None:
            self._transport.abort()
        elif not self._closed.done():
            self._closed.set_result(None)

    def _lose(self, reason: str) -> None:
        if self._open:
            self._open = False
            self._tell_lost(reason)
            self.close()

    async def closed(self) -> None:
        await asyncio.wait((self._closed,))

    def fail(self, error: Callable[[], WireError]) -> None:
        """End every job with an exception of its own."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(error())
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            if not reply.answer.done():
                reply.answer.set_exception(error())

    def __repr__(self) -> str:
        state = "closed" if not self._open else "loaded" if self.loaded.done() else "loading"
        return f"<Channel {state}, {len(self._streams)} streams, {len(self._replies)} replies awaited>"


def _checked(result: EmbedResult, request: EmbedRequest | CountRequest) -> EmbedResult:
    if not isinstance(request, EmbedRequest):
        raise ValueError("embedded, and was to be counted")
    if result.count != len(request.input) or request.dimensions not in (None, result.dimensions):
        raise ValueError(f"{result.count} x {result.dimensions} vectors for {len(request.input)} texts")
    return result


def _fault(exc: Exception) -> str:
    """What was wrong without quoting it: a worker's bytes may hold somebody's text."""
    if isinstance(exc, ValueError | VestalError) and not isinstance(exc, msgspec.MsgspecError):
        return str(exc)  # of our own making: numbers only
    _, at, path = str(exc).rpartition(" - at ")
    return f"{type(exc).__name__}{at}{path}"
