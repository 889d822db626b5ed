"""The sans-I/O engine of one connection, for either role: bytes in, messages out; messages in, bytes out.

It never awaits, reads a clock or touches a socket. The shell around it feeds what it read to `receive`, acts on
what comes back, and writes what `data_to_send` gives. Both roles run the tables of `vestal.state`, so an
illegal frame is refused by whoever would send it (`LocalProtocolError`) and by whoever gets it.

Whose fault a fault is decides what happens. The daemon answers a client's bad message with an `error` frame,
queued here, and reports it; only a fault in the framing or the handshake ends the connection. A client whose
daemon breaks the rules raises `RemoteProtocolError`: there is nobody to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Literal

from vestal import messages as m
from vestal.codec import Codec, append_frame, error_frame
from vestal.errors import DuplicateId, LocalProtocolError, MalformedFrame, RemoteProtocolError, WireError
from vestal.framing import HANDSHAKE_FRAME_LIMIT, MAX_FRAME_LIMIT, FrameReader
from vestal.negotiation import Offer, negotiate
from vestal.state import CONNECTION, OPENING, ConnectionState, RequestState, next_state

__all__ = ["VERSIONS", "ClientConnection", "ServerConnection", "SocketKind"]

SocketKind = Literal["infer", "embed", "admin"]
VERSIONS: tuple[int, ...] = (1, 2)

_REQUESTS: Mapping[SocketKind, tuple[Any, Any]] = {  # by version, from 1
    "infer": (m.InferRequestV1, m.InferRequestV2),
    "embed": (m.EmbedRequest, m.EmbedRequest),
    "admin": (m.AdminRequest, m.AdminRequest),
}
_REPLIES: Mapping[SocketKind, Any] = {"infer": m.InferReply, "embed": m.EmbedReply, "admin": m.AdminReply}


@cache
def _codec(union: Any, *, trusted: bool = False) -> Codec[m.AnyMessage]:
    """Built when it is first needed: a client needs two of them, and each takes a millisecond of its start."""
    return Codec(union, trusted=trusted)


_TAG: dict[type, str] = {cls: str(cls.__struct_config__.tag) for cls in m.AnyMessage.__args__}
_OPENS: dict[type, RequestState] = {cls: OPENING[tag] for cls, tag in _TAG.items() if tag in OPENING}
_PIECES = (m.Token, m.Text, m.ThinkingDelta)
_NOT_IN_VERSION: Mapping[int, frozenset[type]] = {
    1: frozenset({m.Text, m.ThinkingDelta, m.ToolUse}),
    2: frozenset({m.Token}),
}
_OF_FEATURE: Mapping[str, frozenset[type]] = {"queue_events": frozenset({m.Queued, m.Started})}


class _Connection:
    """What both roles share: framing, the outgoing buffer, the two state machines."""

    def __init__(self, kind: SocketKind) -> None:
        self.kind: SocketKind = kind
        self.state = ConnectionState.HELLO
        self.version = 0
        self.features: frozenset[str] = frozenset()
        self._reader = FrameReader()
        self._out = bytearray()
        self._send_limit = HANDSHAKE_FRAME_LIMIT
        self._requests: dict[int, RequestState] = {}
        self._requests_taken: frozenset[type] = frozenset()  # what the client may send, once open
        self._replies_taken: frozenset[type] = frozenset()  # what the daemon may send, once open

    @property
    def requests(self) -> Mapping[int, RequestState]:
        """The requests in flight, by id."""
        return self._requests

    @property
    def over(self) -> bool:
        """Whether the last word has been said: nothing more is read, and only what is queued is written."""
        return self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED)

    @property
    def pending(self) -> int:
        """Bytes waiting in `data_to_send`."""
        return len(self._out)

    def data_to_send(self) -> bytearray:
        """Take what is to be written. The caller owns it."""
        out, self._out = self._out, bytearray()
        return out

    def _move(self, what: str) -> None:
        state = CONNECTION.get((self.state, what))
        if state is None:
            raise LocalProtocolError(f"{what} is not legal while the connection is {self.state.value}")
        self.state = state

    def _open(self, welcome: m.Welcome) -> None:
        self._move("welcome")
        self.version = welcome.version
        self.features = frozenset(welcome.features)
        self._reader.limit = MAX_FRAME_LIMIT
        self._send_limit = MAX_FRAME_LIMIT
        self._requests_taken = frozenset(_REQUESTS[self.kind][self.version - 1].__args__)
        unagreed = (frames for feature, frames in _OF_FEATURE.items() if feature not in self.features)
        self._replies_taken = frozenset(_REPLIES[self.kind].__args__).difference(
            _NOT_IN_VERSION[self.version], *unagreed
        )

    def _require_legal(self, message: m.AnyMessage, taken: frozenset[type]) -> None:
        if self.state is not ConnectionState.OPEN:
            raise LocalProtocolError(f"cannot send {_TAG[type(message)]}: the connection is {self.state.value}")
        if type(message) not in taken:
            raise LocalProtocolError(f"{type(message).__name__} is no message of {self!r} in this direction")

    def _step(self, id: int, tag: str) -> bool:
        """Move request `id` by a daemon's frame; False if the table forbids it."""
        state = self._requests.get(id)
        after = None if state is None else next_state(state, tag)
        if after is None:
            return False
        if after is RequestState.ENDED:
            del self._requests[id]
        else:
            self._requests[id] = after
        return True

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.kind} {self.state.value} v{self.version} "
            f"requests={len(self._requests)} out={len(self._out)}>"
        )


