"""Whatever a client sends, it is told what is wrong, by code and field, and the daemon goes on serving the others.

The bystander is a client that was there before: after every case it is served on its old connection.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo, toml
from tests.e2e.peers import Peer, RawPeer, framed
from vestal import messages as m
from vestal.connection import SocketKind
from vestal.framing import HANDSHAKE_FRAME_LIMIT, MAX_FRAME_LIMIT, PREFIX

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors" / "errors.json"
Where = tuple[SocketKind, Literal[1, 2]]

OPEN: tuple[Where, ...] = (("infer", 1), ("infer", 2), ("embed", 1), ("embed", 2), ("admin", 1), ("admin", 2))
SOCKETS = pytest.mark.parametrize("kind", get_args(SocketKind))
CONNECTIONS = pytest.mark.parametrize("where", OPEN, ids=lambda where: f"{where[0]}-v{where[1]}")
V1 = [{"role": "user", "content": "Hi"}]
V2 = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


@pytest.fixture(scope="module")
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The shared daemon, which has raised nothing by the end."""
    yield shared
    assert shared.process.poll() is None


@pytest.fixture(autouse=True)
def bystander(daemon: Daemon) -> Iterator[Peer]:
    with daemon.infer(client="bystander") as peer:
        yield peer
        assert peer.generate(1, "still being served")[0] == "still being served"


def request_of(where: Where, **fields: Any) -> dict[str, Any]:
    """A well-formed request of a socket, with `fields` put over it."""
    kind, version = where
    base: dict[SocketKind, dict[str, Any]] = {
        "infer": {"type": "generate", "id": 1, "messages": V1 if version == 1 else V2},
        "embed": {"type": "embed", "id": 1, "input": ["Hi"]},
        "admin": {"type": "status", "id": 1},
    }
    return {**base[kind], **fields}


def answers(peer: RawPeer, where: Where) -> None:
    """The connection still works."""
    peer.write(framed(request_of(where, id=99)))
    while (frame := peer.read()) is not None:
        assert frame["type"] != "error", frame
        if frame.get("id") == 99 and frame["type"] in ("done", "embeddings", "status_report"):
            return
    raise AssertionError("the daemon closed")


@SOCKETS
def test_a_frame_of_millions_of_values_costs_its_sender_and_nobody_else(start: Start, kind: SocketKind) -> None:
    """In memory each would be seventy times as large as here, and the collector would look at all of them."""
    daemon = start(echo(embed=True))
    before = daemon.resident()
    tag = request_of((kind, 1), id=7)["type"]
    head = msgspec.msgpack.encode({"type": tag, "id": 7})
    payload = b"\x83" + head[1:] + b"\xa5extra\xdd" + (60_000_000).to_bytes(4, "big") + b"\x90" * 60_000_000
    with daemon.raw(kind) as peer:
        peer.write(framed({"type": "hello", "versions": [1]}))
        peer.read()
        peer.write(len(payload).to_bytes(4, "big") + payload)
        error = peer.error()
        assert (error["code"], error["id"]) == ("invalid_request", 7)
        assert error["details"]["values"] == 1_048_576
        answers(peer, (kind, 1))
    assert daemon.resident() - before < 4 * 60_000_000  # the frame as it came, and what reads it


# --- the handshake --------------------------------------------------------------------------------------------


@SOCKETS
def test_a_message_before_the_hello_is_refused_and_a_hello_can_still_follow(daemon: Daemon, kind: SocketKind) -> None:
    with daemon.raw(kind) as peer:
        peer.write(framed(request_of((kind, 1), id=5)))
        error = peer.error()
        assert (error["code"], error["id"]) == ("unknown_message", 5)
        assert "hello" in error["hint"]
        peer.write(framed({"type": "hello", "versions": [1]}))
        welcome = peer.read()
        assert welcome is not None
        assert welcome["type"] == "welcome"


@SOCKETS
def test_a_version_nobody_speaks_is_refused_with_those_that_are_spoken(daemon: Daemon, kind: SocketKind) -> None:
    with daemon.raw(kind) as peer:
        peer.write(framed({"type": "hello", "versions": [7, 9]}))
        error = peer.error()
        assert (error["code"], error["retryable"]) == ("version_unsupported", False)
        assert error["details"] == {"versions": [1, 2]}
        assert peer.read() is None


