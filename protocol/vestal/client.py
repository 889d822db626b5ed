"""The blocking clients: one per socket, usable from any number of threads.

    with vestal.Client() as client:
        for piece in client.stream("Why is the sky blue?", max_tokens=64):
            print(piece, end="", flush=True)

Nothing connects until the first use. A connection that is lost fails what was in flight on it and is replaced
at the next call; a request is never repeated by the library. The only times limited here are connecting and
the handshake (`connect_timeout`); `timeout_ms` and `queue_timeout_ms` of a request are the daemon's to keep.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter
from types import TracebackType
from typing import ClassVar, Literal, Self, TypeVar, Unpack

from msgspec import Struct

from vestal import messages as m
from vestal import requests
from vestal.connection import SocketKind
from vestal.dial import dial, wait_for
from vestal.endpoint import Endpoint, Place, StrPath
from vestal.errors import DaemonNotReady, DaemonNotRunning, LocalProtocolError
from vestal.link import Link
from vestal.multiplex import answer_of
from vestal.readiness import START_PATIENCE, Tell, waiting
from vestal.requests import Options, Prompt
from vestal.results import Embeddings, Result
from vestal.streams import EventStream, Stream, Subscription
from vestal.values import Tool

__all__ = ["AdminClient", "Client", "EmbedClient"]

A = TypeVar("A", bound=Struct)
G = TypeVar("G", Stream, EventStream)


class _Client:
    """What the clients of all sockets share.

    `socket` is a path; without it the socket is looked for in `runtime_dir`, and without that where
    `vestal.paths` says. `client` is how this app calls itself to operators. `require` names capabilities
    without which connecting fails (`CapabilityMissing`). `connect_timeout` is seconds.
    """

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
        self._connecting = threading.Lock()
        self._link: Link | None = None
        self._closed = False

    def connect(self) -> m.Welcome:
        """Connect now, if need be; what the daemon said of itself."""
        return self._open_link().mux.welcome

    def _open_link(self, seconds: float = math.inf) -> Link:
        """The connection, a new one if the last was lost. Raises `ConnectionFailed` or the daemon's error."""
        with self._connecting:
            self._check_open()
            if self._link is None or not self._link.refresh():
                self._link = dial(self._endpoint.within(seconds))
            return self._link

    def _check_open(self) -> None:
        if self._closed:
            raise LocalProtocolError("this client is closed", hint="make another one")

    @property
    def welcome(self) -> m.Welcome:
        """What the daemon said of itself; connects if need be."""
        return self.connect()

    @property
    def version(self) -> int:
        """The protocol version of the connection; connects if need be."""
        return self.connect().version

    @property
    def goaway(self) -> m.Goaway | None:
        """What the daemon said when it began to drain, on the latest connection; never connects."""
        return None if self._link is None else self._link.mux.goaway

    def ping(self) -> float:
        """Seconds from here to the daemon and back."""
        link = self._open_link()
        began = perf_counter()
        self._ask(link, m.Ping(nonce=link.mux.next_id()), m.Pong)
        return perf_counter() - began

    def _ask(self, link: Link, message: m.AnyMessage, expected: type[A]) -> A:
        """Send a request that one frame answers, and wait for it."""
        call = link.open(message)
        try:
            return answer_of(link.wait(call), expected)
        finally:
            link.abandon(call)  # of effect only when the wait was interrupted

    def close(self) -> None:
        """Close the connection; requests in flight end with `ConnectionLost`. Idempotent, from any thread."""
        self._closed = True
        with self._connecting:
            if self._link is not None:
                self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not connected" if self._link is None else self._link.mux.summary
        return f"<{type(self).__name__} {self._endpoint.path} {state}>"


class _ServingClient(_Client):
    """A client of a socket that exists only while the daemon is ready.

    With `autostart` a daemon of this user's is started where none runs, and every call waits until it is ready;
    see `vestal.autostart`. One that could not be started is `DaemonNotStarted`, with its last words.
    """

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

    def _open_link(self, seconds: float = math.inf) -> Link:
        try:
            return super()._open_link(seconds)
        except (DaemonNotRunning, DaemonNotReady) as fault:
            if not (self._autostart and fault.retryable):
                raise
        return self._wait(min(seconds, START_PATIENCE), None)

    @property
    def backends(self) -> list[m.BackendInfo]:
        """The backends this socket serves, with their capabilities; connects if need be."""
        return self.connect().backends

    def wait_ready(self, timeout: float = 60.0, on_progress: Tell | None = None) -> m.Welcome:
        """Wait up to `timeout` seconds for the daemon to run and its models to be loaded; then connect.

        `on_progress` is called with a `Progress` whenever there is news. Raises `DaemonNotRunning` or
        `DaemonNotReady` with the last state when the time is over, and at once where waiting cannot help.
        """
        return self._wait(timeout, on_progress).mux.welcome

    def _wait(self, timeout: float, tell: Tell | None) -> Link:
        open_link = super()._open_link
        wait = waiting(self._endpoint, timeout, monotonic(), tell, autostart=self._autostart)
        try:
            wait_for(lambda seconds: open_link(seconds).mux.welcome, wait)
        finally:  # a wait that is given up leaves the daemon that it has started
            self._started_log = wait.log or self._started_log
        return open_link()


