"""Several threads on one connection: nobody misses a frame, nobody waits for ever, nothing runs for nobody."""

from __future__ import annotations

import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from random import Random
from time import monotonic, sleep
from typing import Any

import pytest

import vestal
from vestal import messages as m
from vestal.link import Link
from vestal.testing import Gone, Peer, Script, ScriptedDaemon, done, echo

WAIT = 20.0


@contextmanager
def talking(*scripts: Script, **daemon: Any) -> Iterator[vestal.Client]:
    """A client of a daemon that plays one script per connection, in order."""
    with ScriptedDaemon(infer=scripts, **daemon) as scripted, vestal.Client(runtime_dir=scripted.runtime_dir) as client:
        yield client


def in_thread(act: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


# --- several at once ----------------------------------------------------------------------------------------------


def test_answers_out_of_order_reach_their_callers() -> None:
    def script(peer: Peer) -> None:
        requests = [peer.expect(m.GenerateV2) for _ in range(3)]
        for request in reversed(requests):
            peer.send(m.Text(request.id, str(request.max_tokens)), done(request.id))

    with talking(script) as client, ThreadPoolExecutor(3) as pool:
        texts = list(pool.map(lambda n: "".join(client.stream("Hi", max_tokens=n)), [1, 2, 3]))
    assert texts == ["1", "2", "3"]


def test_two_streams_can_be_read_in_turn_by_one_thread() -> None:
    def script(peer: Peer) -> None:
        one, two = peer.expect(m.GenerateV2).id, peer.expect(m.GenerateV2).id
        for number in range(3):
            peer.send(m.Text(two, f"b{number}"), m.Text(one, f"a{number}"))
        peer.send(done(two), done(one))

    with talking(script) as client:
        one, two = client.stream("a"), client.stream("b")
        assert list(zip(one, two, strict=True)) == [("a0", "b0"), ("a1", "b1"), ("a2", "b2")]


def test_when_the_reading_thread_has_its_answer_another_reads_on() -> None:
    def script(peer: Peer) -> None:
        first, second = peer.expect(m.GenerateV2), peer.expect(m.GenerateV2)
        peer.send(done(first.id))
        assert answered.wait(WAIT)  # the first caller has gone: nobody reads but the second
        peer.send(done(second.id))

    answered = threading.Event()
    with talking(script) as client:
        first = client.events("a")
        second = client.events("b")
        waiting = in_thread(second.finish)
        first.finish()
        answered.set()
        waiting.join(WAIT)
        assert second.result.stop_reason == "end"


def test_many_threads_share_one_connection() -> None:
    def work(number: int) -> None:
        for turn in range(20):
            text = f"{number} says {turn}"
            assert client.generate(text).text == text
            assert "".join(client.stream(text)) == text
            client.ping()

    with talking(echo) as client:
        with ThreadPoolExecutor(8) as pool:
            for outcome in [pool.submit(work, number) for number in range(8)]:
                outcome.result()
        assert "calls=0 pings=0" in repr(client)


def test_the_first_use_by_many_threads_makes_one_connection() -> None:
    def script(peer: Peer) -> None:
        connections.append(peer)
        echo(peer)

    connections: list[Peer] = []
    with talking(script) as client, ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda n: client.generate(f"n {n}").text, range(8)))
    assert texts == [f"n {n}" for n in range(8)]
    assert len(connections) == 1


def test_a_lost_connection_is_told_to_every_caller() -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.expect(m.GenerateV2)

    def lose(number: int) -> str:
        with pytest.raises(vestal.ConnectionLost) as caught:
            client.generate(str(number))
        return str(caught.value)

    with talking(script) as client, ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lose, range(3)))
    for text in told:
        assert all(f"generate {id} (generate)" in text for id in (1, 2, 3))


def test_one_stream_is_for_one_thread() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        assert refused.wait(WAIT)
        peer.send(m.Text(request.id, "a"), done(request.id))

    def read() -> None:
        try:
            pieces.extend(stream)
        except vestal.LocalProtocolError as error:
            assert "another thread already waits for generate 1" in str(error)
            refused.set()

    refused = threading.Event()
    pieces: list[str] = []
    with talking(script) as client:
        stream = client.stream("a")
        for thread in [in_thread(read), in_thread(read)]:
            thread.join(WAIT)
    assert pieces == ["a"]


def test_closing_the_client_ends_everybodys_wait() -> None:
    def script(peer: Peer) -> None:
        peer.expect(m.GenerateV2)
        peer.expect(m.GenerateV2)
        both.set()
        peer.expect_end()

    def wait(text: str) -> str:
        with pytest.raises(vestal.ConnectionLost) as caught:
            client.generate(text)
        return str(caught.value)

    both = threading.Event()
    with ScriptedDaemon(infer=script) as daemon, ThreadPoolExecutor(2) as pool:
        client = vestal.Client(runtime_dir=daemon.runtime_dir)
        waiting = [pool.submit(wait, text) for text in "ab"]
        assert both.wait(WAIT)
        client.close()
        assert all("this client closed it" in outcome.result(WAIT) for outcome in waiting)