class ServerConnection(_Connection):
    """The daemon's end. `offer` is asked at the hello for what there is to offer at that moment.

    A hello is answered here, so that what a client sent right behind it is read by the version agreed on.
    `receive` gives the client's messages in order, and for each fault the `WireError` that was queued as an
    answer. After a fault with `closes`, `state` is CLOSING: flush `data_to_send` and close.
    """

    def __init__(self, kind: SocketKind, offer: Callable[[], Offer]) -> None:
        super().__init__(kind)
        self.client = ""
        self._offer = offer
        self._codec = _codec(m.Hello)

    def receive(self, data: bytes | bytearray | memoryview) -> list[m.AnyMessage | WireError]:
        """Messages and faults in `data`, in order. Empty once the connection is closing."""
        if self.over:
            return []
        got: list[m.AnyMessage | WireError] = []
        try:
            for payload in self._reader.feed(data):
                got.append(self._take(payload))
                if self.state is ConnectionState.CLOSING:
                    break
        except WireError as error:
            got.append(self.refuse(error))
        return got

    def receive_eof(self) -> WireError | None:
        """The client has closed its side; inside a frame that is a fault, which is returned."""
        fault: WireError | None = None
        if not self.over:
            try:
                self._reader.eof()
            except MalformedFrame as error:
                fault = self.refuse(error)
        self._move("eof")
        self._requests.clear()
        return fault

    def _take(self, payload: memoryview) -> m.AnyMessage | WireError:
        try:
            message = self._codec.decode(payload)
            if (opens := _OPENS.get(type(message))) is not None:
                self._begin(message.id, opens)  # type: ignore[union-attr, arg-type]  # what opens a request has an id
            if isinstance(message, m.Hello):
                self._answer(message)
        except WireError as error:
            self.refuse(error)
            if self.state is ConnectionState.WELCOME:  # a hello is answered once
                self.close()
            return error
        return message

    def _begin(self, id: int, opens: RequestState) -> None:
        if id in self._requests:
            raise DuplicateId(
                f"id {id} is still in flight on this connection",
                hint="use an id again only after its terminal frame",
                details={"id": id},
            )
        self._requests[id] = opens

    def _answer(self, hello: m.Hello) -> None:
        self._move("hello")
        self.client = hello.client
        welcome = negotiate(hello, self._offer())
        append_frame(self._out, welcome, HANDSHAKE_FRAME_LIMIT)
        self._open(welcome)
        self._reader.limit = min(welcome.limits.frame, MAX_FRAME_LIMIT)
        self._codec = _codec(_REQUESTS[self.kind][welcome.version - 1])

    def refuse(self, error: WireError) -> WireError:
        """Queue `error` as an answer to a message that opened no request; close if the error says so.

        An id that is in flight is left out: a frame with it would end that request. After the last word, nothing
        is queued.
        """
        if self.over:
            return error
        frame = error_frame(error)
        if frame.id is not None and frame.id in self._requests:
            frame = m.Error(**{name: getattr(frame, name) for name in m.Error.__struct_fields__ if name != "id"})
        append_frame(self._out, frame, MAX_FRAME_LIMIT)
        if error.closes:
            self.close()
        return error

    def send(self, message: m.AnyMessage) -> None:
        """Queue a frame. Raises `LocalProtocolError` for one that the tables forbid, `FrameTooLarge` for its size."""
        if self.state is not ConnectionState.OPEN or type(message) not in self._replies_taken:
            self._require_legal(message, self._replies_taken)
        if isinstance(message, _PIECES) and self._requests.get(message.id) is RequestState.STREAMING:
            append_frame(self._out, message, MAX_FRAME_LIMIT)  # the hot path: no state changes
            return
        before = len(self._out)
        append_frame(self._out, message, MAX_FRAME_LIMIT)
        id = getattr(message, "id", None)
        if id is not None and not self._step(id, _TAG[type(message)]):
            del self._out[before:]
            raise LocalProtocolError(f"cannot send {_TAG[type(message)]} for id {id}: it is {self._state_of(id)}")

    def fail(self, id: int, error: WireError) -> None:
        """Queue the `error` that ends request `id`."""
        self.send(error_frame(error, id))

    def close(self) -> None:
        """No more messages in either direction; what is queued may still be written."""
        if not self.over:
            self._move("fatal")

    def _state_of(self, id: int) -> str:
        state = self._requests.get(id)
        return "not in flight" if state is None else state.value


