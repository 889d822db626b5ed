"""One blocking connection that several threads share, without a thread of its own.

Leader and followers. A thread that needs a frame and finds none becomes the reader, unless another already is:
it waits for bytes without the lock, sorts them to their calls under it, and goes on until its own call has
something. The others wait to be told. A reader that leaves tells a follower to go on, and a follower that was told
and leaves tells the next: as long as any thread waits, one of them reads or is about to.

Writers. Frames are queued under the lock; the first writer sends until nothing is queued, and a second one
leaves its frame to it. A writer whose frame does not fit the kernel's buffer reads while it waits for room: the
daemon may be waiting for this side to read before it reads on.

Interrupts. `KeyboardInterrupt` while waiting for bytes takes none of them, and the link stays whole. Between the
kernel's buffer and a call's frames, or in the middle of writing, nobody can say how much went: the link is lost
then, and every call learns it. An interrupt can strike at any function call, in a `finally` too; what other
threads depend on is therefore done again if it was interrupted.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic

from vestal import messages as m
from vestal.connection import SocketKind
from vestal.errors import LocalProtocolError
from vestal.multiplex import Call, Multiplexer, answer_of

__all__ = ["Link", "connect_socket"]

_READ_SIZE = 256 * 1024


def connect_socket(path: str, timeout: float) -> socket.socket:
    """A blocking socket connected to `path`. Raises `OSError`; `BlockingIOError` if the backlog stays full."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # settimeout() would not do: a non-blocking connect(2) to a full backlog fails at once (EAGAIN) instead of
        # waiting, and there is no event to wait for. connect(2) itself honours SO_SNDTIMEO (unix(7), socket(7)).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(max(timeout, 0.001)))  # 0 is "for ever"
        sock.connect(path)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0))
    except BaseException:
        sock.close()
        raise
    return sock


def _timeval(seconds: float) -> bytes:
    whole, rest = divmod(seconds, 1)
    return struct.pack("@ll", int(whole), int(rest * 1_000_000))


