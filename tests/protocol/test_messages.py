"""Every message survives the wire, as the socket's own codec reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from vestal import messages as m
from vestal import values as v
from vestal.codec import Codec, encode
from vestal.errors import WireError

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FLOATS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
JSON_OBJECT = st.dictionaries(st.text(max_size=5), JSON, max_size=2)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)


def values_of(type: inspect.Type) -> st.SearchStrategy[Any]:
    """Every value that msgspec would take for `type`, small ones."""
    for known, made in _MAKERS.items():
        if isinstance(type, known):
            return made(type)
    raise NotImplementedError(type)


def _ints(type: Any) -> st.SearchStrategy[int]:
    low = -(2**63) if type.ge is None else type.ge
    return st.integers(low, (2**63 - 1 if type.le is None else type.le) if type.lt is None else type.lt - 1)


def _floats(type: Any) -> st.SearchStrategy[float]:
    low, high = (type.ge if type.gt is None else type.gt), type.le
    return st.floats(low, high, exclude_min=type.gt is not None, allow_nan=False, allow_infinity=False)


def _texts(type: Any) -> st.SearchStrategy[str]:
    return NAMES if type.pattern else st.text(min_size=type.min_length or 0, max_size=min(type.max_length or 12, 12))


def _lists(type: Any) -> st.SearchStrategy[list[Any]]:
    low = type.min_length or 0
    return st.lists(values_of(type.item_type), min_size=low, max_size=max(low, 2))


_MAKERS: dict[type, Callable[[Any], st.SearchStrategy[Any]]] = {
    inspect.IntType: _ints,
    inspect.FloatType: _floats,
    inspect.StrType: _texts,
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.BytesType: lambda _: st.binary(max_size=8),
    inspect.AnyType: lambda _: JSON,
    inspect.LiteralType: lambda type: st.sampled_from(type.values),
    inspect.DictType: lambda type: st.dictionaries(values_of(type.key_type), values_of(type.value_type), max_size=2),
    inspect.ListType: _lists,
    inspect.VarTupleType: lambda type: _lists(type).map(tuple),
    inspect.UnionType: lambda type: st.one_of(*map(values_of, type.types)),
    inspect.StructType: lambda type: structs(type.cls),
}

_TWO_ATTACHMENTS = [
    v.Attachment(kind="image", media_type="image/png", data=b"\x89PNG"),
    v.Attachment(kind="audio", media_type="audio/wav", data=b""),
]
_TOOLS = st.lists(st.builds(v.Tool, name=NAMES, input_schema=JSON_OBJECT), max_size=2, unique_by=lambda tool: tool.name)


@st.composite
def _messages_v2(draw: st.DrawFn) -> v.MessageV2:
    """Blocks that the role may carry; image and audio name one of `_TWO_ATTACHMENTS`."""
    text = st.builds(v.TextBlock, text=st.text(max_size=8))
    result = st.builds(v.ToolResultBlock, call_id=NAMES, content=st.text(max_size=8), is_error=st.booleans())
    media = st.just(v.ImageBlock(attachment=0)) | st.just(v.AudioBlock(attachment=1))
    asked = st.builds(v.ToolUseBlock, call_id=NAMES, name=NAMES, input=JSON_OBJECT)
    thought = st.builds(v.ThinkingBlock, text=st.text(max_size=8))
    of_role: dict[v.Role, st.SearchStrategy[v.ContentBlock]] = {
        "system": text,
        "user": text | media | result,
        "assistant": text | thought | asked,
    }
    role = draw(st.sampled_from(list(of_role)))
    return v.MessageV2(role=role, content=draw(st.lists(of_role[role], min_size=1, max_size=3)))


@st.composite
def _generates_v2(draw: st.DrawFn) -> m.GenerateV2:
    tools = draw(_TOOLS)
    choices: list[v.ToolChoice] = ["auto", "none"]
    choices += ["required", *(v.NamedTool(name=tool.name) for tool in tools)] if tools else []
    return m.GenerateV2(
        id=draw(st.integers(0, 2**63 - 1)),
        messages=draw(st.lists(_messages_v2(), min_size=1, max_size=2)),
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
        thinking=draw(st.sampled_from(["auto", "off", "xhigh"])),
        attachments=_TWO_ATTACHMENTS,
        temperature=draw(st.none() | st.floats(0, 5)),
    )


def _generates(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """One of `grammar` and `response_format` at most."""
    return (
        _fields(cls)
        .map(lambda made: made if not made["grammar"] else {**made, "response_format": None})
        .map(lambda made: cls(**made))
    )


def _fields(cls: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return st.fixed_dictionaries({field.name: values_of(field.type) for field in info.fields})


_SPECIAL: dict[type, Callable[[], st.SearchStrategy[Any]]] = {
    m.Generate: lambda: _generates(m.Generate),
    m.GenerateV2: _generates_v2,
    v.MessageV2: _messages_v2,
}


def structs(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Every message of one type that breaks no rule."""
    if cls in _SPECIAL:
        return _SPECIAL[cls]()
    return _fields(cls).map(lambda made: cls(**made))


