"""Requests as messages: everything that was asked for goes out, or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vestal.backend import CountRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import Unsupported
from vestal.values import (
    Attachment,
    GenerateOptions,
    ImageBlock,
    Message,
    MessageV2,
    NamedTool,
    ResponseFormat,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from vestal_adapters.remote.anthropic.asking import count_body, messages_body, notices_of
from vestal_adapters.remote.anthropic.listing import Manner

TOOL = Tool("lamp", {"type": "object"}, "Switch it.")
HI = MessageV2("user", [TextBlock("Hi")])
BUDGETS = Manner(4096, "enabled", {"minimal": 1024, "high": 16384})
WORDS = Manner(4096, "adaptive", {"low": "low", "high": "high"})
KNOWN = {"hm": "sig"}


def v1(*turns: Message, **options: Any) -> dict[str, Any]:
    request = GenerateRequest(messages=list(turns) or [Message("user", "Hi")], options=GenerateOptions(**options))
    return messages_body(request, BUDGETS, "small", KNOWN.get)


def v2(*turns: MessageV2, manner: Manner = BUDGETS, **fields: Any) -> dict[str, Any]:
    options = GenerateOptions(**fields.pop("options", {}))
    request = GenerateRequestV2(messages=list(turns) or [HI], options=options, **fields)
    body = messages_body(request, manner, "small", KNOWN.get)
    json.dumps(body)
    return body


def refused_option(**fields: Any) -> str:
    with pytest.raises(Unsupported) as refused:
        v2(**fields)
    return str(refused.value.details["option"])


def test_a_plain_request_and_the_limit_that_the_api_wants() -> None:
    hi = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert v1() == {"model": "small", "stream": True, "max_tokens": 4096, "messages": hi}
    assert v1(max_tokens=5)["max_tokens"] == 5


def test_options_go_out_under_the_names_of_the_api() -> None:
    body = v1(temperature=0.0, top_p=0.5, top_k=3, stop=["x"])
    assert {name: body[name] for name in ("temperature", "top_p", "top_k", "stop_sequences")} == {
        "temperature": 0.0, "top_p": 0.5, "top_k": 3, "stop_sequences": ["x"],
    }  # fmt: skip
    assert "top_k" not in v1(top_k=0)


@pytest.mark.parametrize(("option", "value"), [("temperature", 1.5), ("stop", ["x", "\n"])])
def test_values_that_the_api_does_not_take_are_refused_by_name(option: str, value: Any) -> None:
    assert refused_option(options={option: value}) == option


def test_a_schema_and_an_effort_share_a_field() -> None:
    schema = {"type": "object"}
    body = v2(manner=WORDS, thinking="high", options={"response_format": ResponseFormat(schema)})
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}, "effort": "high"}


def test_system_turns_go_before_all_others_or_are_refused() -> None:
    body = v1(Message("system", "Be"), Message("system", "brief."), Message("user", "Hi"))
    assert body["system"] == [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]
    assert len(body["messages"]) == 1
    with pytest.raises(Unsupported, match="only before all others") as refused:
        v1(Message("user", "Hi"), Message("system", "Be brief."))
    assert refused.value.details["option"] == "messages[1]"


# --- thinking -------------------------------------------------------------------------------------------------


def test_thinking_is_a_budget_or_an_effort() -> None:
    assert v2(thinking="minimal")["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    body = v2(manner=WORDS, thinking="low")
    assert (body["thinking"]["type"], body["output_config"]) == ("adaptive", {"effort": "low"})
    assert v2(thinking="off")["thinking"] == {"type": "disabled"}
    assert "thinking" not in v2()
    assert "thinking" not in v2(manner=Manner(), thinking="off")


def test_a_level_that_there_is_not_or_that_leaves_no_room_is_refused() -> None:
    assert refused_option(thinking="xhigh") == "thinking"
    with pytest.raises(Unsupported, match="thinks 16384 tokens at level 'high': more than max_tokens 4096"):
        v2(thinking="high")
    assert v2(thinking="high", options={"max_tokens": 16385})["max_tokens"] == 16385


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"options": {"temperature": 0.5}}, "temperature"),
        ({"options": {"top_k": 5}}, "top_k"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_cannot_be_beside_thinking_is_refused_by_name(fields: Any, option: str) -> None:
    assert refused_option(thinking="minimal", **fields) == option
    v2(thinking="off", **fields)


def test_thinking_of_earlier_turns_goes_back_with_its_signature_or_is_left_out_with_a_notice() -> None:
    turn = MessageV2("assistant", [ThinkingBlock("hm"), ThinkingBlock("unsigned"), TextBlock("Hello")])
    assert v2(HI, turn, HI)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Hello"},
    ]
    request = GenerateRequestV2(messages=[HI, turn])
    assert [notice.code for notice in notices_of(request, KNOWN.get)] == ["thinking_left_out"]
    assert notices_of(request, lambda _: "sig") == []


# --- tools and images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        (NamedTool("lamp"), {"type": "tool", "name": "lamp"}),
    ],
)
def test_tools_and_the_choice_among_them(choice: Any, told: dict[str, str]) -> None:
    body = v2(tools=[TOOL], tool_choice=choice)
    assert body["tools"] == [{"name": "lamp", "description": "Switch it.", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == told


def test_calls_and_their_results_which_come_first() -> None:
    call = MessageV2("assistant", [TextBlock(""), ToolUseBlock("c1", "lamp", {"on": True})])
    result = MessageV2("user", [TextBlock("So?"), ToolResultBlock("c1", "broken", is_error=True)])
    _, called, told = v2(HI, call, result, tools=[TOOL])["messages"]
    assert called["content"] == [{"type": "tool_use", "id": "c1", "name": "lamp", "input": {"on": True}}]
    assert told["content"] == [
        {"type": "tool_result", "tool_use_id": "c1", "content": "broken", "is_error": True},
        {"type": "text", "text": "So?"},
    ]


def test_an_image() -> None:
    turn = MessageV2("user", [ImageBlock(0), TextBlock("What is it?")])
    (said,) = v2(turn, attachments=[Attachment("image", "image/png", b"\x89PNG")])["messages"]
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    assert said["content"][0] == {"type": "image", "source": source}


# --- counting -------------------------------------------------------------------------------------------------


def test_what_is_counted() -> None:
    body = count_body(CountRequest(messages_v2=[MessageV2("system", [TextBlock("Be")]), HI], tools=[TOOL]), "small")
    assert set(body) == {"model", "messages", "system", "tools"}
    assert count_body(CountRequest(messages=[Message("user", "Hi")]), "small")["messages"] == v1()["messages"]


def test_images_are_not_counted() -> None:
    with pytest.raises(Unsupported, match="images"):
        count_body(CountRequest(messages_v2=[MessageV2("user", [ImageBlock(0)])]), "small")
