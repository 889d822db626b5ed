"""The asyncio clients: the names and meanings of `vestal.client`, to be awaited. One event loop each.

    async with vestal.AsyncClient() as client:
        async for piece in client.stream("Why is the sky blue?", max_tokens=64):
            print(piece, end="", flush=True)

No task runs behind the scenes. Cancelling the task that awaits or iterates cancels the request in the daemon.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter
from types import TracebackType
from typing import ClassVar, Literal, Self, TypeVar, Unpack

from msgspec import Struct

from vestal import messages as m
from vestal import requests
from vestal.aio_dial import dial, wait_for
from vestal.aio_link import AsyncLink
from vestal.aio_streams import AsyncEventStream, AsyncStream, AsyncSubscription, Begin
from vestal.connection import SocketKind
from vestal.endpoint import Endpoint, Place, StrPath
from vestal.errors import DaemonNotReady, DaemonNotRunning, LocalProtocolError
from vestal.multiplex import Call, answer_of
from vestal.readiness import START_PATIENCE, Tell, waiting
from vestal.requests import Options, Prompt
from vestal.results import Embeddings, Result
from vestal.values import Tool

__all__ = ["AsyncAdminClient", "AsyncClient", "AsyncEmbedClient"]

A = TypeVar("A", bound=Struct)


class _AsyncClient:
    """What the clients of all sockets share; the arguments are those of the blocking clients."""

    _kind: ClassVar[SocketKind]

    def __init__(
        self,
        *,
        socket: StrPath | None = None,
        runtime_dir: StrPath | None = None,
        client: str = requests.CLIENT,
        versions: Sequence[int] = (2, 1),
        require: Sequence[str] = (),
        features: Sequence[str] = ("queue_events",),
        connect_timeout: float = 5.0,
    ) -> None:
        self._endpoint = Endpoint.of(
            self._kind,
            socket=socket,
            runtime_dir=runtime_dir,
            client=client,
            versions=versions,
            require=require,
            features=features,
            connect_timeout=connect_timeout,
        )
        self._connecting = asyncio.Lock()
        self._link: AsyncLink | None = None
        self._closed = False

    async def connect(self) -> m.Welcome:
        """Connect now, if need be; what the daemon said of itself."""
        return (await self._open_link()).mux.welcome

    async def _open_link(self, seconds: float = math.inf) -> AsyncLink:
        """The connection, a new one if the last was lost. Raises `ConnectionFailed` or the daemon's error."""
        async with self._connecting:
            self._check_open()
            if self._link is None or not self._link.mux.open_for_requests:
                self._link = await dial(self._endpoint.within(seconds))
            return self._link

    def _check_open(self) -> None:
        if self._closed:
            raise LocalProtocolError("this client is closed", hint="make another one")
        if self._link is not None and self._link.loop is not asyncio.get_running_loop():
            raise LocalProtocolError("this client belongs to another event loop", hint="make one client in each loop")

    @property
    def welcome(self) -> m.Welcome:
        """What the daemon said of itself. Raises `LocalProtocolError` before the first connect."""
        if self._link is None:
            raise LocalProtocolError("this client has not connected yet", hint="await client.connect()")
        return self._link.mux.welcome

    @property
    def version(self) -> int:
        """The protocol version of the connection; errors as in `welcome`."""
        return self.welcome.version

    @property
    def goaway(self) -> m.Goaway | None:
        """What the daemon said when it began to drain, on the latest connection."""
        return None if self._link is None else self._link.mux.goaway

    async def ping(self) -> float:
        """Seconds from here to the daemon and back."""
        link = await self._open_link()
        began = perf_counter()
        await self._ask(link, m.Ping(nonce=link.mux.next_id()), m.Pong)
        return perf_counter() - began

    async def _ask(self, link: AsyncLink, message: m.AnyMessage, expected: type[A]) -> A:
        """Send a request that one frame answers, and wait for it."""
        call = await link.open(message)
        try:
            return answer_of(await link.wait(call), expected)
        finally:
            link.abandon(call)  # of effect only when the wait was cancelled

    async def aclose(self) -> None:
        """Close the connection; requests in flight end with `ConnectionLost`. Idempotent."""
        self._closed = True
        async with self._connecting:
            if self._link is not None:
                await self._link.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not connected" if self._link is None else self._link.mux.summary
        return f"<{type(self).__name__} {self._endpoint.path} {state}>"