UNIONS: dict[str, Any] = {
    "hello": m.Hello,
    "welcome": m.Welcome | m.Error,
    "infer requests v1": m.InferRequestV1,
    "infer requests v2": m.InferRequestV2,
    "infer replies": m.InferReply,
    "embed requests": m.EmbedRequest,
    "embed replies": m.EmbedReply,
    "admin requests": m.AdminRequest,
    "admin replies": m.AdminReply,
}
CASES: list[tuple[str, type[msgspec.Struct]]] = [
    (name, cls) for name, union in UNIONS.items() for cls in getattr(union, "__args__", (union,))
]


@pytest.mark.parametrize(("union", "cls"), CASES, ids=[f"{name}: {cls.__name__}" for name, cls in CASES])
def test_a_message_decodes_to_what_was_encoded(union: str, cls: type[msgspec.Struct]) -> None:
    codec: Codec[msgspec.Struct] = Codec(UNIONS[union])

    @settings(deadline=None, max_examples=25)
    @given(structs(cls))
    def holds(message: msgspec.Struct) -> None:
        assert codec.decode(encode(message)) == message

    holds()


def test_every_message_type_is_on_some_socket_and_exported() -> None:
    on_a_socket = {cls for _, cls in CASES}
    assert on_a_socket == set(m.AnyMessage.__args__)
    assert {cls.__name__ for cls in on_a_socket} <= set(m.__all__)


def test_no_union_holds_two_messages_of_one_type() -> None:
    for union in UNIONS.values():
        tags = [cls.__struct_config__.tag for cls in getattr(union, "__args__", (union,))]
        assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("cls", {cls.__name__: cls for _, cls in CASES}.values())
def test_a_message_is_frozen_and_leaves_out_its_defaults(cls: type[msgspec.Struct]) -> None:
    assert cls.__struct_config__.frozen
    assert cls.__struct_config__.omit_defaults


def test_the_type_comes_first_in_the_encoding() -> None:
    assert encode(m.Token(id=1, text="Hi")) == b"\x83\xa4type\xa5token\xa2id\x01\xa4text\xa2Hi"


def test_a_bare_generate_carries_nothing_but_what_was_said() -> None:
    message = m.Generate(id=1, messages=[v.Message(role="user", content="Hi")])
    assert set(msgspec.msgpack.decode(encode(message))) == {"type", "id", "messages"}


def test_an_attachment_does_not_print_its_bytes() -> None:
    assert repr(v.Attachment(kind="image", media_type="image/png", data=b"secret" * 9)) == (
        "Attachment(kind='image', media_type='image/png', bytes=54)"
    )