@pytest.mark.parametrize("kind", ["infer", "embed"])
def test_a_required_capability_that_is_missing_is_named(daemon: Daemon, kind: SocketKind) -> None:
    with daemon.raw(kind) as peer:
        peer.write(framed({"type": "hello", "versions": [1], "require": ["generate", "vision", "telepathy"]}))
        error = peer.error()
        assert error["code"] == "capability_missing"
        assert error["details"]["missing"] == ["vision", "telepathy"]
        assert peer.read() is None


@SOCKETS
@pytest.mark.parametrize(
    ("hello", "field"),
    [
        ({}, "versions"),
        ({"versions": []}, "versions"),
        ({"versions": "1"}, "versions"),
        ({"versions": [-1]}, "versions[0]"),
        ({"versions": [1], "client": 5}, "client"),
        ({"versions": [1], "require": [""]}, "require[0]"),
        ({"versions": [1], "features": {}}, "features"),
    ],
)
def test_a_bad_hello_names_its_field_and_a_good_one_can_follow(
    daemon: Daemon, kind: SocketKind, hello: dict[str, Any], field: str
) -> None:
    with daemon.raw(kind) as peer:
        peer.write(framed({"type": "hello", **hello}))
        error = peer.error()
        assert (error["code"], error["details"]["field"]) == ("invalid_request", field)
        assert field in error["message"]
        peer.write(framed({"type": "hello", "versions": [1]}))
        assert (peer.read() or {})["type"] == "welcome"


@SOCKETS
def test_a_second_hello_is_an_unknown_message(daemon: Daemon, kind: SocketKind) -> None:
    with daemon.raw(kind, 1) as peer:
        peer.write(framed({"type": "hello", "versions": [1]}))
        assert peer.error()["code"] == "unknown_message"
        answers(peer, (kind, 1))


def test_no_hello_within_the_deadline_is_said_and_ends_the_connection(short_dir: Path) -> None:
    late = Daemon(short_dir, toml(echo(embed=True), sockets={"handshake_timeout": "300ms"}))
    try:
        late.ready()
        with ExitStack() as stack:
            silent = [stack.enter_context(late.raw(kind)) for kind in get_args(SocketKind)]
            dripping = [stack.enter_context(late.raw(kind)) for kind in get_args(SocketKind)]
            for peer in dripping:
                peer.write(framed({"type": "hello", "versions": [1]})[:-1])  # a hello that never ends
            for peer in silent + dripping:
                error = peer.error()
                assert error["code"] == "deadline_exceeded"
                assert error["details"] == {"handshake_timeout_ms": 300}
                assert peer.read() is None
        with late.infer() as speaking:
            assert speaking.generate(1)[1].stop_reason == "end"
        assert "Traceback" not in late.stderr
    finally:
        late.kill()


def test_a_connection_that_said_hello_may_be_silent_for_longer_than_the_deadline(short_dir: Path) -> None:
    patient = Daemon(short_dir, toml(echo(), sockets={"handshake_timeout": "200ms"}))
    try:
        patient.ready()
        with patient.infer() as peer, patient.raw("infer") as clock:
            assert clock.error()["code"] == "deadline_exceeded"  # the deadline of both has passed
            assert peer.generate(1)[1].stop_reason == "end"
    finally:
        patient.kill()


# --- framing --------------------------------------------------------------------------------------------------


@SOCKETS
def test_a_prefix_over_64_kib_before_the_welcome_is_refused_unread(daemon: Daemon, kind: SocketKind) -> None:
    with daemon.raw(kind) as peer:
        peer.write(PREFIX.pack(HANDSHAKE_FRAME_LIMIT + 1))
        error = peer.error()
        assert error["code"] == "frame_too_large"
        assert error["details"] == {"size": HANDSHAKE_FRAME_LIMIT + 1, "limit": HANDSHAKE_FRAME_LIMIT}
        assert peer.read() is None