class _AsyncServingClient(_AsyncClient):
    """A client of a socket that exists only while the daemon is ready. `autostart` is as in `vestal.Client`."""

    def __init__(self, *, autostart: bool = False, **place: Unpack[Place]) -> None:
        super().__init__(**place)
        self._autostart = autostart
        self._started_log: Path | None = None
        if autostart:
            self._endpoint.check_startable()

    @property
    def started_log(self) -> Path | None:
        """The log of the daemon that this client has started last; `None` if it has started none."""
        return self._started_log

    async def _open_link(self, seconds: float = math.inf) -> AsyncLink:
        try:
            return await super()._open_link(seconds)
        except (DaemonNotRunning, DaemonNotReady) as fault:
            if not (self._autostart and fault.retryable):
                raise
        return await self._wait(min(seconds, START_PATIENCE), None)

    @property
    def backends(self) -> list[m.BackendInfo]:
        """The backends this socket serves, with their capabilities; errors as in `welcome`."""
        return self.welcome.backends

    async def wait_ready(self, timeout: float = 60.0, on_progress: Tell | None = None) -> m.Welcome:
        """Wait up to `timeout` seconds for the daemon to run and its models to be loaded; then connect.

        `on_progress` is called with a `Progress` whenever there is news. Raises `DaemonNotRunning` or
        `DaemonNotReady` with the last state when the time is over, and at once where waiting cannot help.
        """
        return (await self._wait(timeout, on_progress)).mux.welcome

    async def _wait(self, timeout: float, tell: Tell | None) -> AsyncLink:
        open_link = super()._open_link

        async def connect(seconds: float) -> m.Welcome:
            return (await open_link(seconds)).mux.welcome

        wait = waiting(self._endpoint, timeout, monotonic(), tell, autostart=self._autostart)
        try:
            await wait_for(connect, wait)
        finally:  # a wait that is given up leaves the daemon that it has started
            self._started_log = wait.log or self._started_log
        return await open_link()


class AsyncClient(_AsyncServingClient):
    """Generates text, on `infer.sock`. Prompts and options as in `vestal.Client`."""

    _kind = "infer"

    def stream(self, messages: Prompt, *, system: str | None = None, **options: Unpack[Options]) -> AsyncStream:
        """A `generate` that begins with the iteration of its text. `.result` holds the rest after the end."""
        return AsyncStream(self._beginning(messages, system, options))

    def events(self, messages: Prompt, *, system: str | None = None, **options: Unpack[Options]) -> AsyncEventStream:
        """A `generate` that begins with the iteration of its frames: `Queued`, `Started`, pieces … `Done` last."""
        return AsyncEventStream(self._beginning(messages, system, options))

    async def generate(self, messages: Prompt, *, system: str | None = None, **options: Unpack[Options]) -> Result:
        """Run a `generate` and wait for the whole answer."""
        return await AsyncEventStream(self._beginning(messages, system, options, stream=False)).finish()

    async def count(
        self,
        messages: Prompt,
        *,
        system: str | None = None,
        model: str | None = None,
        tools: Sequence[Tool | Mapping[str, object]] | None = None,
    ) -> m.Counted:
        """How many tokens a conversation takes, and how many the context holds."""
        link = await self._open_link()
        message = requests.count_message(
            link.mux.next_id(), link.mux.connection.version, messages, system=system, model=model, tools=tools
        )
        return await self._ask(link, message, m.Counted)

    def _beginning(self, prompt: Prompt, system: str | None, options: Options, *, stream: bool = True) -> Begin:
        requests.check_options(options)

        async def begin() -> tuple[AsyncLink, Call]:
            link = await self._open_link()
            message = requests.generate_message(
                link.mux.next_id(), link.mux.connection.version, prompt, system=system, options=options, stream=stream
            )
            return link, await link.open(message)

        return begin


class AsyncEmbedClient(_AsyncServingClient):
    """Turns texts into vectors, on `embed.sock`."""

    _kind = "embed"

    async def embed(
        self,
        input: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        task: str | None = None,
        normalize: bool | None = None,
    ) -> Embeddings:
        """One vector per text, in order. `normalize` (default true) makes each of length one."""
        link = await self._open_link()
        message = requests.embed_message(
            link.mux.next_id(), input, model=model, dimensions=dimensions, task=task, normalize=normalize
        )
        return Embeddings.of(await self._ask(link, message, m.Embeddings))


