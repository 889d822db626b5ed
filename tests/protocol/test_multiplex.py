"""Frames find their calls, however they are mixed, and a lost connection is told to each call once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal import messages as m
from vestal.codec import encode
from vestal.connection import ServerConnection, SocketKind
from vestal.errors import ConnectionLost, MalformedFrame, QueueFull, RemoteProtocolError
from vestal.framing import frame
from vestal.multiplex import Call, Multiplexer, answer_of
from vestal.negotiation import Offer
from vestal.testing import done
from vestal.values import Message

HELLO = m.Hello(versions=[1], client="test", features=["queue_events"])


def offer() -> Offer:
    limits = m.Limits(frame=2**20, requests_per_connection=8, queue_depth=8, per_caller=8)
    return Offer(server="test", session="s", versions=(1, 2), limits=limits, backends=[])


class Pair:
    """A multiplexer and the daemon's end of its connection, in memory."""

    def __init__(self, kind: SocketKind = "infer") -> None:
        self.mux = Multiplexer(kind, "/run/test.sock")
        self.daemon = ServerConnection(kind, offer)
        self.greeting = self.mux.hello(HELLO)
        self.exchange()

    def exchange(self) -> list[Call]:
        """Carry all bytes to the daemon, and its answers back."""
        self.daemon.receive(self.mux.connection.data_to_send())
        return self.mux.receive(self.daemon.data_to_send())

    def generate(self) -> Call:
        return self.mux.open(m.Generate(id=self.mux.next_id(), messages=[Message("user", "Hi")]))

    def answer(self, *frames: m.AnyMessage) -> list[Call]:
        self.exchange()
        for one in frames:
            self.daemon.send(one)
        return self.exchange()


def test_the_welcome_answers_the_hello() -> None:
    pair = Pair()
    assert pair.greeting.ended
    assert answer_of(pair.greeting.take(), m.Welcome) == pair.mux.welcome
    assert pair.mux.open_for_requests


def test_frames_find_their_calls_in_any_order() -> None:
    pair = Pair()
    one, two = pair.generate(), pair.generate()
    touched = pair.answer(m.Token(two.id, "b"), m.Token(one.id, "a"), m.Token(two.id, "c"), done(two.id))
    assert {call.id for call in touched} == {one.id, two.id}
    assert one.take() == [m.Token(one.id, "a")]
    assert two.take() == [m.Token(two.id, "b"), m.Token(two.id, "c"), done(two.id)]
    assert (one.ended, two.ended) == (False, True)


def test_ids_are_never_used_again() -> None:
    pair = Pair()
    first = pair.generate()
    pair.answer(done(first.id))
    assert pair.generate().id != first.id


def test_pongs_find_their_pings_beside_requests_with_the_same_number() -> None:
    pair = Pair()
    call = pair.generate()
    ping = pair.mux.open(m.Ping(nonce=call.id))
    assert pair.answer(m.Pong(nonce=ping.id)) == [ping]
    assert ping.ended
    assert not call.ended


def test_a_cancel_goes_out_once_per_call_in_flight_and_not_after_its_end() -> None:
    pair = Pair()
    call = pair.generate()
    pair.exchange()
    pair.mux.cancel(call)
    assert pair.daemon.receive(pair.mux.connection.data_to_send()) == [m.Cancel(id=call.id)]
    pair.answer(done(call.id, "cancelled"))
    pair.mux.cancel(call)
    assert not pair.mux.connection.pending


def test_what_cannot_be_cancelled_is_only_forgotten() -> None:
    pair = Pair()
    call = pair.mux.open(m.Count(id=pair.mux.next_id(), messages=[Message("user", "Hi")]))
    pair.exchange()
    pair.mux.abandon(call)
    assert not pair.mux.connection.pending
    assert pair.answer(m.Counted(id=call.id, input_tokens=1)) == []


def test_an_abandoned_call_gets_nothing_more_and_harms_nobody() -> None:
    pair = Pair()
    gone, stays = pair.generate(), pair.generate()
    pair.answer(m.Token(gone.id, "a"))
    pair.mux.abandon(gone)
    pair.mux.abandon(gone)
    touched = pair.answer(m.Token(gone.id, "b"), m.Token(stays.id, "c"), done(gone.id, "cancelled"), done(stays.id))
    assert [call for call in touched if call is gone] == []
    assert (gone.frames, gone.ended, stays.ended) == ([], True, True)
    assert pair.mux.loss is None