@CONNECTIONS
def test_a_prefix_over_the_limit_is_refused_unread(daemon: Daemon, where: Where) -> None:
    with daemon.raw(*where) as peer:
        peer.write(PREFIX.pack(MAX_FRAME_LIMIT + 1))
        error = peer.error()
        assert error["code"] == "frame_too_large"
        assert error["details"] == {"size": MAX_FRAME_LIMIT + 1, "limit": MAX_FRAME_LIMIT}
        assert peer.read() is None


def test_the_limit_is_the_configured_one(short_dir: Path) -> None:
    small = Daemon(short_dir, toml(echo(), sockets={"max_frame": 70_000}))
    try:
        small.ready()
        with small.raw("infer", 1) as peer:
            envelope = len(framed(request_of(("infer", 1), messages=[{"role": "user", "content": "x" * 69_000}]))) - 4
            fits = request_of(("infer", 1), messages=[{"role": "user", "content": "x" * (69_000 + 70_000 - envelope)}])
            peer.write(framed(fits))
            assert (peer.read() or {})["type"] == "token"
            assert (peer.read() or {})["type"] == "done"
            fits["messages"][0]["content"] += "x"
            peer.write(framed(fits))
            error = peer.error()
            assert error["code"] == "frame_too_large"
            assert error["details"] == {"size": 70_001, "limit": 70_000}
            assert peer.read() is None
    finally:
        small.kill()


@CONNECTIONS
@pytest.mark.parametrize("part", [2, 4, 20])
def test_the_end_of_the_stream_inside_a_frame_is_said(daemon: Daemon, where: Where, part: int) -> None:
    with daemon.raw(*where) as peer:
        peer.write(framed(request_of(where))[:part])
        peer.half_close()
        error = peer.error()
        assert error["code"] == "malformed_frame"
        assert error["details"]["received"] == part
        assert peer.read() is None


@CONNECTIONS
@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b'{"type":"ping"}', b"\x81\xa4type\xa4ping\xc0", b"\x93\x01\x02\x03", b"\x05", b"\x80"],
    ids=["empty", "never-used", "json", "trailing", "array", "integer", "empty-map"],
)
def test_a_payload_that_is_no_message_ends_the_connection(daemon: Daemon, where: Where, payload: bytes) -> None:
    with daemon.raw(*where) as peer:
        peer.write(PREFIX.pack(len(payload)) + payload)
        assert peer.error()["code"] == "malformed_frame"
        assert peer.read() is None


# --- messages -------------------------------------------------------------------------------------------------


@CONNECTIONS
def test_an_unknown_type_is_said_and_the_connection_goes_on(daemon: Daemon, where: Where) -> None:
    with daemon.raw(*where) as peer:
        peer.write(framed({"type": "summon", "id": 4}))
        error = peer.error()
        assert (error["code"], error["id"]) == ("unknown_message", 4)
        assert "summon" in error["message"]
        answers(peer, where)


@CONNECTIONS
def test_unknown_keys_are_ignored(daemon: Daemon, where: Where) -> None:
    with daemon.raw(*where) as peer:
        peer.write(framed(request_of(where, id=98, later=[{"deep": b"\x00"}])))
        answers(peer, where)


