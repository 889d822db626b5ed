"""Whatever the bytes, the answer is a message or one of three errors that name the fault."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vectors.generate import HERE
from vestal import codec as module
from vestal import explain
from vestal import messages as m
from vestal.codec import Codec, append_frame, encode
from vestal.counting import MAX_VALUES
from vestal.errors import FrameTooLarge, InvalidRequest, MalformedFrame, UnknownMessage, WireError
from vestal.explain import MAX_ECHO, expected_one_of, shown
from vestal.framing import PREFIX

HELLO: Codec[m.AnyMessage] = Codec(m.Hello)
V1: Codec[m.AnyMessage] = Codec(m.InferRequestV1)
V2: Codec[m.AnyMessage] = Codec(m.InferRequestV2)
CODECS: dict[str, Codec[m.AnyMessage]] = {
    "hello": HELLO,
    "welcome": Codec(m.Welcome | m.Error),
    "v1": V1,
    "v2": V2,
    "infer reply": Codec(m.InferReply),
    "embed": Codec(m.EmbedRequest),
    "embed reply": Codec(m.EmbedReply),
    "admin": Codec(m.AdminRequest),
    "admin reply": Codec(m.AdminReply),
}
FAULTS = (MalformedFrame, UnknownMessage, InvalidRequest)


def seeds() -> list[bytes]:
    """The payloads of every message vector."""
    found = []
    for path in sorted(HERE.glob("messages-*.json")):
        found += [bytes.fromhex(vector["bytes"])[PREFIX.size :] for vector in json.loads(path.read_text())]
    return found


SEEDS = seeds()


def request(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(
        {"type": "generate", "id": 1, "messages": [{"role": "user", "content": "Hi"}], **fields}
    )


def fault_of(codec: Codec[m.AnyMessage], payload: bytes) -> WireError:
    with pytest.raises(WireError) as fault:
        codec.decode(payload)
    return fault.value


def judged(codec: Codec[m.AnyMessage], payload: bytes) -> None:
    """Decode, and hold a fault to what every fault must be."""
    try:
        codec.decode(payload)
    except WireError as fault:
        assert type(fault) in FAULTS
        assert len(fault.message) < 600
        assert "\n" not in fault.message
        encode(module.error_frame(fault))


ARRAYS = b"\xdd" + MAX_VALUES.to_bytes(4, "big") + b"\x90" * MAX_VALUES


def many(**fields: Any) -> bytes:
    """A message with one array more than a message may have values."""
    head = msgspec.msgpack.encode(fields)
    return bytes([head[0] + 1]) + head[1:] + b"\xa5extra" + ARRAYS


@pytest.mark.parametrize(
    ("payload", "code", "id", "says"),
    [
        (many(type="generate", id=7), "invalid_request", 7, "generate: more than 1048576 values in one message"),
        (many(type="generate"), "invalid_request", None, "more than 1048576 values"),
        (many(type="cancel", id=7), "invalid_request", None, "cancel: more than 1048576 values"),
        (many(type="summon", id=7), "unknown_message", 7, "no message of type `summon`"),
        (many(type=5), "malformed_frame", None, "no map with a string `type`"),
        (many(type="generate", id="x" * 9), "invalid_request", None, "more than 1048576 values"),
        (many(type="generate", id=-1), "invalid_request", None, "more than 1048576 values"),
        (many(type="generate", id=7).replace(b"\x07", b"\xa2\xff\xfe", 1), "invalid_request", None, "more than"),
        (many(type="generate", id=7).replace(b"\x07", b"\x81\x80\x01", 1), "invalid_request", None, "more than"),
        (ARRAYS, "malformed_frame", None, "no map with a string"),
    ],
)
def test_a_message_of_too_many_values_is_refused_undecoded(
    payload: bytes, code: str, id: int | None, says: str
) -> None:
    fault = fault_of(V1, payload)
    assert (fault.code, fault.id) == (code, id)
    assert says in fault.message


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_whatever_stands_before_too_many_values_is_one_of_the_faults(head: bytes) -> None:
    judged(V1, head + ARRAYS)
    judged(V1, b"\x83\xa4type\xa8generate\xa2id" + head + b"\xa5extra" + ARRAYS)


def test_a_client_takes_any_number_of_values_from_its_daemon() -> None:
    reply = many(type="pong", nonce=1)
    assert Codec(m.InferReply, trusted=True).decode(reply) == m.Pong(nonce=1)
    assert fault_of(Codec(m.InferReply), reply).code == "invalid_request"


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=80))
@example("v1", b"")
@example("v1", b"\xc1")
@example("v1", b"\x82\xa4type\xa4ping\x81\x80\x01\x01")
@example("hello", b"\x82\xa8versions\x91\x01\xa1x\xa1\xff")
@example("v1", b"\x91" * 100_000)
@example("v2", b"\x83\xa4type\xa4ping\xa5nonce\x01\xa1x" + b"\x91" * 100_000 + b"\xc0")
@example("admin", b"\xdf\xff\xff\xff\xff\xa4type")
def test_arbitrary_bytes_raise_nothing_but_wire_errors(which: str, payload: bytes) -> None:
    judged(CODECS[which], payload)


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(sorted(CODECS)), st.sampled_from(SEEDS), st.data())
def test_mutated_messages_raise_nothing_but_wire_errors(which: str, seed: bytes, data: st.DataObject) -> None:
    broken = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(broken) - 1)))
        length = data.draw(st.integers(0, 4))
        broken[place : place + length] = data.draw(st.binary(max_size=4))
    judged(CODECS[which], bytes(broken))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(CODECS)), st.data())
def test_any_value_in_any_field_of_any_message_raises_nothing_but_wire_errors(which: str, data: st.DataObject) -> None:
    codec = CODECS[which]
    cls = data.draw(st.sampled_from(codec.members))
    fields = data.draw(st.dictionaries(st.sampled_from((*cls.__struct_fields__, "later")), ANYTHING))
    judged(codec, msgspec.msgpack.encode({"type": cls.__struct_config__.tag, **fields}))


# --- which fault it is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", request() + b"\xc0", request()[:-1], b"\x90", b"\x01", b"\xa1x", b"\xc0", b'{"type":"ping"}'],
)
def test_what_is_not_one_map_is_malformed(payload: bytes) -> None:
    assert type(fault_of(V1, payload)) is MalformedFrame


@pytest.mark.parametrize("kind", [None, 3, b"ping", ["ping"], {"ping": 1}])
def test_a_type_that_is_no_string_is_malformed(kind: object) -> None:
    assert type(fault_of(V1, msgspec.msgpack.encode({"type": kind, "nonce": 1}))) is MalformedFrame


def test_a_hello_without_its_type_is_malformed_although_it_stands_alone() -> None:
    fault = fault_of(HELLO, msgspec.msgpack.encode({"versions": [1]}))
    assert type(fault) is MalformedFrame
    assert fault.details == {"types": ("hello",)}


def test_an_unknown_type_is_named_with_those_that_are_known() -> None:
    fault = fault_of(V1, msgspec.msgpack.encode({"type": "summon", "id": 5}))
    assert type(fault) is UnknownMessage
    assert fault.message == "no message of type `summon` is taken here"
    assert fault.details == {"type": "summon", "types": ("cancel", "count", "generate", "ping")}
    assert fault.id == 5


@pytest.mark.parametrize("id", [-1, 2**63, "5", 5.0, True, None])
def test_an_id_that_is_none_is_not_repeated(id: object) -> None:
    assert fault_of(V1, msgspec.msgpack.encode({"type": "summon", "id": id})).id is None
    assert fault_of(V1, request(id=id)).id is None


def test_a_fault_carries_the_id_of_the_request_it_would_have_opened_and_no_other() -> None:
    assert fault_of(V1, request(messages=[])).id == 1
    assert fault_of(V1, msgspec.msgpack.encode({"type": "ping", "id": 1})).id is None


@pytest.mark.parametrize(
    ("fields", "field", "what"),
    [
        ({"max_tokens": 0}, "max_tokens", "expected `int` >= 1"),
        ({"messages": []}, "messages", "expected `array` of length >= 1"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required field is missing"),
        ({"stop": ["a", 7]}, "stop[1]", "expected `str`, got `int`"),
        (
            {"response_format": {"schema": {1: 2}}},
            "response_format.schema",
            "expected `str`, got `int`",
        ),
        ({"response_format": {"schema": {"a": b""}}}, "response_format.schema", "holds bytes, which JSON cannot say"),
        ({"temperature": float("inf")}, "temperature", "expected `float` <= 5.0"),
        ({"min_p": float("nan")}, "min_p", "expected `float` >= 0.0"),
    ],
)
def test_a_bad_field_is_named_by_its_path(fields: dict[str, Any], field: str, what: str) -> None:
    fault = fault_of(V1, request(**fields))
    assert type(fault) is InvalidRequest
    assert fault.message == f"generate.{field}: {what}"
    assert fault.details == {"type": "generate", "field": field}


def test_a_missing_field_of_the_message_itself_is_named() -> None:
    fault = fault_of(V1, msgspec.msgpack.encode({"type": "count", "id": 1}))
    assert fault.message == "count.messages: required field is missing"


def v2(**block: Any) -> bytes:
    return request(messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}, block]}])


V2_TURN: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
BLOCKS = "text image audio thinking tool_use tool_result"
VIDEO = {"kind": "video", "media_type": "video/mp4", "data": b""}


@pytest.mark.parametrize(
    ("codec", "payload", "field", "legal", "came"),
    [
        (
            V1,
            request(messages=[{"role": "robot", "content": "Hi"}]),
            "messages[0].role",
            "system user assistant",
            "robot",
        ),
        (V1, request(priority="urgent"), "priority", "interactive normal batch", "urgent"),
        (V1, request(response_format={"type": "xml", "schema": {}}), "response_format.type", "json_schema", "xml"),
        (
            V2,
            v2(type="video"),
            "messages[0].content[1].type",
            "text image audio thinking tool_use tool_result",
            "video",
        ),
        (V2, request(messages=V2_TURN, tool_choice="perhaps"), "tool_choice", "auto none required", "perhaps"),
        (V2, request(messages=V2_TURN, attachments=[VIDEO]), "attachments[0].kind", "image audio", "video"),
    ],
)
def test_a_choice_that_is_none_lists_the_legal_ones_in_their_order(
    codec: Codec[m.AnyMessage], payload: bytes, field: str, legal: str, came: str
) -> None:
    listed = ", ".join(f"`{value}`" for value in legal.split())
    assert fault_of(codec, payload).message == f"generate.{field}: expected one of {listed}, got `{came}`"


# --- what is repeated of a peer's text ------------------------------------------------------------------------

LONG = "y" * 5000


@pytest.mark.parametrize(
    "payload",
    [
        request(messages=[{"role": LONG, "content": "Hi"}]),
        request(priority=LONG),
        msgspec.msgpack.encode({"type": LONG}),
        msgspec.msgpack.encode({"type": "generate", LONG: 1}),
        request(model=LONG),
        request(response_format={"type": LONG, "schema": {}}),
    ],
)
def test_a_long_text_is_never_repeated_at_length(payload: bytes) -> None:
    frame = module.error_frame(fault_of(V1, payload))
    assert "y" * (MAX_ECHO + 1) not in str(frame)


def test_a_second_type_cannot_hide_a_long_text_from_the_walk() -> None:
    entries = [("type", "generate"), ("id", 1), ("messages", [{"role": LONG, "content": "Hi"}]), ("type", "ping")]
    payload = b"\x84" + b"".join(msgspec.msgpack.encode(key) + msgspec.msgpack.encode(value) for key, value in entries)
    assert "y" * (MAX_ECHO + 1) not in str(module.error_frame(fault_of(V1, payload)))


@settings(deadline=None)
@given(st.text())
def test_shown_text_is_one_printable_line_without_backticks(text: str) -> None:
    short = shown(text)
    assert len(short) <= MAX_ECHO
    assert short.isprintable()
    assert "`" not in short


def test_a_short_printable_text_is_shown_as_it_is() -> None:
    assert shown("Grüße 🔥") == "Grüße 🔥"
    assert shown("a\nb\0") == "a\\nb\\x00"
    assert shown("x" * MAX_ECHO) == "x" * MAX_ECHO
    assert shown("x" * (MAX_ECHO + 1)) == "x" * (MAX_ECHO - 1) + "…"


@pytest.mark.parametrize("role", ["x - at `$.max_tokens`", "x` - at `$.max_tokens", "' - at `key` in `$.id`"])
def test_a_peers_text_cannot_pose_as_the_path_of_a_field(role: str) -> None:
    fault = fault_of(V1, request(messages=[{"role": role, "content": "Hi"}]))
    assert fault.details["field"] == "messages[0].role"


def test_a_field_that_is_no_choice_has_no_legal_values() -> None:
    assert expected_one_of(m.InferRequestV1, {"type": "generate"}, "max_tokens") is None
    assert expected_one_of(m.InferRequestV1, {"type": "generate"}, "no.such[3].path") is None
    assert expected_one_of(m.InferRequestV1, {"type": "generate"}, "") is None


def test_a_choice_that_is_no_string_is_told_by_its_kind() -> None:
    assert expected_one_of(m.InferRequestV1, {"type": "generate", "priority": [1]}, "priority") == (
        "expected one of `interactive`, `normal`, `batch`, got list"
    )


# --- frames out -----------------------------------------------------------------------------------------------


def test_a_frame_over_the_limit_leaves_the_buffer_as_it_was() -> None:
    buffer = bytearray(b"before")
    with pytest.raises(FrameTooLarge):
        append_frame(buffer, m.Token(id=1, text="x" * 100), 100)
    assert buffer == b"before"
    append_frame(buffer, m.Token(id=1, text="x"), 100)
    assert buffer == b"before\x00\x00\x00\x17\x83\xa4type\xa5token\xa2id\x01\xa4text\xa1x"


def test_every_exported_name_exists() -> None:
    for exporting in (module, explain):
        assert all(hasattr(exporting, name) for name in exporting.__all__)