def test_goaway_is_noted_and_calls_go_on() -> None:
    pair = Pair()
    call = pair.generate()
    pair.answer(m.Goaway(reason="stop", deadline_ms=100), m.Token(call.id, "a"))
    assert pair.mux.goaway == m.Goaway(reason="stop", deadline_ms=100)
    assert call.take() == [m.Token(call.id, "a")]


def test_a_loss_names_what_was_outstanding_to_each_call() -> None:
    pair = Pair()
    one, two = pair.generate(), pair.generate()
    ping = pair.mux.open(m.Ping(nonce=pair.mux.next_id()))
    pair.answer(m.Token(one.id, "a"))
    assert set(pair.mux.eof()) == {one, two, ping}
    first, second = pair.mux.lost(one), pair.mux.lost(two)
    assert first is not second
    assert isinstance(first, ConnectionLost)
    assert str(first).startswith("the connection to /run/test.sock was lost: vestald closed it")
    assert f"outstanding: generate {one.id} (streaming), generate {two.id} (generate)" in str(first)
    assert pair.mux.eof() == []


def test_after_a_loss_nothing_is_sent() -> None:
    pair = Pair()
    call = pair.generate()
    pair.exchange()
    pair.mux.eof()
    pair.mux.cancel(call)
    assert not pair.mux.connection.pending
    with pytest.raises(ConnectionLost):
        pair.generate()


def test_the_error_before_the_end_is_told_as_its_reason() -> None:
    pair = Pair()
    call = pair.generate()
    pair.exchange()
    pair.daemon.refuse(MalformedFrame("no map"))
    pair.exchange()
    pair.mux.eof()
    loss = pair.mux.lost(call)
    assert "vestald closed it with malformed_frame: no map" in str(loss)
    assert isinstance(loss.__cause__, MalformedFrame)


def test_an_error_long_before_the_end_is_not_its_reason() -> None:
    pair = Pair()
    call = pair.generate()
    pair.exchange()
    pair.daemon.refuse(QueueFull("no id"))
    pair.exchange()
    pair.answer(m.Token(call.id, "a"))
    pair.mux.eof()
    assert "queue_full" not in str(pair.mux.lost(call))


@pytest.mark.parametrize(
    "broken",
    [
        frame(b"\xc1"),
        frame(b"\x90"),
        b"\xff\xff\xff\xff",
        frame(encode(m.Token(99, "x"))),
        frame(encode(m.Text(1, "x"))),
        frame(encode(m.Embed(id=1, input=["x"]))),
    ],
    ids=["no msgpack", "no map", "too large", "unknown id", "of another version", "of the other direction"],
)
def test_a_broken_rule_ends_the_connection_for_every_call(broken: bytes) -> None:
    pair = Pair()
    one, two = pair.generate(), pair.generate()
    pair.exchange()
    assert set(pair.mux.receive(broken)) == {one, two}
    assert isinstance(pair.mux.lost(one), RemoteProtocolError)
    assert not pair.mux.open_for_requests
    assert pair.mux.receive(b"\x00") == []


def test_an_answer_of_another_type_is_the_daemons_fault() -> None:
    with pytest.raises(RemoteProtocolError, match="answered with pong, expected counted"):
        answer_of([m.Pong(nonce=1)], m.Counted)


@given(order=st.lists(st.integers(0, 3), max_size=40), cuts=st.lists(st.integers(0, 4000), max_size=8))
def test_every_frame_reaches_its_call_in_order_however_the_bytes_are_cut(order: list[int], cuts: list[int]) -> None:
    pair = Pair()
    calls = [pair.generate() for _ in range(4)]
    pair.exchange()
    sent: list[list[Any]] = [[] for _ in calls]
    for number, which in enumerate(order):
        token = m.Token(calls[which].id, str(number))
        sent[which].append(token)
        pair.daemon.send(token)
    for which, call in enumerate(calls):
        sent[which].append(done(call.id))
        pair.daemon.send(sent[which][-1])
    data = pair.daemon.data_to_send()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for a, b in pairwise(edges):
        pair.mux.receive(data[a:b])
    assert [call.take() for call in calls] == sent
    assert all(call.ended for call in calls)
