"""A daemon that says what a test tells it to, for tests of clients: real Unix sockets, real frames, no model.

    def script(peer: Peer) -> None:
        request = peer.expect(messages.GenerateV2)
        peer.send(messages.Text(request.id, "Hel"), messages.Text(request.id, "lo"), done(request.id))

    with ScriptedDaemon(infer=script) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        assert client.generate("Hi").text == "Hello"

A script is a plain function that holds one conversation, line by line, in a thread of its own; it begins after
the handshake, and pings are answered for it. When it returns, the connection closes. Given a list of scripts, the
first plays on the first connection, and so on, the last on all that follow. What fails in a script fails the
`with` block. Both sides run the engine's state tables, so a script cannot send what a daemon may not (`raw` can).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from msgspec import Struct

from vestal import messages as m
from vestal.connection import VERSIONS, ServerConnection, SocketKind
from vestal.errors import VestalError, WireError
from vestal.framing import MAX_FRAME_LIMIT
from vestal.negotiation import FEATURES, Offer
from vestal.values import (
    Capabilities,
    ContentBlock,
    LifecycleState,
    Notice,
    StopReason,
    TextBlock,
    Timings,
    Usage,
    blocks_text,
)

__all__ = ["Gone", "Peer", "Script", "ScriptedDaemon", "done", "echo", "status_report"]

M = TypeVar("M", bound=Struct)

_PATIENCE = 20.0
"""Seconds a script waits for what it expects: far more than it takes, so that only a hang fails by it."""


class Gone(VestalError):
    """The client has closed its end, or has not sent in time what the script expects."""


class Peer:
    """The script's end of one connection."""

    def __init__(self, sock: socket.socket, connection: ServerConnection) -> None:
        self._sock = sock
        self._connection = connection
        self._inbox: deque[m.AnyMessage | WireError] = deque()

    @property
    def version(self) -> int:
        """The protocol version agreed on."""
        return self._connection.version

    @property
    def features(self) -> frozenset[str]:
        """The features agreed on."""
        return self._connection.features

    @property
    def client(self) -> str:
        """What the client calls itself."""
        return self._connection.client

    def next(self) -> m.AnyMessage:
        """The client's next message, a ping aside. Raises `Gone` at the end of its stream."""
        while True:
            while self._inbox:
                message = self._inbox.popleft()
                if isinstance(message, WireError):
                    raise AssertionError(f"the client sent what the wire forbids: {message!r}")
                if not isinstance(message, m.Ping):
                    return message
                self.send(m.Pong(nonce=message.nonce))
            self._receive()

    def expect(self, kind: type[M]) -> M:
        """The client's next message, which must be a `kind`."""
        message = self.next()
        assert isinstance(message, kind), f"expected {kind.__name__}, the client sent {message!r}"
        return message

    def expect_end(self) -> None:
        """Wait until the client has closed its end, having sent nothing more."""
        try:
            message = self.next()
        except Gone:
            return
        raise AssertionError(f"expected the end, the client sent {message!r}")

    def send(self, *messages: m.AnyMessage) -> None:
        """Send frames, in one write."""
        for message in messages:
            self._connection.send(message)
        self._flush()

    def fail(self, id: int, error: WireError) -> None:
        """End request `id` with `error`."""
        self._connection.fail(id, error)
        self._flush()

    def complain(self, error: WireError) -> None:
        """Send an error that concerns the connection; it closes if the error says so."""
        self._connection.refuse(error)
        self._flush()

    def raw(self, data: bytes) -> None:
        """Send bytes as they are, whatever the rules say."""
        self._sock.sendall(data)

    def shake(self) -> bool:
        """Wait for the hello, which the engine answers; whether there is a conversation now."""
        with suppress(Gone):
            while not self._inbox:
                self._receive()
            self._flush()
        return bool(self._inbox) and isinstance(self._inbox.popleft(), m.Hello)

    def _receive(self) -> None:
        try:
            data = self._sock.recv(256 * 1024)
        except TimeoutError:
            raise Gone(f"the client sent nothing for {_PATIENCE:g} s") from None
        except OSError as error:
            raise Gone(f"the connection broke: {error}") from None
        if not data:
            raise Gone("the client has closed its end")
        self._inbox += self._connection.receive(data)

    def _flush(self) -> None:
        if self._connection.pending:
            try:
                self._sock.sendall(self._connection.data_to_send())
            except OSError as error:
                raise Gone(f"the client is gone: {error}") from None

    def __repr__(self) -> str:
        return f"<Peer {self._connection!r} inbox={len(self._inbox)}>"


Script = Callable[[Peer], None]


