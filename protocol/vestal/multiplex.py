"""Several calls on one connection, for the blocking and the asyncio shell alike. No I/O, no locks, no clock.

A `Call` is one request and the frames that answered it and were not taken yet. `receive` sorts frames to their
calls and says whose came; the shell wakes whoever waits for those. The end of a call is read from the
connection's own table: an id that is not in flight there any more has had its terminal frame. When the
connection ends, each call that is left learns of it once (`loss`); no call is ever sent again by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TypeVar

from msgspec import Struct

from vestal import messages as m
from vestal.codec import exception_of
from vestal.connection import ClientConnection, SocketKind
from vestal.errors import ConnectionLost, ProtocolError, RemoteProtocolError, VestalError, WireError
from vestal.state import ConnectionState

__all__ = ["Call", "Multiplexer", "answer_of", "says_goodbye"]

A = TypeVar("A", bound=Struct)
_PIECES = (m.Text, m.Token, m.ThinkingDelta)
_CANCELLABLE = (m.Generate, m.GenerateV2, m.Embed)
_GOING = ("stopping", "stopped", "failed")
_GREETING = -1


class Call:
    """One request in flight: `opens` is the message that began it, `frames` what came and nobody took yet."""

    __slots__ = ("ended", "frames", "id", "opens", "waited")

    def __init__(self, id: int, opens: type[m.AnyMessage]) -> None:
        self.id = id
        self.opens = opens
        self.frames: list[m.AnyMessage] = []
        self.ended = False
        self.waited = False  # a thread or task waits for frames of this call

    @property
    def name(self) -> str:
        """For people: the message and its id."""
        tag = str(self.opens.__struct_config__.tag)
        return tag if self.id == _GREETING else f"{tag} {self.id}"

    def take(self) -> list[m.AnyMessage]:
        """All frames that came since the last time."""
        frames, self.frames = self.frames, []
        return frames

    def __repr__(self) -> str:
        return f"<Call {self.name} {'ended' if self.ended else 'in flight'}, {len(self.frames)} frames waiting>"


def answer_of(frames: list[m.AnyMessage], expected: type[A]) -> A:
    """The one frame that answers a call. Raises the daemon's error, or `RemoteProtocolError` for another type."""
    frame = frames[0]
    if isinstance(frame, m.Error):
        raise exception_of(frame)
    if isinstance(frame, m.Done):  # the end of an `embed` that somebody else cancelled
        raise VestalError(f"vestald ended the request: {frame.stop_reason}", hint="an operator may have cancelled it")
    if not isinstance(frame, expected):
        raise RemoteProtocolError(
            f"the daemon answered with {frame.__struct_config__.tag}, expected {expected.__struct_config__.tag}"
        )
    return frame


def says_goodbye(frame: m.AnyMessage) -> bool:
    """Whether an operator's frame tells that the daemon is going, so that the end of the connection is no loss."""
    if isinstance(frame, m.Snapshot):
        return frame.status.state in _GOING
    return isinstance(frame, m.Event) and frame.kind == "daemon_state" and frame.data.get("state") in _GOING


def _takes_goaway_back(event: m.Event) -> bool:
    """Whether an operator has undrained the daemon, so that the end of the connection would be a loss again."""
    return event.kind == "daemon_state" and event.data.get("state") == "ready"


