"""The conformance vectors hold for both engines, and between them they show every message and every field.

Each case runs whole, byte by byte, and with bytes behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from vectors.generate import HERE, files, main
from vectors.parts import offer, to_json
from vestal import messages as m
from vestal.codec import Codec, encode
from vestal.connection import ClientConnection, ServerConnection
from vestal.errors import ERROR_CLASSES, RemoteProtocolError, WireError
from vestal.framing import PREFIX, FrameReader, frame
from vestal.state import ConnectionState

Vector = dict[str, Any]
PING = frame(encode(m.Ping(nonce=99)))


def load(name: str) -> list[Vector]:
    found: list[Vector] = json.loads((HERE / f"{name}.json").read_text())
    return found


def names(vectors: list[Vector]) -> list[str]:
    return [vector["name"] for vector in vectors]


MESSAGES = [vector for path in sorted(HERE.glob("messages-*.json")) for vector in load(path.stem)]
ERRORS, VIOLATIONS, EXCHANGES = load("errors"), load("violations"), load("exchanges")


def from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$bin"}:
            return bytes.fromhex(value["$bin"])
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def codec_of(vector: Vector) -> Codec[m.AnyMessage]:
    """The codec of the vector's socket, version and direction."""
    if vector["version"] is None:
        return Codec(m.Hello if vector["direction"] == "client" else m.Welcome | m.Error)
    if vector["direction"] == "daemon":
        return Codec({"infer": m.InferReply, "embed": m.EmbedReply, "admin": m.AdminReply}[vector["socket"]])
    if vector["socket"] == "infer":
        return Codec(m.InferRequestV1 if vector["version"] == 1 else m.InferRequestV2)
    return Codec({"embed": m.EmbedRequest, "admin": m.AdminRequest}[vector["socket"]])