class ScriptedDaemon:
    """Listens on the sockets that have a script, in `runtime_dir` (by default one of its own, removed at the end).

    `open` and `close` make a socket appear and vanish later, as a daemon does that loads and drains.
    """

    def __init__(
        self,
        *,
        infer: Script | Sequence[Script] | None = None,
        embed: Script | Sequence[Script] | None = None,
        admin: Script | Sequence[Script] | None = None,
        runtime_dir: Path | str | None = None,
        versions: tuple[int, ...] = VERSIONS,
        features: tuple[str, ...] = FEATURES,
        backends: Sequence[m.BackendInfo] | None = None,
        max_frame: int = MAX_FRAME_LIMIT,
    ) -> None:
        scripts: Mapping[SocketKind, Script | Sequence[Script] | None] = {
            "infer": infer,
            "embed": embed,
            "admin": admin,
        }
        self._scripts = {kind: deque(_several(script)) for kind, script in scripts.items() if script is not None}
        self._own_dir = runtime_dir is None
        self.runtime_dir = Path(tempfile.mkdtemp(prefix="vestal-") if runtime_dir is None else runtime_dir)
        self._versions, self._features, self._max_frame = versions, features, max_frame
        self._backends = [_backend()] if backends is None else list(backends)
        self._changed = threading.Condition()
        self._listeners: dict[SocketKind, socket.socket] = {}
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._faults: list[BaseException] = []

    def path(self, kind: SocketKind) -> Path:
        """Where the socket of `kind` is, or would be."""
        return self.runtime_dir / f"{kind}.sock"

    def open(self, kind: SocketKind, script: Script | Sequence[Script] | None = None, *, backlog: int = 16) -> None:
        """Listen on one more socket."""
        if script is not None:
            self._scripts[kind] = deque(_several(script))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self.path(kind)))
            listener.listen(backlog)
        except BaseException:
            listener.close()
            raise
        self._listeners[kind] = listener
        self._spawn(self._accept, kind, listener)

    def close(self, kind: SocketKind) -> None:
        """Listen there no more, and remove the socket; what is connected stays."""
        listener = self._listeners.pop(kind)
        self.path(kind).unlink(missing_ok=True)
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        listener.close()

    def settle(self) -> None:
        """Wait until the scripts of all connections made so far have ended, and their connections with them."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._connections, _PATIENCE), "a script does not end"

    def __enter__(self) -> Self:
        for kind in tuple(self._scripts):
            self.open(kind)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listening in tuple(self._listeners):
            self.close(listening)
        if error is not None:
            self._hang_up()  # a failed test leaves scripts waiting for what will not come
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._hang_up()
        if self._own_dir:
            shutil.rmtree(self.runtime_dir, ignore_errors=True)
        # A client that is gone is what an error in the test leaves behind, never what caused it.
        faults = [fault for fault in self._faults if error is None or not isinstance(fault, Gone)]
        if faults:
            raise faults[0]

    def _hang_up(self) -> None:
        with self._changed:
            for sock in self._connections:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _spawn(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, name=f"scripted {run.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, kind: SocketKind, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # closed
            with self._changed:
                self._connections.append(sock)
                scripts = self._scripts[kind]
                script = scripts.popleft() if len(scripts) > 1 else scripts[0]
            self._spawn(self._play, kind, sock, script)

    def _play(self, kind: SocketKind, sock: socket.socket, script: Script) -> None:
        sock.settimeout(_PATIENCE)
        peer = Peer(sock, ServerConnection(kind, self._offer))
        try:
            if peer.shake():
                script(peer)
        except BaseException as fault:  # whatever it is belongs into the test's thread
            self._faults.append(fault)
        finally:
            sock.close()
            with self._changed:
                self._connections.remove(sock)
                self._changed.notify_all()

    def _offer(self) -> Offer:
        return Offer(
            server="scripted/0",
            session=os.urandom(8).hex(),
            versions=self._versions,
            limits=m.Limits(frame=self._max_frame, requests_per_connection=64, queue_depth=64, per_caller=16),
            backends=self._backends,
            features=self._features,
        )

    def __repr__(self) -> str:
        return f"<ScriptedDaemon {self.runtime_dir} {' '.join(self._listeners) or 'not listening'}>"


def _several(script: Script | Sequence[Script]) -> Sequence[Script]:
    return [script] if callable(script) else script


def _backend() -> m.BackendInfo:
    capabilities = Capabilities(
        v2=True, tools=True, thinking=True, count=True, model="scripted", options=("max_tokens",)
    )
    return m.BackendInfo(name="scripted", model="scripted", capabilities=capabilities)


def done(
    id: int,
    stop_reason: StopReason = "end",
    *,
    output_tokens: int = 0,
    text: str | None = None,
    content: list[ContentBlock] | None = None,
    notices: Sequence[Notice] = (),
) -> m.Done:
    """The terminal frame of a `generate`."""
    return m.Done(
        id=id,
        stop_reason=stop_reason,
        usage=Usage(input_tokens=1, output_tokens=output_tokens),
        backend="scripted",
        model="scripted",
        timings=Timings(),
        text=text,
        content=content,
        notices=list(notices),
    )


def status_report(
    id: int, state: LifecycleState, percent: float | None = None, *, embed: bool = False, path: Path | str = ""
) -> m.StatusReport:
    """The answer to `status` of a daemon with one backend that is `percent` loaded."""
    ready = state not in ("starting", "loading", "failed")
    backend = m.BackendStatus(
        name="scripted",
        adapter="scripted",
        model="scripted",
        state="ready" if ready else "failed" if state == "failed" else "loading",
        percent=percent,
        capabilities=Capabilities(embed=embed) if ready else None,
    )
    return m.StatusReport(
        id=id,
        state=state,
        pid=os.getpid(),
        server="scripted/0",
        uptime_ms=1,
        runtime_dir=str(path),
        sockets={},
        connections=1,
        backends=[backend],
        waiting=0,
        running=0,
        queue_depth=64,
    )


def echo(peer: Peer) -> None:
    """A script: answer each `generate` with its last message, a piece per word, until the client leaves."""
    with suppress(Gone):
        while True:
            request = peer.next()
            if isinstance(request, (m.Generate, m.GenerateV2)):
                peer.send(*_echoed(request))


def _echoed(request: m.Generate | m.GenerateV2) -> list[m.AnyMessage]:
    last = request.messages[-1].content
    text = last if isinstance(last, str) else blocks_text(last)
    words = re.findall(r"\s*\S+", text)
    v1 = isinstance(request, m.Generate)
    if not request.stream:
        whole = done(request.id, output_tokens=len(words), text=text) if v1 else None
        return [whole or done(request.id, output_tokens=len(words), content=[TextBlock(text)])]
    pieces: list[m.AnyMessage] = [m.Token(request.id, w) if v1 else m.Text(request.id, w) for w in words]
    return [*pieces, done(request.id, output_tokens=len(words))]