class Multiplexer:
    """The calls of one connection to the socket at `path`."""

    def __init__(self, kind: SocketKind, path: str) -> None:
        self.connection = ClientConnection(kind)
        self.path = path
        self.goaway: m.Goaway | None = None
        self.loss: str | None = None  # why the connection is of no more use
        self._fault: type[VestalError] = ConnectionLost
        self._cause: BaseException | None = None
        self._complaint: WireError | None = None  # the last frames held an error about the connection itself
        self._calls: dict[int, Call] = {}
        self._pings: dict[int, Call] = {}
        self._ids: Iterator[int] = count(1)

    @property
    def welcome(self) -> m.Welcome:
        """What the daemon answered to the hello."""
        welcome = self.connection.welcome
        assert welcome is not None, "the shells hand out no connection before its handshake"
        return welcome

    def next_id(self) -> int:
        """An id no call on this connection has had; safe from any thread."""
        return next(self._ids)

    def hello(self, hello: m.Hello) -> Call:
        """Queue the hello; its call is answered by the welcome or an error."""
        self.connection.hello(
            versions=hello.versions, client=hello.client, features=hello.features, require=hello.require
        )
        call = self._calls[_GREETING] = Call(_GREETING, m.Hello)
        return call

    def open(self, message: m.AnyMessage) -> Call:
        """Queue a request or a ping. Raises the loss, `LocalProtocolError` or `FrameTooLarge`."""
        if self.loss is not None:
            raise self.lost(None)
        self.connection.send(message)
        if isinstance(message, m.Ping):
            call = self._pings[message.nonce] = Call(message.nonce, m.Ping)
        else:
            id = message.id  # type: ignore[union-attr]  # what the connection takes as a request has an id
            assert id is not None
            call = self._calls[id] = Call(id, type(message))
        return call

    def cancel(self, call: Call) -> None:
        """Queue a cancel, if the call can be cancelled and has not ended. Idempotent."""
        if issubclass(call.opens, _CANCELLABLE) and call.id in self.connection.requests and self.loss is None:
            self.connection.send(m.Cancel(id=call.id))

    def abandon(self, call: Call) -> None:
        """Cancel, and drop whatever still comes: nobody will take it."""
        if not call.ended:
            self.cancel(call)
        self._calls.pop(call.id, None) if call.opens is not m.Ping else self._pings.pop(call.id, None)
        call.ended = True
        call.frames = []

    def receive(self, data: bytes | bytearray | memoryview) -> list[Call]:
        """Sort the frames in `data`; gives the calls that got some. A broken rule ends the connection."""
        try:
            frames = self.connection.receive(data)
        except ProtocolError as error:
            return self.lose(error.message, fault=RemoteProtocolError, cause=error)
        touched: list[Call] = []
        if frames:
            self._complaint = None
        call, last = None, _GREETING
        for frame in frames:
            if isinstance(frame, _PIECES):  # the hot path: mostly runs of one id
                if frame.id != last:
                    last = frame.id
                    if (call := self._calls.get(last)) is not None:
                        touched.append(call)
                if call is not None:
                    call.frames.append(frame)
            elif (other := self._route(frame)) is not None:
                other.frames.append(frame)
                touched.append(other)
        self._forget_ended(touched)
        return touched

    def _route(self, frame: m.AnyMessage) -> Call | None:
        """The call a frame belongs to; what concerns the connection is noted here."""
        if isinstance(frame, m.Pong):
            return self._pings.get(frame.nonce)
        if isinstance(frame, m.Goaway):
            self.goaway = frame
            return None
        if isinstance(frame, m.Event) and _takes_goaway_back(frame):
            self.goaway = None
        if isinstance(frame, (m.Welcome, m.Error)) and _GREETING in self._calls:
            return self._calls[_GREETING]
        id: int | None = getattr(frame, "id", None)
        if id is None and isinstance(frame, m.Error):
            self._complaint = exception_of(frame)
        return None if id is None else self._calls.get(id)

    def _forget_ended(self, touched: list[Call]) -> None:
        in_flight = self.connection.requests
        for call in touched:
            if call.id not in in_flight or call.opens is m.Ping:
                call.ended = True
                (self._pings if call.opens is m.Ping else self._calls).pop(call.id, None)

    def eof(self, error: OSError | None = None) -> list[Call]:
        """The daemon closed the connection, or it broke; gives the calls that lose by it."""
        if self._complaint is not None:
            complaint = self._complaint
            return self.lose(f"vestald closed it with {complaint.code}: {complaint.message}", cause=complaint)
        how = "vestald closed it" if error is None else f"it broke: {error.strerror or error}"
        if self.goaway is not None:
            how += f" after goaway: {self.goaway.reason}"
        return self.lose(how, cause=error)

    def lose(
        self, why: str, *, fault: type[VestalError] = ConnectionLost, cause: BaseException | None = None
    ) -> list[Call]:
        """The connection is of no more use. Idempotent; gives the calls that were in flight."""
        if self.loss is None:
            during = "" if self.connection.welcome else " during the handshake"
            self.loss = f"the connection to {self.path} was lost{during}: {why}{self._outstanding()}"
            self._fault, self._cause = fault, cause
        self.connection.receive_eof()
        calls = [*self._calls.values(), *self._pings.values()]
        self._calls.clear()
        self._pings.clear()
        return calls

    def _outstanding(self) -> str:
        states = {id: f" ({state.value})" for id, state in self.connection.requests.items()}
        names = [f"{call.name}{states.get(call.id, '')}" for call in self._calls.values() if call.id != _GREETING]
        return f"; outstanding: {', '.join(names)}" if names else ""

    def lost(self, call: Call | None) -> VestalError:
        """A new exception that tells the loss, for each call its own: threads must not share a traceback."""
        text = self.loss or f"{call.name if call else 'the connection'} has ended"
        hint = "requests are not repeated for you: send it again if that is safe"
        error = self._fault(text, hint=hint if issubclass(self._fault, ConnectionLost) else None)
        error.__cause__ = self._cause
        return error

    @property
    def open_for_requests(self) -> bool:
        """Whether another request may be sent."""
        return self.loss is None and self.connection.state is ConnectionState.OPEN

    @property
    def summary(self) -> str:
        """For people: how the connection is, and how much is in flight on it."""
        state = "lost" if self.loss is not None else f"{self.connection.state.value} v{self.connection.version}"
        return f"{state} calls={len(self._calls)} pings={len(self._pings)}"

    def __repr__(self) -> str:
        return f"<Multiplexer {self.path} {self.summary}>"