@CONNECTIONS
@pytest.mark.parametrize("id", [-1, 2**63, "1", 1.5, None, True])
def test_an_id_that_is_none_is_named(daemon: Daemon, where: Where, id: object) -> None:
    with daemon.raw(*where) as peer:
        peer.write(framed(request_of(where, id=id)))
        error = peer.error()
        assert (error["code"], error["details"]["field"]) == ("invalid_request", "id")
        assert "id" not in error
        answers(peer, where)


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": math.nan}, "top_p"),
    ({"min_p": math.nan}, "min_p"),
    ({"repeat_penalty": math.inf}, "repeat_penalty"),
    ({"frequency_penalty": "high"}, "frequency_penalty"),
    ({"seed": -1}, "seed"),
    ({"stop": [5]}, "stop[0]"),
    ({"stream": "yes"}, "stream"),
    ({"priority": "first"}, "priority"),
    ({"timeout_ms": 0}, "timeout_ms"),
    ({"queue_timeout_ms": -1}, "queue_timeout_ms"),
]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("fields", "field"), BAD_OPTIONS, ids=lambda value: str(value)[:40])
def test_a_bad_field_of_a_generate_is_named(
    daemon: Daemon, version: Literal[1, 2], fields: dict[str, Any], field: str
) -> None:
    where: Where = ("infer", version)
    with daemon.raw(*where) as peer:
        peer.write(framed(request_of(where, id=6, **fields)))
        error = peer.error()
        assert (error["code"], error["id"], error["retryable"]) == ("invalid_request", 6, False)
        assert error["details"]["field"] == field
        assert field in error["message"]
        answers(peer, where)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input": []}, "input"),
        ({"input": "Hi"}, "input"),
        ({"input": ["a", None]}, "input[1]"),
        ({"dimensions": 0}, "dimensions"),
        ({"normalize": 1}, "normalize"),
        ({"model": ""}, "model"),
    ],
)
def test_a_bad_field_of_an_embed_is_named(
    daemon: Daemon, version: Literal[1, 2], fields: dict[str, Any], field: str
) -> None:
    where: Where = ("embed", version)
    with daemon.raw(*where) as peer:
        peer.write(framed(request_of(where, id=6, **fields)))
        error = peer.error()
        assert (error["code"], error["id"], error["details"]["field"]) == ("invalid_request", 6, field)
        answers(peer, where)


@pytest.mark.parametrize("version", [1, 2])
def test_a_model_that_nobody_serves_is_named_with_those_served(daemon: Daemon, version: Literal[1, 2]) -> None:
    for kind in ("infer", "embed"):
        where: Where = (kind, version)
        with daemon.raw(*where) as peer:
            peer.write(framed(request_of(where, id=3, model="gpt-7")))
            error = peer.error()
            assert (error["code"], error["id"], error["details"]["model"]) == ("model_not_found", 3, "gpt-7")
            assert "echo" in error["hint"]
            answers(peer, where)


@pytest.mark.parametrize("version", [1, 2])
def test_an_id_in_flight_again_is_refused_and_the_first_is_answered_once(
    daemon: Daemon, version: Literal[1, 2]
) -> None:
    where: Where = ("infer", version)
    with daemon.raw(*where) as peer:
        peer.write(framed(request_of(where)) * 3)
        frames: list[dict[str, Any]] = []
        while not (frames and frames[-1]["type"] == "done"):
            frame = peer.read()
            assert frame is not None
            frames.append(frame)
        errors = [frame for frame in frames if frame["type"] == "error"]
        assert [(error["code"], error.get("id"), error["details"]) for error in errors] == [
            ("duplicate_id", None, {"id": 1})
        ] * 2
        assert [frame["type"] for frame in frames].count("done") == 1
        answers(peer, where)


def test_a_task_that_no_backend_knows_is_refused_with_those_it_knows(daemon: Daemon) -> None:
    with daemon.raw("embed", 1) as peer:
        peer.write(framed(request_of(("embed", 1), task="search")))
        error = peer.error()
        assert (error["code"], error["id"]) == ("unsupported", 1)
        assert error["details"] == {"option": "task", "model": "echo", "tasks": []}
        peer.write(framed(request_of(("embed", 1), dimensions=100_000)))
        error = peer.error()
        assert (error["code"], error["details"]["longest"]) == ("unsupported", 4096)


def test_more_vectors_than_fit_one_frame_are_refused_with_the_number_that_does(daemon: Daemon) -> None:
    with daemon.raw("embed", 1) as peer:
        peer.write(framed(request_of(("embed", 1), input=["a"] * 5000, dimensions=4096)))
        error = peer.error()
        assert (error["code"], error["details"]["field"]) == ("invalid_request", "input")
        row = 4096 * 4
        assert MAX_FRAME_LIMIT - 2**17 < error["details"]["limit"] * row < MAX_FRAME_LIMIT
        answers(peer, ("embed", 1))


# --- bytes after the last word --------------------------------------------------------------------------------