# --- cancelling ---------------------------------------------------------------------------------------------------


def answers_a_cancel(peer: Peer) -> None:
    request = peer.expect(m.GenerateV2)
    peer.send(m.Text(request.id, "a"))
    assert peer.expect(m.Cancel).id == request.id
    peer.send(m.Text(request.id, "b"), done(request.id, "cancelled", output_tokens=2))
    echo(peer)


def test_a_cancel_from_another_thread_ends_the_iteration_with_a_valid_result() -> None:
    with talking(answers_a_cancel) as client:
        stream = client.stream("Hi")
        pieces: list[str] = []
        canceller: threading.Thread | None = None
        for piece in stream:
            pieces.append(piece)
            canceller = in_thread(stream.cancel)
        assert canceller is not None
        canceller.join()
        assert pieces[0] == "a"
        assert (stream.result.stop_reason, stream.result.text) == ("cancelled", "ab")
        stream.cancel()
        assert client.generate("still here").text == "still here"


def test_after_a_cancel_no_piece_is_yielded_and_events_end_with_done() -> None:
    with ScriptedDaemon(infer=[answers_a_cancel, answers_a_cancel]) as daemon:
        for kind, last in (("stream", []), ("events", [done(1, "cancelled", output_tokens=2)])):
            with vestal.Client(runtime_dir=daemon.runtime_dir) as client:
                running = getattr(client, kind)("Hi")
                next(running)
                running.cancel()
                assert list(running) == last
                assert running.result.text == "ab"


def test_a_cancel_that_comes_after_the_end_changes_nothing() -> None:
    with talking(echo) as client:
        stream = client.stream("a b")
        assert list(stream) == ["a", " b"]
        stream.cancel()
        stream.close()
        assert stream.result.stop_reason == "end"
        assert client.generate("x").text == "x"


def test_cancels_that_race_with_the_end_leave_every_stream_with_one_end() -> None:
    def script(peer: Peer) -> None:
        running: set[int] = set()
        try:
            while True:
                message = peer.next()
                if isinstance(message, m.GenerateV2):
                    running.add(message.id)
                    peer.send(*(m.Text(message.id, "a") for _ in range(50)))
                    if message.max_tokens == 1:  # ends by itself; a cancel may come before or after
                        running.remove(message.id)
                        peer.send(done(message.id))
                elif isinstance(message, m.Cancel) and message.id in running:
                    running.remove(message.id)
                    peer.send(done(message.id, "cancelled"))
        finally:
            left.append(running)

    def work(number: int) -> None:
        for turn in range(30):
            stream = client.stream("Hi", max_tokens=1 + (number + turn) % 2)
            canceller = in_thread(stream.cancel)
            pieces = sum(1 for _ in stream)
            canceller.join()
            assert pieces <= 50
            assert stream.result.stop_reason in ("end", "cancelled")

    left: list[set[int]] = []
    with talking(_until_gone(script)) as client, ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(work, number) for number in range(4)]:
            outcome.result()
    assert left == [set()]


def _until_gone(script: Callable[[Peer], None]) -> Callable[[Peer], None]:
    def played(peer: Peer) -> None:
        with suppress(Gone):
            script(peer)

    return played


def abandoned(peer: Peer) -> None:
    """Expects a cancel after the first piece, and serves on: late frames must harm nobody."""
    request = peer.expect(m.GenerateV2)
    peer.send(m.Text(request.id, "a"))
    assert peer.expect(m.Cancel).id == request.id
    peer.send(m.Text(request.id, "late"), done(request.id, "cancelled"))
    echo(peer)


def break_out(client: vestal.Client) -> None:
    for _ in client.stream("Hi"):
        break


def leave_with(client: vestal.Client) -> None:
    with client.events("Hi") as events:
        next(events)


def raise_within(client: vestal.Client) -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in client.stream("Hi"):
            1 / 0  # noqa: B018  # any error of the user's


def never_iterate(client: vestal.Client) -> None:
    client.stream("Hi")


def garbage_cycle(client: vestal.Client) -> None:
    stream = client.stream("Hi")
    stream.itself = stream  # type: ignore[attr-defined]  # the cycle
    del stream
    gc.collect()


@pytest.mark.parametrize("leave", [break_out, leave_with, raise_within, never_iterate, garbage_cycle])
def test_a_stream_that_is_left_is_cancelled(leave: Callable[[vestal.Client], None]) -> None:
    with talking(abandoned) as client:
        leave(client)
        assert client.generate("next one").text == "next one"
        assert "calls=0" in repr(client)