class Link:
    """A connected socket and the calls on it. Every method may be called from any thread."""

    def __init__(self, sock: socket.socket, kind: SocketKind, path: str) -> None:
        self.mux = Multiplexer(kind, path)
        self._sock = sock
        self._lock = threading.RLock()  # never entered twice: it is the kind that knows who is in it
        self._reader: int | None = None  # the ident of the thread that reads
        self._writing = False
        self._followers: dict[Call, threading.Lock] = {}  # each waits for its lock, which whoever tells it releases
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)

    # --- calls ----------------------------------------------------------------------------------------------------

    def greet(self, hello: m.Hello, deadline: float) -> m.Welcome:
        """Shake hands. Raises the daemon's error, the loss, or `TimeoutError` at `deadline`."""
        with self._lock:
            call = self.mux.hello(hello)
        self._flush()
        return answer_of(self.wait(call, deadline), m.Welcome)

    def open(self, message: m.AnyMessage) -> Call:
        """Send a request or a ping. Raises the loss, `LocalProtocolError` or `FrameTooLarge`."""
        call: Call | None = None
        try:
            with self._lock:
                call = self.mux.open(message)
            self._flush()
        except BaseException:
            if call is not None:
                self.abandon(call)
            raise
        return call

    def wait(self, call: Call, deadline: float | None = None) -> list[m.AnyMessage]:
        """All frames of `call` that are there, at least one; blocks until then.

        Raises the loss of the connection, or `TimeoutError` at `deadline` (`time.monotonic()`).
        """
        frames: list[m.AnyMessage] = []
        claimed = False
        try:
            with self._lock:
                if call.waited:
                    raise LocalProtocolError(f"another thread already waits for {call.name}; iterate it in one thread")
                claimed = call.waited = True
            while not call.frames:
                if call.ended or self.mux.loss is not None:
                    raise self.mux.lost(call)
                self._read_or_follow(call, deadline)
            with self._lock:
                frames, call.frames = call.frames, []
            return frames
        except BaseException:
            call.frames[:0] = frames  # what an interrupted thread took and cannot give
            self._step_down(call)  # it may just have been told to read, or an interrupt kept it from doing this
            raise
        finally:
            if claimed:
                call.waited = False

    def cancel(self, call: Call) -> None:
        """Ask the daemon to end `call`; waits for no reader. No effect on a call that has ended."""
        if not call.ended:
            self._soon(self.mux.cancel, call)

    def abandon(self, call: Call) -> None:
        """Cancel `call` and forget it. No effect on a call that has ended."""
        if not call.ended:
            self._soon(self._forget, call)

    def _forget(self, call: Call) -> None:
        self.mux.abandon(call)
        self._tell([call])

    def _soon(self, act: Callable[[Call], None], call: Call) -> None:
        """Do `act` under the lock, and send what it queued; in a thread of its own where this one is in the lock.

        That is so in a signal handler or a finaliser that has struck amid a change of the state.
        """
        if not self._lock._is_owned():  # type: ignore[attr-defined]  # what threading.Condition asks a lock, too
            self._act(act, call)
            return
        import _thread  # not threading.Thread: its start() takes locks that the code below may hold

        with suppress(RuntimeError):  # at the interpreter's end there are no new threads, and the socket goes too
            _thread.start_new_thread(self._act, (act, call))

    def _act(self, act: Callable[[Call], None], call: Call) -> None:
        with self._lock:
            act(call)
        self._flush()

    def refresh(self) -> bool:
        """Take what has already come, without waiting; gives whether another request may be sent."""
        reads = False
        try:
            with self._lock:
                reads = self._reader is None and self.mux.loss is None
                if reads:
                    self._reader = threading.get_ident()
            while reads and self.mux.loss is None and self._readable.poll(0):
                self._take()
        finally:
            if reads:
                try:
                    self._step_down()
                except BaseException:  # an interrupt: left undone, other threads would wait for ever
                    self._step_down()
                    raise
        return self.mux.open_for_requests

    def close(self) -> None:
        """End the connection; calls in flight lose it. Idempotent."""
        self._lose("this client closed it")

    # --- reading --------------------------------------------------------------------------------------------------

    def _read_or_follow(self, call: Call, deadline: float | None) -> None:
        """Read until `call` has news; or, where another thread reads, wait until that tells of some or stops."""
        told: threading.Lock | None = None
        waits_on = False
        try:
            with self._lock:
                if call.frames or call.ended or self.mux.loss is not None:
                    return
                if self._reader is None:
                    self._reader = threading.get_ident()
                else:
                    told = self._followers[call] = _locked()
            if told is not None:
                self._follow(told, deadline)
                waits_on = True
            else:
                while not (call.frames or call.ended or self.mux.loss):
                    self._read(deadline)
        finally:
            self._step_down(call, waits_on=waits_on)

    def _read(self, deadline: float | None) -> None:
        self._flush()  # what an interrupted writer left
        if not self._readable.poll(_milliseconds_to(deadline)):
            raise TimeoutError
        self._take()

    def _follow(self, told: threading.Lock, deadline: float | None) -> None:
        # Not a Condition: an interrupt while that takes its lock back leaves the `with` block without it.
        if not told.acquire(timeout=-1 if deadline is None else max(deadline - monotonic(), 0)):
            raise TimeoutError

    def _take(self) -> None:
        """Sort the bytes that are there. Only the reader calls this, when `poll` has said there are some."""
        whole = False
        try:
            fault, size = None, 0
            try:
                size = self._sock.recv_into(self._buffer)
            except OSError as error:
                fault = error
            with self._lock:
                self._tell(self.mux.receive(self._buffer[:size]) if size else self.mux.eof(fault))
            whole = True
        finally:
            if not whole:
                try:
                    self._lose("interrupted in the middle of reading")
                except BaseException:  # another interrupt: the calls must not take what has a hole in it
                    self._lose("interrupted in the middle of reading")
                    raise

    def _tell(self, calls: Iterable[Call]) -> None:
        for call in calls:
            told = self._followers.get(call)
            if told is not None and told.locked():  # whoever tells holds the lock, so this is said once
                told.release()

    def _step_down(self, call: Call | None = None, *, waits_on: bool = False) -> None:
        """Neither read nor follow any more, if this thread did, and see to it that some thread reads.

        A follower that was told and still has nothing `waits_on`: it is the one that will read.
        """
        with self._lock:
            if call is not None:
                self._followers.pop(call, None)
                waits_on = waits_on and not call.frames and not call.ended
            if self._reader == threading.get_ident():
                self._reader = None
            if self._reader is None and not waits_on:
                self._tell(list(self._followers)[:1])  # one that was told already does this in its turn
            self._close_if_lost()

    # --- writing --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send what is queued, unless another thread is at it: then that one sends ours too."""
        while self._flush_once():
            pass

    def _flush_once(self) -> bool:
        writes = whole = False
        try:
            with self._lock:
                writes = not self._writing and self.mux.connection.pending > 0 and self.mux.loss is None
                if not writes:
                    return False
                self._writing = True
                data = self.mux.connection.data_to_send()
            self._write(memoryview(data))
            whole = True
        finally:
            if writes:
                try:
                    self._wrote(whole=whole)
                except BaseException:  # an interrupt: left undone, nothing would ever be sent
                    self._wrote(whole=whole)
                    raise
        return True

    def _wrote(self, *, whole: bool) -> None:
        if not whole:
            self._lose("interrupted in the middle of writing")
        with self._lock:
            self._writing = False
            self._close_if_lost()

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                view = view[self._sock.send(view, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                self._make_room()
            except (BrokenPipeError, ConnectionResetError):
                # The daemon is gone or going. What it said before is still in the kernel's buffer, the reason
                # among it: the reader gets all of that, then the end, and tells every call.
                return
            except OSError as error:
                self._lose(f"it broke: {error.strerror or error}")
                return

    def _make_room(self) -> None:
        """Wait until the socket takes more, reading meanwhile unless another thread does."""
        reads = False
        try:
            with self._lock:
                reads = self._reader is None
                if reads:
                    self._reader = threading.get_ident()
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT | (select.POLLIN if reads else 0))
            for _, event in poll.poll():
                if reads and event & select.POLLIN:
                    self._take()
        finally:
            if reads:
                self._step_down()

    # --- the end --------------------------------------------------------------------------------------------------

    def _lose(self, why: str) -> None:
        with self._lock:
            self._tell(self.mux.lose(why))
            self._close_if_lost()

    def _close_if_lost(self) -> None:
        """Close the socket when no thread can be inside a system call on it: a file number is soon used again."""
        if self.mux.loss is None or self._sock.fileno() < 0:
            return
        if self._reader is not None or self._writing:
            with suppress(OSError):  # the daemon may have been faster
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes whoever reads or writes
        else:
            self._sock.close()

    def __repr__(self) -> str:
        doing = [word for word, flag in (("read", self._reader is not None), ("written", self._writing)) if flag]
        return f"<Link {self.mux!r} {' '.join(doing) or 'idle'} followers={len(self._followers)}>"


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _milliseconds_to(deadline: float | None) -> float | None:
    """For `poll`: rounded up, so that a wait never ends a little before its deadline."""
    return None if deadline is None else max(deadline - monotonic(), 0) * 1000 + 1
