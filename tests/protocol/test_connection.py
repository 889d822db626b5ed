"""Both engines: what each refuses to send, what each makes of bad bytes, and that the two never disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from vectors.parts import BACKENDS, offer
from vestal import connection as module
from vestal import messages as m
from vestal.connection import ClientConnection, ServerConnection, SocketKind
from vestal.errors import (
    CapabilityMissing,
    DuplicateId,
    FrameTooLarge,
    InternalError,
    InvalidRequest,
    LocalProtocolError,
    MalformedFrame,
    NotAuthorized,
    RemoteProtocolError,
    UnknownMessage,
    VersionUnsupported,
    WireError,
)
from vestal.framing import HANDSHAKE_FRAME_LIMIT, MAX_FRAME_LIMIT, PREFIX, frame
from vestal.negotiation import Offer
from vestal.state import REQUEST, ConnectionState, RequestState
from vestal.values import Message, MessageV2, TextBlock, Timings, Usage

GENERATE = m.Generate(id=1, messages=[Message(role="user", content="Hi")])
GENERATE_V2 = m.GenerateV2(id=1, messages=[MessageV2(role="user", content=[TextBlock(text="Hi")])])
TOKEN = m.Token(id=1, text="Hi")
KINDS: tuple[SocketKind, ...] = get_args(SocketKind)


def done(id: int = 1) -> m.Done:
    return m.Done(id=id, stop_reason="end", usage=Usage(), backend="chat", model="m", timings=Timings())


def opened(
    kind: SocketKind = "infer", versions: Iterable[int] = (1,), features: Iterable[str] = (), **server: Any
) -> tuple[ClientConnection, ServerConnection]:
    """Both ends after their handshake."""
    client, daemon = ClientConnection(kind), ServerConnection(kind, offer, **server)
    client.hello(versions=versions, features=features)
    daemon.receive(client.data_to_send())
    client.receive(daemon.data_to_send())
    assert client.state is daemon.state is ConnectionState.OPEN
    return client, daemon


def ask(client: ClientConnection, daemon: ServerConnection, message: m.AnyMessage) -> None:
    client.send(message)
    daemon.receive(client.data_to_send())


def framed(value: object) -> bytes:
    return frame(msgspec.msgpack.encode(value))


def said(connection: ClientConnection | ServerConnection) -> list[dict[str, Any]]:
    """What is queued, decoded without a schema."""
    data, found = connection.data_to_send(), []
    while data:
        (size,) = PREFIX.unpack_from(data)
        found.append(msgspec.msgpack.decode(data[PREFIX.size : PREFIX.size + size]))
        del data[: PREFIX.size + size]
    return found


# --- handshake ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("versions", [[1], [2], [2, 1], [1, 9]])
def test_a_handshake_opens_both_ends_with_the_same_words(kind: SocketKind, versions: list[int]) -> None:
    client, daemon = opened(kind, versions, ["queue_events"])
    assert client.version == daemon.version == max(version for version in versions if version < 3)
    assert client.features == daemon.features == {"queue_events"}
    assert client.welcome is not None
    assert client.welcome.backends == BACKENDS


def test_a_hello_and_what_the_client_sent_right_behind_it_are_read_from_one_chunk() -> None:
    client, daemon = ClientConnection("infer"), ServerConnection("infer", offer)
    client.hello(versions=[2])
    got = daemon.receive(bytes(client.data_to_send()) + framed(GENERATE_V2) + framed({"type": "summon"}))
    assert [type(item) for item in got] == [m.Hello, m.GenerateV2, UnknownMessage]
    assert daemon.requests == {1: RequestState.GENERATE}
    assert [frame["type"] for frame in said(daemon)] == ["welcome", "error"]


def test_a_frame_behind_the_hello_may_be_larger_than_the_hello_itself() -> None:
    daemon = ServerConnection("infer", offer)
    large = m.Generate(id=1, messages=[Message(role="user", content="x" * HANDSHAKE_FRAME_LIMIT)])
    got = daemon.receive(framed(m.Hello(versions=[1])) + framed(large))
    assert [type(item) for item in got] == [m.Hello, m.Generate]


def test_the_offer_is_asked_for_when_the_hello_comes() -> None:
    asked: list[int] = []

    def late() -> Offer:
        asked.append(1)
        return offer(versions=(1,))

    daemon = ServerConnection("infer", late)
    assert not asked
    daemon.receive(framed(m.Hello(versions=[2, 1])))
    assert asked
    assert daemon.version == 1


@pytest.mark.parametrize(
    ("hello", "fault"),
    [
        (m.Hello(versions=[7]), VersionUnsupported),
        (m.Hello(versions=[1], require=["vision"]), CapabilityMissing),
    ],
)
def test_a_hello_that_cannot_be_met_is_answered_and_ends_the_connection(hello: m.Hello, fault: type[WireError]) -> None:
    daemon, client = ServerConnection("infer", offer), ClientConnection("infer")
    client.hello(versions=hello.versions, require=hello.require)
    assert [type(item) for item in daemon.receive(client.data_to_send())] == [fault]
    assert daemon.state is ConnectionState.CLOSING
    (answer,) = client.receive(daemon.data_to_send())
    assert isinstance(answer, m.Error)
    assert answer.code == fault.code
    assert client.state is ConnectionState.CLOSING
    assert daemon.receive(framed(m.Hello(versions=[1]))) == []


def test_an_error_in_answer_to_a_hello_always_ends_the_connection() -> None:
    def closed() -> Offer:
        raise NotAuthorized("uid 1001 may not speak here")

    daemon = ServerConnection("admin", closed)
    hello = framed(m.Hello(versions=[1]))
    assert [type(item) for item in daemon.receive(hello + hello)] == [NotAuthorized]
    assert daemon.state is ConnectionState.CLOSING


def test_after_a_bad_hello_a_better_one_is_taken() -> None:
    daemon = ServerConnection("infer", offer)
    got = daemon.receive(framed({"type": "hello", "versions": []}) + framed(GENERATE) + framed(m.Hello(versions=[1])))
    assert [type(item) for item in got] == [InvalidRequest, UnknownMessage, m.Hello]
    assert daemon.state is ConnectionState.OPEN
    assert not daemon.requests


def test_a_hello_is_taken_once() -> None:
    client, daemon = opened()
    with pytest.raises(LocalProtocolError, match="cannot send hello: the connection is open"):
        client.hello()
    assert [type(item) for item in daemon.receive(framed(m.Hello(versions=[1])))] == [UnknownMessage]
    assert daemon.state is ConnectionState.OPEN


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"version": 2}, "chose version 2"),
        ({"version": 7}, "chose version 7"),
        ({"features": ["queue_events"]}, "turned on"),
    ],
)
def test_a_welcome_the_client_did_not_ask_for_is_refused(change: dict[str, Any], fault: str) -> None:
    _, daemon = ClientConnection("infer"), ServerConnection("infer", offer)
    daemon.receive(framed(m.Hello(versions=[1])))
    (welcome,) = said(daemon)
    client = ClientConnection("infer")
    client.hello(versions=[1])
    with pytest.raises(RemoteProtocolError, match=fault):
        client.receive(framed(welcome | change))
    assert client.state is ConnectionState.CLOSING


def test_a_welcome_before_the_hello_is_the_daemons_fault() -> None:
    daemon = ServerConnection("infer", offer)
    daemon.receive(framed(m.Hello(versions=[1])))
    with pytest.raises(RemoteProtocolError, match="before the hello"):
        ClientConnection("infer").receive(daemon.data_to_send())


def test_a_welcome_too_large_for_the_handshake_is_not_sent() -> None:
    many = msgspec.structs.replace(offer(), backends=BACKENDS * 200)
    daemon = ServerConnection("infer", lambda: many)
    assert [type(item) for item in daemon.receive(framed(m.Hello(versions=[1])))] == [FrameTooLarge]
    (answer,) = said(daemon)
    assert answer["code"] == "frame_too_large"
    assert daemon.state is ConnectionState.CLOSING


# --- limits ---------------------------------------------------------------------------------------------------


def test_before_the_welcome_a_frame_may_be_64_kib_and_no_more() -> None:
    daemon = ServerConnection("infer", offer)
    padding = HANDSHAKE_FRAME_LIMIT - len(msgspec.msgpack.encode({"type": "hello", "versions": [1], "later": ""})) - 2
    exactly = framed({"type": "hello", "versions": [1], "later": "x" * padding})
    assert len(exactly) == HANDSHAKE_FRAME_LIMIT + PREFIX.size
    assert [type(item) for item in daemon.receive(exactly)] == [m.Hello]
    assert [type(item) for item in ServerConnection("infer", offer).receive(PREFIX.pack(65537))] == [FrameTooLarge]


def test_after_the_welcome_the_limit_is_64_mib() -> None:
    _, daemon = opened()
    assert daemon.receive(PREFIX.pack(MAX_FRAME_LIMIT)) == []
    _, daemon = opened()
    assert [type(item) for item in daemon.receive(PREFIX.pack(MAX_FRAME_LIMIT + 1))] == [FrameTooLarge]
    assert daemon.state is ConnectionState.CLOSING


def test_a_daemon_may_be_configured_to_take_less_and_a_client_keeps_to_what_it_was_told() -> None:
    told = msgspec.structs.replace(offer(), limits=msgspec.structs.replace(offer().limits, frame=1000))
    client, daemon = ClientConnection("infer"), ServerConnection("infer", lambda: told)
    client.hello(versions=[1])
    daemon.receive(client.data_to_send())
    client.receive(daemon.data_to_send())
    large = m.Generate(id=1, messages=[Message(role="user", content="x" * 1000)])
    with pytest.raises(FrameTooLarge, match="the limit is 1000"):
        client.send(large)
    assert client.pending == 0
    assert not client.requests
    assert [type(item) for item in daemon.receive(framed(large))] == [FrameTooLarge]


def test_a_hello_too_large_to_send_can_be_said_again_shorter() -> None:
    client = ClientConnection("infer")
    with pytest.raises(FrameTooLarge):
        client.hello(client="x" * HANDSHAKE_FRAME_LIMIT)
    assert (client.pending, client.state) == (0, ConnectionState.HELLO)
    client.hello(client="x")
    assert client.state is ConnectionState.WELCOME


# --- what is illegal to send ----------------------------------------------------------------------------------


def refuses(connection: ClientConnection | ServerConnection, message: m.AnyMessage) -> None:
    """`message` cannot be sent, and trying changes nothing."""
    before = (connection.pending, dict(connection.requests), connection.state)
    with pytest.raises(LocalProtocolError):
        connection.send(message)
    assert (connection.pending, dict(connection.requests), connection.state) == before


def example_of(cls: Any) -> m.AnyMessage:
    """A message of the type; its values do not matter here."""
    if cls in (m.Generate, m.GenerateV2):
        return GENERATE if cls is m.Generate else GENERATE_V2
    made: dict[str, Any] = dict.fromkeys(cls.__struct_fields__)
    message: m.AnyMessage = cls(**{**made, "id": 1}) if "id" in made else cls(**made)
    return message


BY_DIRECTION: dict[tuple[SocketKind, int, bool], set[type]] = {
    ("infer", 1, True): set(m.InferRequestV1.__args__),
    ("infer", 2, True): set(m.InferRequestV2.__args__),
    ("infer", 1, False): {m.Token, m.Done, m.Counted, m.Pong, m.Error, m.Goaway},
    ("infer", 2, False): {m.Text, m.ThinkingDelta, m.ToolUse, m.Done, m.Counted, m.Pong, m.Error, m.Goaway},
    **{("embed", version, True): set(m.EmbedRequest.__args__) for version in (1, 2)},
    **{("embed", version, False): set(m.EmbedReply.__args__) for version in (1, 2)},
    **{("admin", version, True): set(m.AdminRequest.__args__) for version in (1, 2)},
    **{("admin", version, False): set(m.AdminReply.__args__) for version in (1, 2)},
}


@pytest.mark.parametrize(("kind", "version", "by_client"), BY_DIRECTION)
def test_a_message_of_another_socket_version_or_direction_cannot_be_sent(
    kind: SocketKind, version: int, by_client: bool
) -> None:
    client, daemon = opened(kind, [version])
    sender = client if by_client else daemon
    for cls in set(m.AnyMessage.__args__) - BY_DIRECTION[kind, version, by_client]:
        refuses(sender, example_of(cls))


@pytest.mark.parametrize(("kind", "version", "by_client"), BY_DIRECTION)
def test_every_message_of_the_socket_version_and_direction_can_be_sent_at_its_time(
    kind: SocketKind, version: int, by_client: bool
) -> None:
    for cls in BY_DIRECTION[kind, version, by_client]:
        client, daemon = opened(kind, [version])
        message = example_of(cls)
        if by_client:
            client.send(message)
            assert client.pending
        else:
            daemon._requests[1] = next(
                (here for (here, frame) in REQUEST if frame == message.__struct_config__.tag), RequestState.GENERATE
            )
            daemon.send(message)
            assert daemon.pending


@pytest.mark.parametrize("frame", [m.Queued(id=1, position=1, depth=1), m.Started(id=1, backend="b", model="m")])
def test_a_feature_that_was_not_agreed_on_is_never_sent(frame: m.AnyMessage) -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    refuses(daemon, frame)
    client, daemon = opened(features=["queue_events"])
    ask(client, daemon, GENERATE)
    daemon.send(frame)
    assert client.receive(daemon.data_to_send()) == [frame]


def test_nothing_is_sent_before_the_handshake_is_over() -> None:
    client, daemon = ClientConnection("infer"), ServerConnection("infer", offer)
    refuses(client, GENERATE)
    refuses(daemon, TOKEN)
    client.hello()
    refuses(client, GENERATE)


def test_nothing_is_sent_after_the_last_word() -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    daemon.close()
    daemon.close()
    refuses(daemon, TOKEN)
    refuses(daemon, m.Pong(nonce=1))
    assert daemon.refuse(InternalError("late")).code == "internal"
    assert daemon.pending == 0
    client.receive_eof()
    refuses(client, m.Ping(nonce=1))


def test_an_id_in_flight_cannot_be_used_again_by_either_side() -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    refuses(client, GENERATE)
    refuses(client, m.Count(id=1, messages=GENERATE.messages))
    (fault,) = daemon.receive(framed(GENERATE))
    assert isinstance(fault, DuplicateId)
    (answer,) = said(daemon)
    assert "id" not in answer
    assert answer["details"] == {"id": 1}
    assert daemon.requests == {1: RequestState.GENERATE}


def test_there_is_no_frame_for_a_request_that_is_not_in_flight() -> None:
    client, daemon = opened()
    for message in (TOKEN, done(), m.Error(id=1, code="internal", message="a bug", retryable=False)):
        refuses(daemon, message)
    ask(client, daemon, GENERATE)
    daemon.send(done())
    for message in (TOKEN, done(), m.Error(id=1, code="internal", message="a bug", retryable=False)):
        refuses(daemon, message)


def test_a_request_ends_once() -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    daemon.send(TOKEN)
    daemon.fail(1, InternalError("a bug"))
    with pytest.raises(LocalProtocolError, match="id 1: it is not in flight"):
        daemon.fail(1, InternalError("again"))
    got = client.receive(daemon.data_to_send())
    assert [type(message) for message in got] == [m.Token, m.Error]
    assert not client.requests
    ask(client, daemon, GENERATE)
    assert client.requests == daemon.requests == {1: RequestState.GENERATE}


def test_a_frame_too_large_to_send_leaves_the_request_in_flight() -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    with pytest.raises(FrameTooLarge):
        daemon.send(m.Token(id=1, text="x" * MAX_FRAME_LIMIT))
    assert daemon.pending == 0
    daemon.fail(1, InternalError("the answer was too large"))
    assert not daemon.requests


# --- bad bytes ------------------------------------------------------------------------------------------------


def test_a_fault_leaves_out_an_id_that_is_in_flight_and_keeps_one_that_is_not() -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    daemon.receive(framed({"type": "summon", "id": 1}) + framed({"type": "summon", "id": 2}))
    first, second = said(daemon)
    assert "id" not in first
    assert second["id"] == 2
    assert daemon.requests == {1: RequestState.GENERATE}


def test_a_refused_request_is_over_for_the_client_too() -> None:
    client, daemon = opened()
    client.send(m.Generate(id=1, messages=[]))
    assert [type(item) for item in daemon.receive(client.data_to_send())] == [InvalidRequest]
    (answer,) = client.receive(daemon.data_to_send())
    assert isinstance(answer, m.Error)
    assert (answer.id, answer.code) == (1, "invalid_request")
    assert not client.requests


def test_messages_before_a_fatal_fault_are_read_and_none_after_it() -> None:
    _, daemon = opened()
    ping = framed(m.Ping(nonce=1))
    got = daemon.receive(ping + frame(b"\xc1") + ping)
    assert [type(item) for item in got] == [m.Ping, MalformedFrame]
    assert daemon.state is ConnectionState.CLOSING
    assert daemon.receive(ping) == []
    assert len(said(daemon)) == 1


def test_the_end_of_the_stream_inside_a_frame_is_a_fault_and_between_frames_it_is_not() -> None:
    _, daemon = opened()
    daemon.receive(framed(m.Ping(nonce=1))[:-1])
    assert isinstance(daemon.receive_eof(), MalformedFrame)
    assert daemon.state is ConnectionState.CLOSED
    assert said(daemon)[0]["code"] == "malformed_frame"
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    assert daemon.receive_eof() is None
    assert not daemon.requests
    assert daemon.receive_eof() is None


def test_a_client_learns_which_requests_were_cut_off() -> None:
    client, daemon = opened()
    for id in (3, 1, 2):
        ask(client, daemon, msgspec.structs.replace(GENERATE, id=id))
    daemon.send(done(1))
    client.receive(daemon.data_to_send())
    assert client.receive_eof() == [2, 3]
    assert (client.state, dict(client.requests)) == (ConnectionState.CLOSED, {})


@pytest.mark.parametrize(
    "bad",
    [
        frame(b"\xc1"),
        PREFIX.pack(MAX_FRAME_LIMIT + 1),
        framed({"type": "later"}),
        framed({"type": "token", "id": 1}),
        framed(m.Token(id=2, text="Hi")),
        framed(m.Text(id=1, delta="Hi")),
        framed(m.Queued(id=1, position=1, depth=1)),
        framed(m.Counted(id=1, input_tokens=3)),
    ],
)
def test_a_daemon_that_breaks_the_rules_ends_the_connection(bad: bytes) -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    with pytest.raises(RemoteProtocolError):
        client.receive(bad)
    assert client.state is ConnectionState.CLOSING
    assert client.receive(framed(TOKEN)) == []
    refuses(client, m.Ping(nonce=1))
    assert client.receive_eof() == [1]


def test_an_error_that_concerns_no_request_is_passed_on_and_ends_none() -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    daemon.refuse(InternalError("something else"))
    daemon.refuse(InternalError("an id the client does not know", id=99))
    assert [message.id for message in client.receive(daemon.data_to_send()) if isinstance(message, m.Error)] == [
        None,
        99,
    ]
    assert client.requests == {1: RequestState.GENERATE}


def test_an_engine_prints_its_state_in_one_line() -> None:
    client, daemon = opened()
    ask(client, daemon, GENERATE)
    assert repr(client) == "<ClientConnection infer open v1 requests=1 out=0>"
    daemon.send(TOKEN)
    assert repr(daemon) == f"<ServerConnection infer open v1 requests=1 out={len(framed(TOKEN))}>"


# --- the two against each other -------------------------------------------------------------------------------

IDS = st.integers(0, 3)
ANSWERS: dict[str, Callable[[int], m.AnyMessage]] = {
    "queued": lambda id: m.Queued(id=id, position=1, depth=1),
    "started": lambda id: m.Started(id=id, backend="b", model="m"),
    "token": lambda id: m.Token(id=id, text="Hi"),
    "text": lambda id: m.Text(id=id, delta="Hi"),
    "thinking": lambda id: m.ThinkingDelta(id=id, delta="Hm"),
    "tool_use": lambda id: m.ToolUse(id=id, call_id="1", name="t", input={}),
    "done": done,
    "error": lambda id: m.Error(id=id, code="internal", message="a bug", retryable=False),
    "counted": lambda id: m.Counted(id=id, input_tokens=3),
}
TERMINAL = {"done", "error", "counted"}


class Engines(RuleBasedStateMachine):
    """A client and a daemon with bytes in flight between them, and a model of which requests are open at each end."""

    version = 1

    def __init__(self) -> None:
        super().__init__()
        self.client, self.daemon = opened("infer", [self.version], ["queue_events"])
        self.up = bytearray()  # sent by the client, not yet read by the daemon
        self.down = bytearray()
        self.client_open: set[int] = set()
        self.daemon_open: dict[int, RequestState] = {}

    def request(self, id: int, count: bool) -> m.AnyMessage:
        if self.version == 1:
            return m.Count(id=id, messages=GENERATE.messages) if count else msgspec.structs.replace(GENERATE, id=id)
        return m.CountV2(id=id, messages=GENERATE_V2.messages) if count else msgspec.structs.replace(GENERATE_V2, id=id)

    @rule(id=IDS, count=st.booleans())
    def the_client_asks(self, id: int, count: bool) -> None:
        message = self.request(id, count)
        if id in self.client_open:
            refuses(self.client, message)
        else:
            self.client.send(message)
            self.client_open.add(id)
        self.up += self.client.data_to_send()

    @rule(id=IDS)
    def the_client_cancels(self, id: int) -> None:
        self.client.send(m.Cancel(id=id))
        self.up += self.client.data_to_send()

    @rule(id=IDS)
    def somebody_sends_a_message_that_opens_nothing_and_is_wrong(self, id: int) -> None:
        self.up += framed({"type": "ping", "id": id})

    @precondition(lambda self: self.daemon_open)
    @rule(answer=st.sampled_from(sorted(ANSWERS)), data=st.data())
    def the_daemon_answers(self, answer: str, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.daemon_open)))
        message = ANSWERS[answer](id)
        foreign = answer in ({"text", "thinking", "tool_use"} if self.version == 1 else {"token"})
        after = None if foreign else REQUEST.get((self.daemon_open[id], answer))
        if after is None:
            refuses(self.daemon, message)
            return
        self.daemon.send(message)
        self.down += self.daemon.data_to_send()
        if after is RequestState.ENDED:
            assert answer in TERMINAL
            del self.daemon_open[id]
        else:
            self.daemon_open[id] = after

    @rule(id=IDS, answer=st.sampled_from(sorted(ANSWERS)))
    def the_daemon_cannot_answer_what_is_not_in_flight(self, id: int, answer: str) -> None:
        if id not in self.daemon_open:
            refuses(self.daemon, ANSWERS[answer](id))

    @rule(size=st.integers(1, 200))
    def some_bytes_reach_the_daemon(self, size: int) -> None:
        chunk, self.up = self.up[:size], self.up[size:]
        for item in self.daemon.receive(chunk):
            if isinstance(item, m.Generate | m.GenerateV2):
                assert item.id not in self.daemon_open
                self.daemon_open[item.id] = RequestState.GENERATE
            elif isinstance(item, m.Count | m.CountV2):
                assert item.id not in self.daemon_open
                self.daemon_open[item.id] = RequestState.COUNT
        self.down += self.daemon.data_to_send()

    @rule(size=st.integers(1, 400))
    def some_bytes_reach_the_client(self, size: int) -> None:
        chunk, self.down = self.down[:size], self.down[size:]
        for message in self.client.receive(chunk):
            id = getattr(message, "id", None)
            if id is not None:
                assert id in self.client_open, "a frame after the terminal one"
            if message.__struct_config__.tag in TERMINAL and id is not None:
                self.client_open.remove(id)

    @rule()
    def everything_arrives(self) -> None:
        self.some_bytes_reach_the_daemon(len(self.up))
        self.some_bytes_reach_the_client(len(self.down))
        assert not self.up
        assert not self.down
        assert self.client.requests == self.daemon.requests

    @invariant()
    def the_engines_know_what_the_model_knows(self) -> None:
        assert set(self.client.requests) == self.client_open
        assert self.daemon.requests == self.daemon_open
        assert self.client.state is self.daemon.state is ConnectionState.OPEN

    def teardown(self) -> None:
        self.everything_arrives()
        for id in list(self.daemon_open):
            self.daemon.fail(id, InternalError("the end"))
            del self.daemon_open[id]
        self.down += self.daemon.data_to_send()
        self.everything_arrives()
        assert not self.client.requests
        assert not self.client_open


@pytest.mark.parametrize("version", [1, 2])
def test_the_two_engines_never_disagree_and_no_request_ends_twice(version: int) -> None:
    machine = type("EnginesOfVersion", (Engines,), {"version": version})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_every_exported_name_exists() -> None:
    assert all(hasattr(module, name) for name in module.__all__)