class AsyncAdminClient(_AsyncClient):
    """Watches and steers the daemon, on `admin.sock`: for its owner only, from its start to its end."""

    _kind = "admin"

    async def status(self) -> m.StatusReport:
        """The whole picture: lifecycle state, backends with percent, counts."""
        return await self._command(m.Status, m.StatusReport)

    async def backends(self) -> list[m.BackendStatus]:
        """Every configured backend: state, loading percent, slots, restarts."""
        return (await self._command(m.Backends, m.BackendsReport)).backends

    async def queue(self) -> m.QueueReport:
        """Who waits and who runs: uid, pid, client, age, tokens; never content."""
        return await self._command(m.Queue, m.QueueReport)

    async def metrics(self) -> str:
        """Prometheus text exposition format."""
        return (await self._command(m.Metrics, m.MetricsReport)).text

    async def cancel_request(self, request: int) -> m.Acknowledged:
        """End a request of anybody's; `request` is its number in `queue()`."""
        return await self._command(m.CancelRequest, m.Acknowledged, request=request)

    async def drain(self) -> m.Acknowledged:
        """Take no new requests; what is admitted runs to its end."""
        return await self._command(m.Drain, m.Acknowledged)

    async def undrain(self) -> m.Acknowledged:
        """Take requests again."""
        return await self._command(m.Undrain, m.Acknowledged)

    async def add_backend(self, name: str) -> m.Acknowledged:
        """Start a backend that the daemon's configuration declares; `subscribe` tells how far it is."""
        return await self._command(m.AddBackend, m.Acknowledged, backend=name)

    async def remove_backend(self, name: str, deadline: float | None = None) -> m.Acknowledged:
        """Stop a backend and forget it. What it has may run on for `deadline` seconds, or as configured."""
        return await self._command(
            m.RemoveBackend, m.Acknowledged, backend=name, deadline_ms=requests.milliseconds(deadline)
        )

    async def drain_backend(self, name: str) -> m.Acknowledged:
        """Give a backend no new requests; what it has runs on."""
        return await self._command(m.DrainBackend, m.Acknowledged, backend=name)

    async def undrain_backend(self, name: str) -> m.Acknowledged:
        """Give a backend requests again."""
        return await self._command(m.UndrainBackend, m.Acknowledged, backend=name)

    async def restart_backend(self, name: str, deadline: float | None = None) -> m.Acknowledged:
        """Stop a backend, and start it as the configuration declares it now. What it runs may run on for `deadline`
        seconds, by default the configured ones; what waits for it waits on."""
        return await self._command(
            m.RestartBackend, m.Acknowledged, backend=name, deadline_ms=requests.milliseconds(deadline)
        )

    async def explain_route(
        self,
        model: str | None = None,
        *,
        needs: Sequence[str] = (),
        socket: Literal["infer", "embed"] = "infer",
        version: int = 1,
        dimensions: int | None = None,
        task: str | None = None,
        normalize: bool | None = None,
    ) -> m.RouteReport:
        """Where a request would go now, and why: to `model`, on a connection of `version` to `socket`, with `needs` of
        these capabilities and options. The last three are those of an `embed`."""
        return await self._command(
            m.ExplainRoute,
            m.RouteReport,
            model=model,
            needs=list(needs),
            socket=socket,
            version=version,
            dimensions=dimensions,
            task=task,
            normalize=normalize,
        )

    async def reload(self) -> m.Reloaded:
        """Read the daemon's configuration again. Raises `InvalidRequest` if it has a fault, and nothing changes."""
        return await self._command(m.Reload, m.Reloaded)

    async def stop(self, deadline: float | None = None) -> m.Acknowledged:
        """Stop the daemon. `deadline` seconds for what runs (0 cuts at once), by default the configured ones."""
        return await self._command(m.Stop, m.Acknowledged, deadline_ms=requests.milliseconds(deadline))

    def subscribe(self) -> AsyncSubscription:
        """A `Snapshot`, then an `Event` per change, on a connection of its own."""
        if self._closed:
            raise LocalProtocolError("this client is closed", hint="make another one")
        return AsyncSubscription(lambda: dial(self._endpoint))

    async def _command(self, command: type[m.AdminRequest], answer: type[A], **fields: object) -> A:
        link = await self._open_link()
        return await self._ask(link, requests.admin_message(command, link.mux.next_id(), **fields), answer)