class ClientConnection(_Connection):
    """An app's end. `hello` first; `send` opens requests; `receive` gives the daemon's frames."""

    def __init__(self, kind: SocketKind) -> None:
        super().__init__(kind)
        self.welcome: m.Welcome | None = None
        self._codec = _codec(m.Welcome | m.Error, trusted=True)
        self._hello: m.Hello | None = None

    def hello(
        self,
        *,
        versions: Iterable[int] = (2, 1),
        client: str = "",
        features: Iterable[str] = (),
        require: Iterable[str] = (),
    ) -> None:
        """Queue the hello that opens the conversation."""
        if self.state is not ConnectionState.HELLO:
            raise LocalProtocolError(f"cannot send hello: the connection is {self.state.value}")
        hello = m.Hello(versions=list(versions), client=client, features=list(features), require=list(require))
        append_frame(self._out, hello, HANDSHAKE_FRAME_LIMIT)
        self._hello = hello
        self._move("hello")

    def send(self, message: m.AnyMessage) -> None:
        """Queue a message. Raises `LocalProtocolError` (not open, id in flight) or `FrameTooLarge`."""
        self._require_legal(message, self._requests_taken)
        opens = _OPENS.get(type(message))
        id = getattr(message, "id", None)
        if opens is not None and id in self._requests:
            raise LocalProtocolError(f"id {id} is still in flight on this connection")
        append_frame(self._out, message, self._send_limit)
        if opens is not None:
            assert id is not None
            self._requests[id] = opens

    def receive(self, data: bytes | bytearray | memoryview) -> list[m.AnyMessage]:
        """The daemon's frames in `data`, in order. Empty once the connection is closing.

        Raises `RemoteProtocolError` if they break the rules: the connection is of no use then.
        """
        if self.over:
            return []
        got: list[m.AnyMessage] = []
        try:
            for payload in self._reader.feed(data):
                message = self._codec.decode(payload)
                if not (isinstance(message, _PIECES) and self._requests.get(message.id) is RequestState.STREAMING):
                    self._accept(message)
                got.append(message)
                if self.state is ConnectionState.CLOSING:
                    break
        except WireError as error:
            self._move("fatal")
            raise RemoteProtocolError(f"the daemon sent a bad frame: {error.message}") from error
        except RemoteProtocolError:
            self._move("fatal")
            raise
        return got

    def receive_eof(self) -> list[int]:
        """The daemon has closed; gives the ids that never got their terminal frame."""
        lost = sorted(self._requests)
        self._requests.clear()
        self.state = ConnectionState.CLOSED
        return lost

    def _accept(self, message: m.AnyMessage) -> None:
        if isinstance(message, m.Welcome):
            self._greet(message)
            return
        if self.welcome and type(message) not in self._replies_taken:
            raise RemoteProtocolError(f"the daemon sent {_TAG[type(message)]}, which is not of what was agreed on")
        if isinstance(message, m.Error) and (message.id is None or message.id not in self._requests):
            if not self.welcome:
                self._move("fatal")
            return
        id = getattr(message, "id", None)
        if id is not None and not self._step(id, _TAG[type(message)]):
            state = self._requests.get(id)
            raise RemoteProtocolError(
                f"the daemon sent {_TAG[type(message)]} for id {id}, which is "
                f"{'not in flight' if state is None else state.value}"
            )

    def _greet(self, welcome: m.Welcome) -> None:
        hello = self._hello
        if hello is None:
            raise RemoteProtocolError("the daemon sent a welcome before the hello")
        if welcome.version not in hello.versions or welcome.version not in VERSIONS:
            raise RemoteProtocolError(f"the daemon chose version {welcome.version}, offered were {hello.versions}")
        if not set(welcome.features) <= set(hello.features):
            raise RemoteProtocolError(f"the daemon turned on {welcome.features}, offered were {hello.features}")
        self._open(welcome)
        self.welcome = welcome
        self._codec = _codec(_REPLIES[self.kind], trusted=True)
        self._send_limit = min(welcome.limits.frame, MAX_FRAME_LIMIT)