def test_a_stream_can_be_collected_while_its_thread_holds_the_links_lock() -> None:
    def script(peer: Peer) -> None:
        assert peer.expect(m.GenerateV2).id == peer.expect(m.Cancel).id
        cancelled.set()
        echo(peer)

    cancelled = threading.Event()
    with talking(script) as client:
        stream = client.stream("Hi")
        link: Any = client._link
        with link._lock:  # where the collector may strike: any allocation under the lock
            del stream
            assert link.mux._calls  # nothing is changed under the feet of whoever is in the lock
        assert cancelled.wait(WAIT)
        assert client.generate("next one").text == "next one"


def test_a_signal_handler_may_cancel_whatever_it_interrupts() -> None:
    with talking(answers_a_cancel) as client:
        stream = client.stream("Hi")
        assert next(stream) == "a"
        link: Any = client._link
        with link._lock:  # where the signal may strike: any bytecode under the lock
            stream.cancel()
            assert not link.mux.connection.pending  # nothing is changed under the feet of whoever is in the lock
            assert not link._writing
        assert list(stream) == []
        assert stream.result.stop_reason == "cancelled"


def test_closing_a_stream_ends_the_thread_that_waits_on_it() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        peer.send(m.Text(request.id, "a"))
        peer.expect(m.Cancel)
        with suppress(Gone):  # nobody waits for the confirmation but a thread that was reading already
            peer.send(done(request.id, "cancelled"))

    with talking(script) as client:
        stream = client.stream("Hi")
        closer = threading.Thread(target=stream.close)
        for _ in stream:
            closer.start()
        closer.join()
        with pytest.raises(vestal.LocalProtocolError, match="closed before its end"):
            stream.result  # noqa: B018  # reading it is what raises


# --- interrupts, and frames that do not fit the kernel's buffer -------------------------------------------------------