class Client(_ServingClient):
    """Generates text, on `infer.sock`.

    A prompt is a text or a list of messages. `system` goes before the conversation. Options are those of
    `vestal.Options`; one that is unknown, or has a wrong value, is an `InvalidRequest` before anything is sent.
    """

    _kind = "infer"

    def stream(self, messages: Prompt, *, system: str | None = None, **options: Unpack[Options]) -> Stream:
        """Begin a `generate`; iterate the answer's text. `.result` holds the rest after the end."""
        return self._start(Stream, messages, system, options)

    def events(self, messages: Prompt, *, system: str | None = None, **options: Unpack[Options]) -> EventStream:
        """Begin a `generate`; iterate its frames: `Queued`, `Started`, pieces, tool calls, and `Done` last."""
        return self._start(EventStream, messages, system, options)

    def generate(self, messages: Prompt, *, system: str | None = None, **options: Unpack[Options]) -> Result:
        """Run a `generate` and wait for the whole answer."""
        with self._start(EventStream, messages, system, options, stream=False) as events:
            return events.finish()

    def count(
        self,
        messages: Prompt,
        *,
        system: str | None = None,
        model: str | None = None,
        tools: Sequence[Tool | Mapping[str, object]] | None = None,
    ) -> m.Counted:
        """How many tokens a conversation takes, and how many the context holds."""
        link = self._open_link()
        message = requests.count_message(
            link.mux.next_id(), link.mux.connection.version, messages, system=system, model=model, tools=tools
        )
        return self._ask(link, message, m.Counted)

    def _start(self, make: type[G], prompt: Prompt, system: str | None, options: Options, *, stream: bool = True) -> G:
        requests.check_options(options)  # a misspelt option is told even where no daemon runs
        link = self._open_link()
        message = requests.generate_message(
            link.mux.next_id(), link.mux.connection.version, prompt, system=system, options=options, stream=stream
        )
        return make(link, link.open(message))


class EmbedClient(_ServingClient):
    """Turns texts into vectors, on `embed.sock`."""

    _kind = "embed"

    def embed(
        self,
        input: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        task: str | None = None,
        normalize: bool | None = None,
    ) -> Embeddings:
        """One vector per text, in order. `normalize` (default true) makes each of length one."""
        link = self._open_link()
        message = requests.embed_message(
            link.mux.next_id(), input, model=model, dimensions=dimensions, task=task, normalize=normalize
        )
        return Embeddings.of(self._ask(link, message, m.Embeddings))


class AdminClient(_Client):
    """Watches and steers the daemon, on `admin.sock`: for its owner only, from its start to its end."""

    _kind = "admin"

    def status(self) -> m.StatusReport:
        """The whole picture: lifecycle state, backends with percent, counts."""
        return self._command(m.Status, m.StatusReport)

    def backends(self) -> list[m.BackendStatus]:
        """Every configured backend: state, loading percent, slots, restarts."""
        return self._command(m.Backends, m.BackendsReport).backends

    def queue(self) -> m.QueueReport:
        """Who waits and who runs: uid, pid, client, age, tokens; never content."""
        return self._command(m.Queue, m.QueueReport)

    def metrics(self) -> str:
        """Prometheus text exposition format."""
        return self._command(m.Metrics, m.MetricsReport).text

    def cancel_request(self, request: int) -> m.Acknowledged:
        """End a request of anybody's; `request` is its number in `queue()`."""
        return self._command(m.CancelRequest, m.Acknowledged, request=request)

    def drain(self) -> m.Acknowledged:
        """Take no new requests; what is admitted runs to its end."""
        return self._command(m.Drain, m.Acknowledged)

    def undrain(self) -> m.Acknowledged:
        """Take requests again."""
        return self._command(m.Undrain, m.Acknowledged)

    def add_backend(self, name: str) -> m.Acknowledged:
        """Start a backend that the daemon's configuration declares; `subscribe` tells how far it is."""
        return self._command(m.AddBackend, m.Acknowledged, backend=name)

    def remove_backend(self, name: str, deadline: float | None = None) -> m.Acknowledged:
        """Stop a backend and forget it. What it has may run on for `deadline` seconds, or as configured."""
        return self._command(m.RemoveBackend, m.Acknowledged, backend=name, deadline_ms=requests.milliseconds(deadline))

    def drain_backend(self, name: str) -> m.Acknowledged:
        """Give a backend no new requests; what it has runs on."""
        return self._command(m.DrainBackend, m.Acknowledged, backend=name)

    def undrain_backend(self, name: str) -> m.Acknowledged:
        """Give a backend requests again."""
        return self._command(m.UndrainBackend, m.Acknowledged, backend=name)

    def restart_backend(self, name: str, deadline: float | None = None) -> m.Acknowledged:
        """Stop a backend, and start it as the configuration declares it now. What it runs may run on for `deadline`
        seconds, by default the configured ones; what waits for it waits on."""
        return self._command(
            m.RestartBackend, m.Acknowledged, backend=name, deadline_ms=requests.milliseconds(deadline)
        )

    def explain_route(
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
        return self._command(
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

    def reload(self) -> m.Reloaded:
        """Read the daemon's configuration again. Raises `InvalidRequest` if it has a fault, and nothing changes."""
        return self._command(m.Reload, m.Reloaded)

    def stop(self, deadline: float | None = None) -> m.Acknowledged:
        """Stop the daemon. `deadline` seconds for what runs (0 cuts at once), by default the configured ones."""
        return self._command(m.Stop, m.Acknowledged, deadline_ms=requests.milliseconds(deadline))

    def subscribe(self) -> Subscription:
        """A `Snapshot`, then an `Event` per change, on a connection of its own."""
        self._check_open()
        return Subscription(dial(self._endpoint))

    def _command(self, command: type[m.AdminRequest], answer: type[A], **fields: object) -> A:
        link = self._open_link()
        return self._ask(link, requests.admin_message(command, link.mux.next_id(), **fields), answer)