def in_three_ways(data: bytes, behind: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and with bytes behind."""
    yield [data]
    yield [data[index : index + 1] for index in range(len(data))] if len(data) < 20_000 else [data[:5], data[5:]]
    yield [data + behind]


# --- the files ------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_generator_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in HERE.glob("*.json")} == set(files())
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_no_two_vectors_of_a_file_have_one_name() -> None:
    for path in HERE.glob("*.json"):
        found = [(vector["name"], vector["socket"]) for vector in load(path.stem)]
        assert len(set(found)) == len(found)


def test_every_float_has_a_fraction() -> None:
    def floats(value: Any) -> Iterator[float]:
        if isinstance(value, float):
            yield value
        elif isinstance(value, (dict, list)):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from floats(inner)

    assert all(number != int(number) for vector in (*MESSAGES, *EXCHANGES) for number in floats(vector))


# --- single messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", MESSAGES, ids=names(MESSAGES))
def test_a_message_is_read_from_its_bytes(vector: Vector) -> None:
    data, expected = bytes.fromhex(vector["bytes"]), from_json(vector["message"])
    for chunks in in_three_ways(data, PING[:3]):
        reader = FrameReader()
        (payload,) = [bytes(payload) for chunk in chunks for payload in reader.feed(chunk)]
        message = codec_of(vector).decode(payload)
        assert message == msgspec.convert(expected, type(message))
        assert message == codec_of(vector).decode(msgspec.msgpack.encode(expected))


@pytest.mark.parametrize("vector", [vector for vector in MESSAGES if vector["encodes"]])
def test_a_message_is_written_as_its_bytes(vector: Vector) -> None:
    data = bytes.fromhex(vector["bytes"])
    message = codec_of(vector).decode(data[PREFIX.size :])
    assert frame(encode(message)) == data
    assert to_json(msgspec.msgpack.decode(data[PREFIX.size :])) == vector["message"]


def test_the_vectors_show_every_message_of_every_socket_and_direction() -> None:
    keys = ("socket", "version", "direction")
    shown = {(*(vector[key] for key in keys), vector["message"]["type"]) for vector in MESSAGES}
    unions: list[tuple[str, int | None, str, Any]] = [
        ("infer", None, "client", m.Hello),
        ("infer", None, "daemon", m.Welcome | m.Error),
        ("infer", 1, "client", m.InferRequestV1),
        ("infer", 2, "client", m.InferRequestV2),
        ("embed", 1, "client", m.EmbedRequest),
        ("embed", 1, "daemon", m.EmbedReply),
        ("admin", 1, "client", m.AdminRequest),
        ("admin", 1, "daemon", m.AdminReply),
    ]
    for socket, version, direction, union in unions:
        for cls in getattr(union, "__args__", (union,)):
            assert (socket, version, direction, cls.__struct_config__.tag) in shown
    replies = {type for socket, _, direction, type in shown if (socket, direction) == ("infer", "daemon")}
    assert replies == {cls.__struct_config__.tag for cls in (*m.InferReply.__args__, m.Welcome)}


def default_of(cls: type[msgspec.Struct], name: str) -> object:
    """The default of a field; defaults belong to the last fields."""
    return dict(zip(cls.__struct_fields__[::-1], cls.__struct_defaults__[::-1], strict=False)).get(name)


def test_the_vectors_show_every_field_of_every_message() -> None:
    seen: dict[type[msgspec.Struct], set[str]] = {}

    def note(value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            config = type(value).__struct_config__
            for name in value.__struct_fields__:
                inner = getattr(value, name)
                if not (config.omit_defaults and inner in (default_of(type(value), name), None, [])):
                    seen.setdefault(type(value), set()).add(name)
                note(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                note(inner)

    for vector in MESSAGES:
        note(codec_of(vector).decode(bytes.fromhex(vector["bytes"])[PREFIX.size :]))
    seen[m.GenerateV2] |= seen[m.Generate]  # the options that the two share are shown once
    for cls, fields in seen.items():
        assert fields == set(cls.__struct_fields__), cls
    assert set(m.AnyMessage.__args__) <= set(seen)


# --- errors ---------------------------------------------------------------------------------------------------


def server_for(vector: Vector) -> ServerConnection:
    """A daemon in the state the vector starts from."""
    daemon = ServerConnection(vector["socket"], offer)
    if vector["version"] is not None:
        daemon.receive(frame(encode(m.Hello(versions=[vector["version"]]))))
        assert daemon.state is ConnectionState.OPEN
    daemon.data_to_send()
    return daemon


@pytest.mark.parametrize("vector", ERRORS, ids=names(ERRORS))
def test_bad_bytes_get_the_error_they_should(vector: Vector) -> None:
    data = b"".join(bytes.fromhex(run) * times for run, times in vector["bytes"])
    for chunks in in_three_ways(data, b"" if vector["eof"] else PING):
        daemon = server_for(vector)
        got = [item for chunk in chunks for item in daemon.receive(chunk)]
        fault = daemon.receive_eof() if vector["eof"] else next(item for item in got if isinstance(item, WireError))
        assert fault is not None
        check_fault(vector, fault, daemon)
        accepted = [str(item.__struct_config__.tag) for item in got if not isinstance(item, WireError)]
        with_ping = len(chunks) == 1 and len(chunks[0]) > len(data) and not vector["closes"]
        before_hello = vector["version"] is None
        assert accepted == vector["accepted"] + (["ping"] if with_ping and not before_hello else [])


def check_fault(vector: Vector, fault: WireError, daemon: ServerConnection) -> None:
    expected = vector["error"]
    assert fault.code == expected["code"]
    assert fault.closes is vector["closes"]
    assert fault.details.get("field") == expected["field"]
    (answer, *_) = sent_by(daemon)
    assert answer["type"] == "error"
    assert answer["code"] == expected["code"]
    assert answer.get("id") == expected["id"]
    assert answer["retryable"] is fault.retryable
    if not vector["eof"]:
        assert (daemon.state is ConnectionState.CLOSING) is vector["closes"]


def sent_by(connection: ServerConnection) -> list[dict[str, Any]]:
    return [msgspec.msgpack.decode(payload) for payload in FrameReader(1 << 26).feed(connection.data_to_send())]


def test_the_error_vectors_show_every_fault_the_engine_itself_finds() -> None:
    found = {vector["error"]["code"] for vector in ERRORS}
    assert found == {
        "version_unsupported", "capability_missing", "frame_too_large", "malformed_frame", "unknown_message",
        "invalid_request", "duplicate_id",
    }  # fmt: skip
    for vector in ERRORS:
        assert vector["closes"] is ERROR_CLASSES[vector["error"]["code"]].closes


# --- violations -----------------------------------------------------------------------------------------------


def client_for(vector: Vector) -> ClientConnection:
    client = ClientConnection(vector["socket"])
    client.hello(**vector["hello"])
    legal = [bytes.fromhex(data) for data in vector["legal"]]
    if legal:
        client.receive(legal[0])
    for request in vector["requests"]:
        codec: Codec[m.AnyMessage] = Codec(m.InferRequestV1 if client.version == 1 else m.InferRequestV2)
        client.send(codec.decode(msgspec.msgpack.encode(from_json(request))))
    for data in legal[1:]:
        client.receive(data)
    return client


@pytest.mark.parametrize("vector", VIOLATIONS, ids=names(VIOLATIONS))
def test_a_client_gives_up_a_daemon_that_breaks_the_rules(vector: Vector) -> None:
    for chunks in in_three_ways(bytes.fromhex(vector["illegal"]), PING):
        client = client_for(vector)
        with pytest.raises(RemoteProtocolError):
            for chunk in chunks:
                client.receive(chunk)
        assert client.state is ConnectionState.CLOSING


# --- exchanges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("vector", EXCHANGES, ids=names(EXCHANGES))
def test_both_engines_follow_an_exchange_and_agree_on_what_is_in_flight(vector: Vector, size: int) -> None:
    client, daemon = ClientConnection(vector["socket"]), ServerConnection(vector["socket"], offer)
    for step in vector["steps"]:
        data, message = bytes.fromhex(step["bytes"]), from_json(step["message"])
        if message["type"] == "hello":
            client.hello(**{key: value for key, value in message.items() if key != "type"})
        elif step["from"] == "client":
            requests = {"infer": m.InferRequestV1 if client.version == 1 else m.InferRequestV2}
            union = {**requests, "embed": m.EmbedRequest, "admin": m.AdminRequest}[vector["socket"]]
            client.send(Codec[m.AnyMessage](union).decode(data[PREFIX.size :]))
        elif message["type"] != "welcome":
            replies = {"infer": m.InferReply, "embed": m.EmbedReply, "admin": m.AdminReply}[vector["socket"]]
            daemon.send(Codec[m.AnyMessage](replies).decode(data[PREFIX.size :]))
        sender, receiver = (client, daemon) if step["from"] == "client" else (daemon, client)
        assert bytes(sender.data_to_send()) == data
        for start in range(0, len(data), size):
            receiver.receive(data[start : start + size])
        assert sorted(client.requests) == sorted(daemon.requests) == step["in_flight"]
    assert client.version == daemon.version == vector["version"]