@CONNECTIONS
def test_requests_before_broken_bytes_in_one_write_do_not_upset_the_daemon(daemon: Daemon, where: Where) -> None:
    """The connection ends with its error; what was asked before it in the same bytes may go unanswered."""
    garbage = PREFIX.pack(1) + b"\xc1"
    asked = framed(request_of(where)) + framed({"type": "ping", "nonce": 1}) + framed(request_of(where, id=2))
    with daemon.raw(*where) as peer:
        peer.write(asked + garbage + asked)
        assert peer.error()["code"] == "malformed_frame"
        assert peer.read() is None


def test_broken_bytes_while_answers_stream_end_only_that_connection(short_dir: Path) -> None:
    slow = Daemon(short_dir, toml(echo(token_delay="1ms", slots=8)))
    try:
        slow.ready()
        with slow.raw("infer", 1) as peer, slow.infer() as neighbour:
            neighbour.ask(1, "w " * 200)
            peer.write(b"".join(framed(request_of(("infer", 1), id=id, messages=[
                {"role": "user", "content": "w " * 5000}])) for id in range(5)))  # fmt: skip
            assert (peer.read() or {})["type"] == "token"
            peer.write(b"\xff\xff\xff\xff")
            assert peer.error()["code"] == "frame_too_large"
            assert neighbour.done(1).usage.output_tokens == 200
        assert slow.queue().entries == []
        assert "Traceback" not in slow.stderr, slow.stderr
        with slow.admin() as admin:
            text = admin.command(m.Metrics(id=1), m.MetricsReport).text
        assert 'outcome="internal"' not in text
    finally:
        slow.kill()


@pytest.mark.parametrize("seed", range(8))
def test_mangled_bytes_are_answered_or_hung_up_on(daemon: Daemon, seed: int) -> None:
    """Frames with flipped bits, cut, doubled, out of order, on every socket: the fixtures look for what they broke."""
    dice = random.Random(seed)
    for _ in range(25):
        where = dice.choice(OPEN)
        with daemon.raw(*where) if dice.random() < 0.8 else daemon.raw(where[0]) as peer:
            data = bytearray(b"".join(_any_frame(dice, where) for _ in range(dice.randrange(1, 12))))
            for _ in range(dice.choice([0, 1, 1, 3, 30])):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            cut = dice.choice([len(data), dice.randrange(len(data))])
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                peer.write(bytes(data[:cut]))
                if dice.random() < 0.7:
                    peer.half_close()
                    while (frame := peer.read()) is not None:
                        assert frame.get("code") != "internal", frame


def _any_frame(dice: random.Random, where: Where) -> bytes:
    stop = {"type": "stop"}  # without an id it is refused: it may not be obeyed here
    choices: list[dict[str, Any]] = [
        request_of(where, id=dice.randrange(4)),
        request_of(where, id=dice.randrange(2**64), extra={"a": [None, 1.5, b"x"]}),
        {"type": "cancel", "id": dice.randrange(4)},
        {"type": "count", "id": dice.randrange(4), "messages": V1 if where[1] == 1 else V2},
        {"type": "ping", "nonce": dice.randrange(100)},
        {"type": "hello", "versions": [1, 2], "require": ["embed"]},
        {"type": "metrics", "id": dice.randrange(4)},
        stop,
    ]
    return framed(dice.choice(choices))


# --- the conformance vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text()), ids=lambda vector: vector["name"])
def test_the_daemon_answers_as_the_conformance_vectors_say(daemon: Daemon, vector: dict[str, Any]) -> None:
    with daemon.raw(vector["socket"], vector["version"]) as peer:
        # One write: what is to be in flight when the fault comes must not have ended before.
        peer.write(b"".join(bytes.fromhex(data) * times for data, times in vector["bytes"]))
        if vector["eof"]:
            peer.half_close()
        error, expected = peer.error(), vector["error"]
        assert error["code"] == expected["code"]
        assert error.get("id") == expected["id"]
        assert (error.get("details") or {}).get("field") == expected["field"]
        if vector["closes"]:
            assert peer.read() is None
        elif vector["version"] is None:
            peer.write(framed({"type": "hello", "versions": [1]}))
            assert (peer.read() or {})["type"] == "welcome"
        else:
            peer.write(framed({"type": "ping", "nonce": 7}))
            while (frame := peer.read()) is not None and frame["type"] != "pong":
                pass
            assert frame == {"type": "pong", "nonce": 7}