def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds, for what no event tells and is microseconds away."""
    deadline = monotonic() + WAIT
    while not condition():
        assert monotonic() < deadline
        sleep(0)


def interrupt_the_reader(client: vestal.Client) -> None:
    """SIGINT to the main thread, once that is the reader: what it does from there to the bytes takes none."""
    link: Any = client._link
    main = threading.main_thread().ident
    assert main is not None
    until(lambda: link._reader == main)
    signal.pthread_kill(main, signal.SIGINT)


def test_an_interrupt_while_waiting_cancels_the_request_and_the_connection_lives_on() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        interrupt_the_reader(client)
        assert peer.expect(m.Cancel).id == request.id
        peer.send(done(request.id, "cancelled"))
        echo(peer)

    with talking(script) as client:
        client.connect()
        with pytest.raises(KeyboardInterrupt):
            client.generate("Hi")
        assert client.generate("still here").text == "still here"


def test_an_interrupted_stream_can_be_read_on() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        interrupt_the_reader(client)
        assert interrupted.wait(WAIT)
        peer.send(m.Text(request.id, "a"), done(request.id))

    interrupted = threading.Event()
    with talking(script) as client:
        client.connect()
        stream = client.stream("Hi")
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        interrupted.set()
        assert list(stream) == ["a"]


class Interrupting:
    """A socket that is interrupted right after the system call named, when nobody can say how much went."""

    def __init__(self, sock: socket.socket, call: str) -> None:
        self._sock, self._call = sock, call

    def __getattr__(self, name: str) -> Any:
        if name != self._call:
            return getattr(self._sock, name)

        def interrupted(*args: Any) -> None:
            getattr(self._sock, name)(*args)
            raise KeyboardInterrupt

        return interrupted


@pytest.mark.parametrize("call", ["send", "recv_into"])
def test_an_interrupt_amid_bytes_ends_the_connection_and_the_next_call_has_a_new_one(call: str) -> None:
    def first(peer: Peer) -> None:
        peer.expect(m.GenerateV2)
        with suppress(Gone):
            peer.send(done(peer.expect(m.GenerateV2).id))
            peer.expect_end()

    with talking(first, echo) as client:
        client.connect()
        link: Any = client._link
        other = client.stream("a b")
        link._sock = Interrupting(link._sock, call)
        with pytest.raises(KeyboardInterrupt):
            client.generate("Hi")
        with pytest.raises(vestal.ConnectionLost, match="interrupted in the middle of"):
            list(other)
        assert client.generate("still here").text == "still here"


def test_an_interrupted_reader_hands_over_to_another_thread() -> None:
    def script(peer: Peer) -> None:
        first, second = peer.expect(m.GenerateV2), peer.expect(m.GenerateV2)
        until(lambda: link._reader is not None)
        follower = in_thread(lambda: results.append(other.finish()))
        until(lambda: bool(link._followers))
        interrupt_the_reader(client)
        assert peer.expect(m.Cancel).id == second.id
        peer.send(m.Text(first.id, "x"), done(first.id), done(second.id, "cancelled"))
        follower.join(WAIT)

    results: list[vestal.Result] = []
    with ScriptedDaemon(infer=script) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        other = client.stream("a")
        link: Any = client._link
        with pytest.raises(KeyboardInterrupt):
            client.generate("b")
        daemon.settle()
    assert [result.text for result in results] == ["x"]


class StruckOnce:
    """A lock whose holder is interrupted as it lets go, the first time that `moment` has come."""

    def __init__(self, lock: Any, moment: Callable[[], bool]) -> None:
        self._lock, self._moment, self._armed = lock, moment, True

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        strike = self._armed and self._moment()
        self._lock.release()
        if strike:
            self._armed = False
            raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


def test_frames_that_an_interrupted_thread_had_taken_are_there_the_next_time() -> None:
    with talking(echo) as client:
        stream = client.stream("a b c")
        client.ping()  # the pong comes behind the stream's frames
        link: Any = client._link
        call: Any = stream._call
        assert call.frames
        link._lock = StruckOnce(link._lock, lambda: not call.frames)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert list(stream) == ["a", " b", " c"]


def test_what_an_interrupted_writer_left_is_sent_by_whoever_waits() -> None:
    with talking(echo) as client:
        client.connect()
        link: Any = client._link
        call = link.mux.open(m.Ping(nonce=7))
        assert link.wait(call) == [m.Pong(nonce=7)]


class Struck(BaseException):
    """What the signal of the next test raises, wherever it strikes."""


# A signal handler's exception in a finaliser is Python's to swallow, and to warn of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_moment_leave_no_thread_waiting_for_ever() -> None:
    def strike(signum: int, frame: object) -> None:
        if armed:
            armed.clear()
            raise Struck

    def shoot() -> None:
        dice = Random(1)
        while not over.wait(dice.random() * 0.003):
            signal.pthread_kill(main, signal.SIGUSR1)

    def work() -> None:
        while not over.is_set():
            with suppress(vestal.ConnectionLost):  # an interrupt amid bytes costs everybody the connection
                assert client.generate("a b").text == "a b"
                next(client.stream("a b c"))

    def turn(number: int) -> bool:
        """Use the client until it is done or struck; whether it was struck."""
        try:
            armed.append(True)
            with suppress(vestal.ConnectionLost):
                client.generate("x " * (number * 100))
                next(client.stream("a b c"))
            armed.clear()
        except Struck:
            return True
        return False

    armed: list[bool] = []
    over = threading.Event()
    main = threading.main_thread().ident or 0
    before = signal.signal(signal.SIGUSR1, strike)
    with talking(echo) as client:
        threads = [in_thread(act) for act in (work, work, work, shoot)]
        struck = sum(turn(number) for number in range(300))
        armed.clear()
        over.set()
        for thread in threads:
            thread.join(WAIT)
            assert not thread.is_alive(), f"waits for ever: {client!r}"
    signal.signal(signal.SIGUSR1, before)
    assert struck > 10


def test_a_large_request_goes_out_while_the_daemon_waits_for_this_side_to_read() -> None:
    def script(peer: Peer) -> None:
        first = peer.expect(m.GenerateV2)
        asked.set()
        for _ in range(64):  # 4 MiB, which no kernel buffer holds: it goes on only if the client reads
            peer.send(*(m.Text(first.id, "x" * 1000) for _ in range(65)))
        peer.send(done(first.id))
        second = peer.expect(m.GenerateV2)
        peer.send(done(second.id, output_tokens=len(second.attachments[0].data)))

    asked = threading.Event()
    picture = vestal.Attachment("image", "image/png", b"\0" * 8_000_000)
    with talking(script) as client:
        stream = client.stream("first")
        assert asked.wait(WAIT)
        message = vestal.MessageV2("user", [vestal.ImageBlock(0)])
        assert client.generate([message], attachments=[picture]).usage.output_tokens == 8_000_000
        assert len("".join(stream)) == 64 * 65 * 1000


def test_a_wait_ends_at_its_deadline_and_leaves_the_call_in_flight() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        link = Link(ours, "infer", "pair")
        began = monotonic()
        with pytest.raises(TimeoutError):
            link.greet(m.Hello(versions=[1]), began + 0.05)
        assert monotonic() >= began + 0.05
        assert repr(link).startswith("<Link <Multiplexer pair welcome v0 calls=1")
        link.close()
        link.close()
        assert ours.fileno() < 0
