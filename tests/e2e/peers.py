"""Blocking clients with nothing between the test and the socket: one speaks the protocol, one sends any bytes.

They are not the client library, on purpose: what it would hide, hold back or mend is what these tests look at.
`Peer` runs the engine's state tables on all it gets, so a second terminal frame, a frame of the wrong version or
one after the end raises `RemoteProtocolError` wherever it comes.
"""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from vestal import messages as m
from vestal.connection import ClientConnection, SocketKind
from vestal.framing import PREFIX
from vestal.values import Message, MessageV2, TextBlock

__all__ = ["PATIENCE", "TERMINAL", "Peer", "RawPeer", "framed"]

PATIENCE = 20.0
"""Seconds until a wait for something that must happen is given up: generous, as the machine may be busy."""

TERMINAL = (m.Done, m.Embeddings, m.Counted, m.Error)
Frame = TypeVar("Frame", bound=msgspec.Struct)
_CHUNK = 256 * 1024


def framed(value: object) -> bytes:
    """A frame with any MessagePack value in it."""
    payload = msgspec.msgpack.encode(value)
    return PREFIX.pack(len(payload)) + payload


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


class Peer:
    """A client: `send` any messages in one write, `take` the frames that come, in whatever order they are wanted."""

    def __init__(
        self,
        path: Path | socket.socket,
        kind: SocketKind,
        versions: Iterable[int] = (2, 1),
        *,
        features: Iterable[str] = (),
        require: Iterable[str] = (),
        client: str = "test",
    ) -> None:
        self.conn = ClientConnection(kind)
        self.sock = connect(path) if isinstance(path, Path) else path
        self.sock.settimeout(PATIENCE)
        self.untaken: deque[m.AnyMessage] = deque()
        self._numbers = itertools.count(1)
        try:
            self.conn.hello(versions=versions, features=features, require=require, client=client)
            self.flush()
            self.welcome = self.take((m.Welcome, m.Error))
        except BaseException:
            self.sock.close()
            raise

    # --- out --------------------------------------------------------------------------------------------------

    def send(self, *messages: m.AnyMessage) -> None:
        for message in messages:
            self.conn.send(message)
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.conn.data_to_send())

    def request(self, id: int, text: str = "one two three", **options: Any) -> m.AnyMessage:
        """A `generate` of the version agreed on, with one user message."""
        if self.conn.version == 1:
            return m.Generate(id=id, messages=[Message("user", text)], **options)
        return m.GenerateV2(id=id, messages=[MessageV2("user", [TextBlock(text)])], **options)

    def ask(self, id: int, text: str = "one two three", **options: Any) -> None:
        """Send one `generate`."""
        self.send(self.request(id, text, **options))

    # --- in ---------------------------------------------------------------------------------------------------

    def take(self, kind: type[Frame] | tuple[type[Frame], ...], **fields: Any) -> Frame:
        """The first frame of that kind with those fields; the frames before it wait for another `take`."""

        def wanted(frame: m.AnyMessage) -> bool:
            return isinstance(frame, kind) and all(getattr(frame, key) == value for key, value in fields.items())

        return self.first(wanted)  # type: ignore[return-value]  # `wanted` has looked at its type

    def first(self, wanted: Callable[[m.AnyMessage], bool]) -> m.AnyMessage:
        """The first frame that is wanted. Raises `EOFError` if the daemon closes before it came."""
        for index, frame in enumerate(self.untaken):
            if wanted(frame):
                del self.untaken[index]
                return frame
        while True:
            came = self._receive()
            found = next((index for index, frame in enumerate(came) if wanted(frame)), None)
            if found is not None:
                self.untaken += came[:found] + came[found + 1 :]
                return came[found]
            self.untaken += came

    def _receive(self) -> list[m.AnyMessage]:
        data = self.sock.recv(_CHUNK)
        if not data:
            raise EOFError(f"the daemon closed; {self.untaken} were not taken")
        return self.conn.receive(data)

    def answer(self, id: int) -> list[m.AnyMessage]:
        """Every frame of request `id`, up to its terminal one."""
        frames: list[m.AnyMessage] = []
        while not frames or not isinstance(frames[-1], TERMINAL):
            frames.append(self.first(lambda frame: getattr(frame, "id", None) == id))
        return frames

    def end(self, id: int) -> m.AnyMessage:
        """The terminal frame of request `id`."""
        return self.answer(id)[-1]

    def done(self, id: int) -> m.Done:
        frame = self.end(id)
        assert isinstance(frame, m.Done), frame
        return frame

    def error(self, id: int | None) -> m.Error:
        """The `error` of request `id`, or the next that has none."""
        if id is None:
            return self.take(m.Error, id=None)
        frame = self.end(id)
        assert isinstance(frame, m.Error), frame
        return frame

    def generate(self, id: int, text: str = "one two three", **options: Any) -> tuple[str, m.Done]:
        """Ask, and wait for the whole answer: its streamed text, and how it ended."""
        self.ask(id, text, **options)
        *pieces, done = self.answer(id)
        assert isinstance(done, m.Done), done
        return text_of(pieces), done

    def ping(self) -> None:
        """Return when the daemon has answered; it has then read whatever was sent before."""
        nonce = next(self._numbers)
        self.send(m.Ping(nonce=nonce))
        self.take(m.Pong, nonce=nonce)

    def command(self, message: m.AnyMessage, answer: type[Frame]) -> Frame:
        """Send an admin command and return its answer."""
        self.send(message)
        frame = self.first(lambda frame: getattr(frame, "id", None) == message.id)  # type: ignore[union-attr]
        assert isinstance(frame, answer), frame
        return frame

    def event(self, kind: str, **facts: Any) -> m.Event:
        """The next event of that kind with those facts (admin)."""

        def wanted(frame: m.AnyMessage) -> bool:
            return isinstance(frame, m.Event) and frame.kind == kind and facts.items() <= frame.data.items()

        frame = self.first(wanted)
        assert isinstance(frame, m.Event)
        return frame

    def rest(self) -> list[m.AnyMessage]:
        """What was not taken, and what comes until the daemon closes."""
        try:
            while True:
                self.untaken += self._receive()
        except (EOFError, ConnectionResetError):
            return list(self.untaken)

    # --- end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class RawPeer:
    """A client that keeps no rules: bytes out, and what comes back as plain maps."""

    def __init__(self, path: Path, version: int | None = None) -> None:
        self.sock = connect(path)
        self._data = bytearray()
        if version is not None:
            self.write(framed({"type": "hello", "versions": [version]}))
            welcome = self.read()
            assert welcome is not None
            assert welcome["type"] == "welcome", welcome

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def read(self) -> dict[str, Any] | None:
        """The next frame, or None at the end of the stream."""
        while True:
            if len(self._data) >= PREFIX.size:
                end = PREFIX.size + PREFIX.unpack_from(self._data)[0]
                if len(self._data) >= end:
                    frame: dict[str, Any] = msgspec.msgpack.decode(self._data[PREFIX.size : end])
                    del self._data[:end]
                    return frame
            data = self.sock.recv(_CHUNK)
            if not data:
                assert not self._data, f"the stream ended inside a frame: {bytes(self._data[:64])!r}"
                return None
            self._data += data

    def error(self) -> dict[str, Any]:
        """The next `error`; what the daemon says besides is passed over."""
        while True:
            frame = self.read()
            assert frame is not None, "the daemon closed without an error"
            if frame["type"] == "error":
                return frame

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def text_of(frames: Iterable[m.AnyMessage]) -> str:
    """The text that frames stream."""
    return "".join(
        frame.text if isinstance(frame, m.Token) else frame.delta if isinstance(frame, m.Text) else ""
        for frame in frames
    )