V1: Codec[m.AnyMessage] = Codec(m.InferRequestV1)
V2: Codec[m.AnyMessage] = Codec(m.InferRequestV2)


def with_options(**options: Any) -> bytes:
    return msgspec.msgpack.encode(
        {"type": "generate", "id": 1, "messages": [{"role": "user", "content": "Hi"}], **options}
    )


def bounds() -> list[tuple[str, float, float]]:
    """(option, a legal extreme, the nearest number outside), for every numeric option."""
    found = []
    for field in inspect.type_info(v.GenerateOptions).fields:  # type: ignore[attr-defined]  # of a StructType
        for type in getattr(field.type, "types", [field.type]):
            step = 1 if isinstance(type, inspect.IntType) else 0.5
            if isinstance(type, inspect.IntType | inspect.FloatType):
                low = type.ge if type.gt is None else type.gt
                assert low is not None
                assert type.le is not None
                found.append((field.name, type.le, type.le + step))
                found.append((field.name, low + step, low) if type.gt is not None else (field.name, low, low - step))
    return found


@pytest.mark.parametrize(("option", "inside", "outside"), bounds())
def test_an_option_is_taken_up_to_its_bound_and_refused_beyond(option: str, inside: float, outside: float) -> None:
    assert getattr(V1.decode(with_options(**{option: inside})), option) == inside
    with pytest.raises(WireError, match=f"^generate.{option}: ") as refusal:
        V1.decode(with_options(**{option: outside}))
    assert refusal.value.details["field"] == option


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "option", ["temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"]
)
def test_no_option_takes_a_number_that_is_not_finite(option: str, number: float) -> None:
    with pytest.raises(WireError, match=f"^generate.{option}: "):
        V1.decode(with_options(**{option: number}))


@pytest.mark.parametrize("option", v.GenerateOptions.__struct_fields__)
def test_an_option_at_its_default_can_be_spelled_out(option: str) -> None:
    default = getattr(v.GenerateOptions(), option)
    assert getattr(V1.decode(with_options(**{option: default})), option) == default


def test_an_integer_is_taken_where_a_float_is_meant_and_not_the_other_way_round() -> None:
    assert V1.decode(with_options(temperature=1)) == V1.decode(with_options(temperature=1.0))
    with pytest.raises(WireError, match=r"generate\.top_k"):
        V1.decode(with_options(top_k=1.0))


def v2_with(**fields: Any) -> bytes:
    message = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    return msgspec.msgpack.encode({"type": "generate", "id": 1, "messages": [message], **fields})


def test_a_tool_may_be_named_only_if_it_is_offered() -> None:
    tool = {"name": "weather", "input_schema": {}}
    chosen = V2.decode(v2_with(tools=[tool], tool_choice={"name": "weather"}))
    assert isinstance(chosen, m.GenerateV2)
    assert chosen.tool_choice == v.NamedTool(name="weather")
    with pytest.raises(WireError, match="no tool is named `stocks`"):
        V2.decode(v2_with(tools=[tool], tool_choice={"name": "stocks"}))


def test_a_long_tool_name_is_not_repeated_at_length() -> None:
    with pytest.raises(WireError) as refusal:
        V2.decode(v2_with(tool_choice={"name": "x" * 256}))
    assert "x" * 65 not in refusal.value.message


def test_a_block_must_point_at_an_attachment_of_its_own_kind() -> None:
    audio = {"kind": "audio", "media_type": "audio/wav", "data": b""}
    blocks = [{"type": "text", "text": "Hi"}, {"type": "image", "attachment": 0}]
    with pytest.raises(WireError, match="a `image` block names a `audio` attachment") as refusal:
        V2.decode(v2_with(messages=[{"role": "user", "content": blocks}], attachments=[audio]))
    assert refusal.value.details["field"] == "messages[0].content[1].attachment"


def test_every_exported_name_exists() -> None:
    assert all(hasattr(m, name) for name in m.__all__)
