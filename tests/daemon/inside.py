"""A whole daemon in this process, with backends that a test writes as a function, and clients on its event loop.

Real sockets and the real `App`; only the way from the configuration to the backends is cut short. What an adapter
must never do, and may do all the same, is done here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec

from vestal import messages as m
from vestal.backend import (
    Backend,
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Loading,
    Ready,
    Report,
    TokenEvent,
    TokenEventV2,
    Unavailable,
)
from vestal.connection import ClientConnection, SocketKind
from vestal.values import Capabilities, Message, MessageV2, TextBlock, Usage
from vestald import house
from vestald.app import App
from vestald.backends.registry import Declared
from vestald.config import (
    AdmissionConfig,
    AuditConfig,
    BackendKeys,
    BackendTable,
    Config,
    DaemonConfig,
    Duration,
    RouterConfig,
)

__all__ = ["END", "Caller", "Scripted", "daemon", "declared", "scripted_backends"]

END = EndEvent("end", Usage(1, 0, 1))
Frame = TypeVar("Frame", bound=msgspec.Struct)
_TERMINAL = (m.Done, m.Embeddings, m.Counted, m.Error)


class Scripted(Backend):
    """A backend that runs `script(request)` for every `generate`, and counts how many run at once."""

    def __init__(
        self,
        script: Callable[[Any], AsyncIterator[Any]] | None = None,
        *,
        name: str = "scripted",
        start: Callable[[Report], Awaitable[None]] | None = None,
        stop: Callable[[float], Awaitable[None]] | None = None,
        embed: Callable[[EmbedRequest], Awaitable[EmbedResult]] | None = None,
        count: Callable[[CountRequest], Awaitable[int]] | None = None,
        **capabilities: Any,
    ) -> None:
        super().__init__(name, BackendOptions())
        given = {"v2": True, "model": name, "embed": embed is not None, "count": count is not None, **capabilities}
        self.capabilities = Capabilities(**given)
        self.running = self.most_at_once = self.starts = 0
        self.report: Report = _nobody
        self._script, self._start, self._stop, self._embed, self._count = script, start, stop, embed, count

    @property
    def ready(self) -> bool:
        return True

    async def start(self, report: Report) -> None:
        self.report, self.starts = report, self.starts + 1
        if self._start is not None:
            await self._start(report)

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        return self._run(request)

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        return self._run(request)

    async def _run(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[Any]:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            assert self._script is not None
            async for event in self._script(request):
                yield event
        finally:
            self.running -= 1

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        return await (self._embed or super().embed)(request)

    async def count(self, request: CountRequest) -> int:
        return await (self._count or super().count)(request)

    async def stop(self, timeout: float) -> None:
        if self._stop is not None:
            await self._stop(timeout)


def _nobody(event: Loading | Ready | Unavailable) -> None:
    """Nobody listens before `start`."""


class Caller:
    """A client connection on the event loop."""

    def __init__(self, conn: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conn = conn
        self._reader = reader
        self._writer = writer
        self.untaken: deque[m.AnyMessage] = deque()

    @classmethod
    async def open(cls, path: Path, kind: SocketKind, version: int, features: tuple[str, ...] = ()) -> Caller:
        reader, writer = await asyncio.open_unix_connection(path)
        caller = cls(ClientConnection(kind), reader, writer)
        caller.conn.hello(versions=(version,), features=features)
        caller.flush()
        await caller.first(lambda frame: isinstance(frame, m.Welcome))
        return caller

    def send(self, *messages: m.AnyMessage) -> None:
        for message in messages:
            self.conn.send(message)
        self.flush()

    def flush(self) -> None:
        self._writer.write(self.conn.data_to_send())

    def ask(self, id: int, text: str = "Hi", **options: Any) -> None:
        if self.conn.version == 1:
            self.send(m.Generate(id=id, messages=[Message("user", text)], **options))
        else:
            self.send(m.GenerateV2(id=id, messages=[MessageV2("user", [TextBlock(text)])], **options))

    async def first(self, wanted: Callable[[m.AnyMessage], bool]) -> m.AnyMessage:
        while True:
            for index, frame in enumerate(self.untaken):
                if wanted(frame):
                    del self.untaken[index]
                    return frame
            data = await self._reader.read(2**20)
            if not data:
                raise EOFError(f"the daemon closed; {self.untaken} were not taken")
            self.untaken += self.conn.receive(data)

    async def answer(self, id: int) -> list[m.AnyMessage]:
        frames: list[m.AnyMessage] = []
        while not frames or not isinstance(frames[-1], _TERMINAL):
            frames.append(await self.first(lambda frame: getattr(frame, "id", None) == id))
        return frames

    async def end(self, id: int) -> m.AnyMessage:
        return (await self.answer(id))[-1]

    async def error(self, id: int) -> m.Error:
        frame = await self.end(id)
        assert isinstance(frame, m.Error), frame
        return frame

    async def done(self, id: int) -> m.Done:
        frame = await self.end(id)
        assert isinstance(frame, m.Done), frame
        return frame

    async def ping(self) -> None:
        self.send(m.Ping(nonce=1))
        await self.first(lambda frame: isinstance(frame, m.Pong))

    def close(self) -> None:
        self._writer.close()


class Inside:
    """A running daemon: its `app`, and callers to it."""

    def __init__(self, app: App, directory: Path) -> None:
        self.app = app
        self._directory = directory
        self._callers: list[Caller] = []

    async def call(self, kind: SocketKind = "infer", version: int = 1, features: tuple[str, ...] = ()) -> Caller:
        caller = await Caller.open(self._directory / f"{kind}.sock", kind, version, features)
        self._callers.append(caller)
        return caller

    def exists(self, kind: SocketKind) -> bool:
        return (self._directory / f"{kind}.sock").exists()

    def close(self) -> None:
        for caller in self._callers:
            caller.close()


def declared(backend: Backend, **keys: Any) -> Declared:
    """As if the configuration had a table for it; `keys` are the daemon's own."""
    return Declared(BackendTable(backend.name, "scripted", keys), BackendKeys(**keys), backend)


@contextmanager
def scripted_backends(*backends: Backend | Declared) -> Iterator[None]:
    """Whatever the configuration says, these are the backends."""
    made = [one if isinstance(one, Declared) else declared(one) for one in backends]
    with patch.object(house, "build_backends", lambda _config: made):
        yield


@asynccontextmanager
async def daemon(
    directory: Path,
    *backends: Backend | Declared,
    drain_deadline: float = 5.0,
    router: RouterConfig | None = None,
    **admission: Any,
) -> AsyncIterator[Inside]:
    """A ready daemon with these backends; stopped, and waited for, at the end."""
    config = Config(
        daemon=DaemonConfig(runtime_dir=str(directory), drain_deadline=Duration(drain_deadline)),
        admission=AdmissionConfig(**admission),
        router=router or RouterConfig(),
        audit=AuditConfig(enabled=False),
    )
    with scripted_backends(*backends):
        app = App(config)
    ready = asyncio.Event()
    app.house.events.subscribe(lambda _seq, _kind, facts: ready.set() if facts.get("state") == "ready" else None)
    life = asyncio.ensure_future(app.run())
    inside = Inside(app, directory)
    try:
        waiting = asyncio.ensure_future(_ready(app, ready))
        await asyncio.wait({life, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if life.done():
            life.result()
        yield inside
    finally:
        inside.close()
        if not life.done():
            app.request_stop(0.0, "the test has ended")
        await life


async def _ready(app: App, ready: asyncio.Event) -> None:
    while app.house.state != "ready":
        await ready.wait()
        ready.clear()
