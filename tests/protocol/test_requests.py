"""User arguments become exactly the message the daemon would accept, or the error it would answer with."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal import messages as m
from vestal import requests
from vestal.codec import Codec, encode
from vestal.errors import InvalidRequest, Unsupported
from vestal.values import (
    Attachment,
    ImageBlock,
    Message,
    MessageV2,
    NamedTool,
    ResponseFormat,
    TextBlock,
    Tool,
    ToolResultBlock,
)


def generate(version: int, prompt: Any, *, system: str | None = None, stream: bool = True, **options: Any) -> Any:
    return requests.generate_message(7, version, prompt, system=system, options=options, stream=stream)


WEATHER = Tool(name="weather", input_schema={"type": "object"})


def test_a_text_is_one_user_message() -> None:
    assert generate(1, "Hi").messages == [Message("user", "Hi")]
    assert generate(2, "Hi").messages == [MessageV2("user", [TextBlock("Hi")])]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "Hi"},
        Message("user", "Hi"),
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "user", "content": [TextBlock("Hi")]},
        MessageV2("user", [TextBlock("Hi")]),
    ],
)
def test_a_message_may_be_a_map_or_a_struct_of_either_version(message: Any) -> None:
    assert generate(1, [message]).messages == [Message("user", "Hi")]
    assert generate(2, [message]).messages == [MessageV2("user", [TextBlock("Hi")])]


def test_any_iterable_of_messages_is_a_conversation() -> None:
    turns = ({"role": role, "content": "x"} for role in ("user", "assistant", "user"))
    assert [message.role for message in generate(2, turns).messages] == ["user", "assistant", "user"]


def test_system_goes_before_the_conversation() -> None:
    assert generate(1, "Hi", system="Be brief.").messages == [Message("system", "Be brief."), Message("user", "Hi")]
    assert generate(2, "Hi", system="Be brief.").messages[0] == MessageV2("system", [TextBlock("Be brief.")])


@pytest.mark.parametrize("first", [{"role": "system", "content": "a"}, Message("system", "a")])
def test_two_system_prompts_are_refused(first: Any) -> None:
    with pytest.raises(InvalidRequest, match="already begins with a system message") as caught:
        generate(2, [first, {"role": "user", "content": "b"}], system="c")
    assert caught.value.details["field"] == "system"


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ({"role": "user", "content": "Hi"}, "put it in a list"),
        (Message("user", "Hi"), "put it in a list"),
        (b"Hi", "got `bytes`"),
        (17, "got `int`"),
        ([], "messages"),
        (["Hi"], "messages\\[0\\]"),
        ([{"role": "robot", "content": "Hi"}], "messages\\[0\\].role"),
        ([{"role": "user"}], "messages\\[0\\].content"),
    ],
)
def test_a_prompt_of_another_shape_is_named(prompt: Any, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        generate(2, prompt)


def test_every_option_of_the_structs_is_an_option_of_the_client() -> None:
    fields = set(m.GenerateV2.__struct_fields__) - {"id", "messages", "stream"}
    assert set(requests.Options.__annotations__) == fields
    assert set(m.Generate.__struct_fields__) - {"id", "messages", "stream"} == fields - set(requests._ONLY_V2)


def test_options_reach_the_message_unchanged() -> None:
    message = generate(
        2,
        "Hi",
        stream=False,
        max_tokens=20,
        temperature=0,
        stop=("a", "b"),
        seed=None,
        response_format=ResponseFormat({"type": "object"}),
        tools=[WEATHER, {"name": "clock", "input_schema": {}}],
        tool_choice={"name": "clock"},
        thinking="high",
    )
    assert message == m.GenerateV2(
        id=7,
        messages=[MessageV2("user", [TextBlock("Hi")])],
        stream=False,
        max_tokens=20,
        temperature=0.0,
        stop=["a", "b"],
        response_format=ResponseFormat({"type": "object"}),
        tools=[WEATHER, Tool(name="clock", input_schema={})],
        tool_choice=NamedTool("clock"),
        thinking="high",
    )


def test_attachments_travel_as_bytes() -> None:
    picture = Attachment("image", "image/png", b"\x89PNG")
    message = generate(2, [MessageV2("user", [ImageBlock(0)])], attachments=[picture])
    assert message.attachments == [picture]
    as_map = {"kind": "image", "media_type": "image/png", "data": bytearray(b"\x89PNG")}
    assert generate(2, [MessageV2("user", [ImageBlock(0)])], attachments=[as_map]) == message


@pytest.mark.parametrize(
    ("name", "hint"), [("max_token", "`max_tokens`"), ("temprature", "`temperature`"), ("zzz", "there are model, ")]
)
def test_a_misspelt_option_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequest, match=f"no option `{name}`") as caught:
        requests.check_options({name: 1})
    assert hint in str(caught.value.hint)
    assert caught.value.details == {"field": name}


def test_stream_is_chosen_by_the_method_not_by_an_option() -> None:
    with pytest.raises(InvalidRequest, match="no option `stream`"):
        requests.check_options({"stream": False})


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": "many"},
        {"max_tokens": 0},
        {"temperature": 9},
        {"temperature": float("nan")},
        {"stop": "x"},
        {"priority": "urgent"},
        {"response_format": {"type": "xml"}},
        {"tools": [{"name": "a b", "input_schema": {}}]},
        {"tool_choice": "required"},
        {"grammar": "root ::= x", "response_format": {"type": "json_schema", "schema": {}}},
    ],
)
def test_a_wrong_value_is_refused_in_the_daemons_words(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as here:
        generate(2, "Hi", **options)
    wire = {"type": "generate", "id": 7, "messages": [MessageV2("user", [TextBlock("Hi")])], **options}
    with pytest.raises(InvalidRequest) as there:
        Codec[Any](m.InferRequestV2).decode(encode(wire))
    assert (here.value.message, here.value.details) == (there.value.message, there.value.details)
    assert here.value.details["field"]


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", 1 + 2j])
def test_a_value_the_wire_cannot_hold_names_its_option(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"generate\.grammar: .*plain Python values") as caught:
        generate(2, "Hi", max_tokens=3, grammar=value)
    assert caught.value.details["field"] == "grammar"


@pytest.mark.parametrize(
    ("prompt", "options", "field", "near"),
    [
        ([{"role": "user", "content": "Hi", "name": "bob"}], {}, "messages[0].name", None),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a", "txt": "b"}]}],
            {},
            "messages[0].content[0].txt",
            "text",
        ),
        (
            "Hi",
            {"tools": [{"name": "a", "input_schema": {}, "descripton": "b"}]},
            "tools[0].descripton",
            "description",
        ),
        ("Hi", {"response_format": {"type": "json_schema", "schema": {}, "strict": 1}}, "response_format.strict", None),
    ],
)
def test_a_key_the_daemon_would_ignore_is_refused(prompt: Any, options: Any, field: str, near: str | None) -> None:
    with pytest.raises(InvalidRequest, match="has no field") as caught:
        generate(2, prompt, **options)
    assert caught.value.details["field"] == field
    assert near is None or f"did you mean `{near}`?" == caught.value.hint


def test_what_is_free_form_on_the_wire_stays_free_form() -> None:
    schema = {"type": "object", "properties": {"anything": {"x-note": 1}}, "unheard_of": True}
    assert generate(2, "Hi", tools=[{"name": "a", "input_schema": schema}]).tools[0].input_schema == schema


@pytest.mark.parametrize(
    ("prompt", "options", "option"),
    [
        ("Hi", {"tools": [WEATHER]}, "tools"),
        ("Hi", {"tool_choice": "required"}, "tool_choice"),
        ("Hi", {"thinking": "high"}, "thinking"),
        ("Hi", {"attachments": [Attachment("image", "image/png", b"")]}, "attachments"),
        ([MessageV2("user", [TextBlock("a"), TextBlock("b")])], {}, "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image", "attachment": 0}]}], {}, "messages[0].content"),
        ([MessageV2("user", [ToolResultBlock("c", "x")])], {}, "messages[0].content"),
    ],
)
def test_version_1_refuses_what_needs_version_2_by_name(prompt: Any, options: Any, option: str) -> None:
    with pytest.raises(Unsupported, match="needs protocol version 2") as caught:
        generate(1, prompt, **options)
    assert caught.value.details["option"] == option


def test_version_1_takes_v2_options_that_ask_for_nothing() -> None:
    message = generate(1, "Hi", tools=[], tool_choice="auto", thinking="auto", attachments=[])
    assert message == m.Generate(id=7, messages=[Message("user", "Hi")])


def test_count_has_the_shape_of_its_version() -> None:
    def count(version: int, **given: Any) -> Any:
        fields = {"system": None, "model": None, "tools": None, **given}
        return requests.count_message(3, version, "Hi", **fields)

    assert count(1, model="a") == m.Count(id=3, messages=[Message("user", "Hi")], model="a")
    assert count(2, tools=[WEATHER]) == m.CountV2(
        id=3, messages=[MessageV2("user", [TextBlock("Hi")])], tools=[WEATHER]
    )
    with pytest.raises(Unsupported, match="`tools`"):
        count(1, tools=[WEATHER])


def test_embed_takes_one_text_or_several() -> None:
    def embed(input: Any, **given: Any) -> m.Embed:
        fields = {"model": None, "dimensions": None, "task": None, "normalize": None, **given}
        return requests.embed_message(3, input, **fields)

    assert embed("a").input == ["a"]
    assert embed(("a", "b"), normalize=False) == m.Embed(id=3, input=["a", "b"], normalize=False)
    for wrong, field in (([], "input"), (["a", 1], "input[1]"), (17, "input")):
        with pytest.raises(InvalidRequest) as caught:
            embed(wrong)
        assert caught.value.details["field"] == field


def test_admin_commands_are_checked_too() -> None:
    assert requests.admin_message(m.Stop, 4, deadline_ms=None) == m.Stop(id=4)
    with pytest.raises(InvalidRequest) as caught:
        requests.admin_message(m.Stop, 4, deadline_ms=-1)
    assert caught.value.details["field"] == "deadline_ms"


def test_a_hello_is_checked_when_the_client_is_made() -> None:
    with pytest.raises(InvalidRequest) as caught:
        requests.hello_message(versions=(), client="x", features=(), require=())
    assert caught.value.details["field"] == "versions"


words = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)


@given(
    turns=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), words), min_size=1, max_size=5),
    options=st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.integers(1, 2**31 - 1),
            "temperature": st.floats(0, 5),
            "seed": st.integers(0, 2**32 - 2),
            "stop": st.lists(words.filter(bool), max_size=3),
            "priority": st.sampled_from(["interactive", "normal", "batch"]),
            "timeout_ms": st.integers(1, 10**6) | st.none(),
        },
    ),
    version=st.sampled_from([1, 2]),
)
def test_what_is_built_is_what_the_daemon_reads(
    turns: list[tuple[str, str]], options: dict[str, Any], version: int
) -> None:
    built = generate(version, [{"role": role, "content": text} for role, text in turns], **options)
    union = m.InferRequestV1 if version == 1 else m.InferRequestV2
    assert Codec[Any](union).decode(encode(built)) == built
    fields = msgspec.structs.asdict(built)
    assert all(fields[name] == value for name, value in options.items() if value is not None)
