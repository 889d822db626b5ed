"""One connection's shell: the transport, the sans-I/O engine, the deadlines and the outbox.

Reading never pauses: that is how a disconnect is noticed while an answer runs. Writing is bounded: whoever
produces output asks `congested` and waits for `room`, so a client that does not read stops its own producers
and nobody else's. All frames made in one turn of the event loop leave in one write.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from functools import partial
from typing import Any, Protocol, cast

from vestal import messages as m
from vestal.connection import ServerConnection, SocketKind
from vestal.errors import DeadlineExceeded, LocalProtocolError, SlowConsumer, WireError
from vestal.negotiation import Offer
from vestal.state import ConnectionState
from vestald.entrance.peer import Peer, peer_of
from vestald.serving.outbox import Outbox

__all__ = ["Host", "Session"]

# Bytes of frames made but not handed to the transport, past which a producer yields to the event loop: about
# two thousand tokens, two milliseconds of work.
_TURN = 64 * 1024
# Bytes the transport may hold before producers wait for the client to read.
_HIGH_WATER = 256 * 1024
# Messages a client may send while it leaves its answers unread; each may be answered by a frame that nothing bounds.
_UNREAD_ALLOWANCE = 1024
# Seconds between the last frame of a refused connection and its abort, should the client not read it.
_LAST_WORDS = 1.0


class Host(Protocol):
    """What a session needs of the daemon around it."""

    handshake_timeout: float
    write_timeout: float

    @property
    def patient(self) -> bool:
        """Whether a connection that is turned away may stay until it has read why."""
        ...

    def offer(self, kind: SocketKind, session: str) -> Offer: ...
    def opened(self, session: Session) -> None:
        """Raises the `WireError` that turns it away."""

    def greeted(self, session: Session) -> None: ...
    def closed(self, session: Session) -> None: ...
    def refused(self, session: Session, error: WireError) -> None: ...
    def paused(self) -> None: ...


class Session(asyncio.Protocol):
    """The base of the three sockets' sessions; a subclass says what to do with a message in `handle`."""

    kind: SocketKind

    def __init__(self, host: Host) -> None:
        self.host = host
        self.session_id = secrets.token_hex(8)
        self.peer = Peer(pid=0, uid=-1, gid=-1)
        self.conn = ServerConnection(self.kind, partial(host.offer, self.kind, self.session_id))
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.TimerHandle | None = None
        self._abort: asyncio.TimerHandle | None = None
        self._flushing = False
        self._room: asyncio.Future[None] | None = None  # set while the transport is full
        self._unread = 0
        self.received = self.sent = 0  # bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self.outbox = Outbox(self)
        self._gone = asyncio.Event()

    # --- what subclasses use ----------------------------------------------------------------------------------

    def handle(self, message: m.AnyMessage) -> None:
        """Act on one message of an open connection. Must not block."""
        raise NotImplementedError  # abstract; ABC's metaclass clashes with asyncio.Protocol's slots

    @property
    def client(self) -> str:
        """What the client calls itself."""
        return self.conn.client

    @property
    def alive(self) -> bool:
        """Whether a frame sent now can still reach the client."""
        return not self._gone.is_set() and self.conn.state is ConnectionState.OPEN

    @property
    def congested(self) -> bool:
        """Whether a producer has to wait for `room` before it makes more."""
        return self._room is not None or self.conn.pending >= _TURN

    @property
    def buffered(self) -> int:
        """Bytes that are made and not yet with the client."""
        held = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return held + self.conn.pending

    def send(self, message: m.AnyMessage) -> None:
        """Queue a frame; it leaves at the end of this turn of the event loop. After the last word it is dropped."""
        try:
            self.conn.send(message)
        except LocalProtocolError:
            if self.conn.over:  # the client broke the framing, or left, since this was asked for
                return
            raise
        if not self._flushing:
            self._flush_soon()

    async def room(self) -> None:
        """Return when more may be sent. Raises `SlowConsumer` when the client reads nothing for too long."""
        self._flush()
        if self._room is None:
            await asyncio.sleep(0)  # the turn is used up; let the others have theirs
            return
        try:
            async with asyncio.timeout(self.host.write_timeout):
                await asyncio.shield(self._room)
        except TimeoutError:
            raise SlowConsumer(
                f"the client read nothing for {self.host.write_timeout:g} s with {self.buffered} bytes waiting for it",
                hint="read faster, or ask for less at once",
                details={
                    "waiting_bytes": self.buffered,
                    "write_timeout_ms": round(1000 * self.host.write_timeout),
                },
            ) from None

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a request's coroutine under this session, which awaits it before it is `closed`."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def disconnected(self) -> None:
        """The client is gone, or will hear no more; end its requests. Idempotent."""

    def goaway(self, reason: str, deadline_ms: int) -> None:
        """Tell the client that the daemon drains."""
        if self.alive:
            self.send(m.Goaway(reason=reason, deadline_ms=deadline_ms))

    async def aclose(self, patience: float = _LAST_WORDS) -> None:
        """Flush, close, and wait for the session's tasks; the client has `patience` seconds to read. Idempotent."""
        self._hang_up(patience)
        await self._gone.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- the transport's side ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.peer = peer_of(transport.get_extra_info("socket"))
        try:
            self.host.opened(self)
        except WireError as error:
            self._turn_away(error)
        else:
            self._handshake = self._loop.call_later(self.host.handshake_timeout, self._handshake_expired)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        received = self.conn.receive(data)
        for item in received:
            if isinstance(item, WireError):
                self.host.refused(self, item)
            elif isinstance(item, m.Hello):
                self._greeted()
            elif isinstance(item, m.Ping):
                self.send(m.Pong(nonce=item.nonce))
            else:
                self.handle(item)
        self._check_unread(len(received))
        if self.conn.pending:
            self._flush_soon()
        if self.conn.state is ConnectionState.CLOSING:
            self._hang_up()

    def eof_received(self) -> bool:
        if (fault := self.conn.receive_eof()) is not None:
            self.host.refused(self, fault)
        self._hang_up()  # a client that stops talking has left
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._handshake, self._abort):
            if timer is not None:
                timer.cancel()
        self._handshake = self._abort = None  # they lead back here, and only the collector would end that
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self.conn.state is not ConnectionState.CLOSED:
            self.conn.receive_eof()
        self._gone.set()
        self.disconnected()
        self.host.closed(self)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()
        self._unread = 0
        self.host.paused()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # --- inside -----------------------------------------------------------------------------------------------

    def _greeted(self) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
        self.host.greeted(self)

    def _handshake_expired(self) -> None:
        error = DeadlineExceeded(
            f"no hello within {self.host.handshake_timeout:g} s of connecting",
            hint="send a hello first; the daemon closes silent connections",
            details={"handshake_timeout_ms": round(1000 * self.host.handshake_timeout)},
        )
        self.host.refused(self, self.conn.refuse(error))
        self._hang_up()

    def _turn_away(self, error: WireError) -> None:
        """Say why, and wait for its hello: one who finds the connection closed under it may not read at all."""
        self.host.refused(self, self.conn.refuse(error))
        if not self.host.patient:
            self._hang_up()
            return
        self.conn.close()
        self._flush()
        self._handshake = self._loop.call_later(_LAST_WORDS, self._hang_up)

    def _check_unread(self, messages: int) -> None:
        if self._room is None:
            return
        self._unread += messages
        if self._unread > _UNREAD_ALLOWANCE and self.conn.state is ConnectionState.OPEN:
            error = SlowConsumer(
                f"{self._unread} messages came while {self.buffered} bytes of answers wait to be read",
                hint="read the answers before asking for more",
            )
            self.host.refused(self, self.conn.refuse(error))
            self.conn.close()

    def _hang_up(self, patience: float = _LAST_WORDS) -> None:
        """Say what is queued and close. Nothing that still runs could be answered, so it ends."""
        self.conn.close()
        self._flush()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            self._abort = self._loop.call_later(patience, self._transport.abort)
            self.disconnected()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.conn.pending and self._transport is not None and not self._gone.is_set():
            self.sent += self.conn.pending
            self._transport.write(self.conn.data_to_send())

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._loop.call_exception_handler(
                {"message": f"a request of {self!r} ended in a fault", "exception": fault, "task": task}
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} uid={self.peer.uid} pid={self.peer.pid} {self.conn!r}>"
