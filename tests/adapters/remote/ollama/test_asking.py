"""Requests as chats of Ollama: everything that was asked for goes out, or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vestal.backend import EmbedRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import Unsupported
from vestal.values import (
    Attachment,
    ContentBlock,
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
from vestal_adapters.remote.ollama.asking import chat_body, load_body, notices_of
from vestal_adapters.remote.ollama.listing import Manner
from vestal_adapters.remote.ollama.vectors import embed_body

TOOL = Tool("lamp", {"type": "object"}, "Switch it.")
HI = MessageV2("user", [TextBlock("Hi")])
SWITCH = Manner(64, (False, True))
LEVELS = Manner(64, ("low", "medium", "high"))
KEPT = {"keep_alive": -1.0}


def v1(scope: str | None = "1", **options: Any) -> dict[str, Any]:
    request = GenerateRequest(messages=[Message("user", "Hi")], options=GenerateOptions(**options), cache_scope=scope)
    return chat_body(request, SWITCH, "small", KEPT)


def request_v2(*turns: MessageV2, **fields: Any) -> GenerateRequestV2:
    return GenerateRequestV2(messages=list(turns) or [HI], cache_scope="1", **fields)


def v2(*turns: MessageV2, manner: Manner = SWITCH, **fields: Any) -> dict[str, Any]:
    body = chat_body(request_v2(*turns, **fields), manner, "small", KEPT)
    json.dumps(body)
    return body


def test_every_request_says_how_long_the_context_is_and_that_nothing_is_to_be_cut() -> None:
    assert v1() == {
        "model": "small", "stream": True, "truncate": False, "shift": False, "keep_alive": -1.0,
        "options": {"num_ctx": 64}, "messages": [{"role": "user", "content": "Hi"}],
    }  # fmt: skip
    assert load_body(SWITCH, "small", KEPT)["options"] == {"num_ctx": 64}
    body = embed_body(EmbedRequest(input=["a"]), SWITCH, "small", {})
    assert body == {"model": "small", "input": ["a"], "truncate": False, "options": {"num_ctx": 64}}


def test_options_go_out_under_the_names_of_the_api() -> None:
    options = v1(max_tokens=5, temperature=0.0, top_p=0.5, top_k=0, min_p=0.1, seed=0, stop=["x"])["options"]
    assert options == {
        "num_ctx": 64, "num_predict": 5, "temperature": 0.0, "top_p": 0.5, "top_k": 0, "min_p": 0.1, "seed": 0,
        "stop": ["x"],
    }  # fmt: skip


def test_a_schema_is_the_format() -> None:
    assert v1(response_format=ResponseFormat({"type": "object"}))["format"] == {"type": "object"}


def test_a_prompt_that_is_to_be_cached_for_nobody_is_refused() -> None:
    with pytest.raises(Unsupported) as refused:
        v1(scope=None)
    assert refused.value.details["option"] == "cache"


# --- thinking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manner", "level", "value"),
    [
        (SWITCH, "off", False),
        (SWITCH, "high", True),
        (LEVELS, "high", "high"),
        (Manner(64, (False, "low")), "off", False),
    ],
)
def test_levels_of_thinking(manner: Manner, level: Any, value: bool | str) -> None:
    assert v2(manner=manner, thinking=level)["think"] == value
    assert "think" not in v2(manner=manner)
    assert "think" not in v2(manner=Manner(64), thinking="off")


def test_a_level_that_is_only_on_is_told() -> None:
    (notice,) = notices_of(request_v2(thinking="high"), SWITCH)
    assert (notice.code, "'high' was sent as on" in notice.message) == ("thinking_level", True)
    assert notices_of(request_v2(thinking="high"), LEVELS) == []
    assert notices_of(request_v2(thinking="off"), SWITCH) == []


@pytest.mark.parametrize("level", ["off", "minimal", "xhigh"])
def test_a_level_that_there_is_not_is_refused(level: Any) -> None:
    with pytest.raises(Unsupported, match=f"no level '{level}'; it takes low, medium, high") as refused:
        v2(manner=LEVELS, thinking=level)
    assert refused.value.details["option"] == "thinking"


def test_thinking_of_earlier_turns_goes_back() -> None:
    turn = MessageV2("assistant", [ThinkingBlock("hm"), TextBlock("Hello")])
    assert v2(HI, turn)["messages"][1] == {"role": "assistant", "content": "Hello", "thinking": "hm"}


# --- tools and images -----------------------------------------------------------------------------------------


def test_tools_are_shown_unless_none_may_be_called() -> None:
    function = {"name": "lamp", "description": "Switch it.", "parameters": {"type": "object"}}
    assert v2(tools=[TOOL])["tools"] == [{"type": "function", "function": function}]
    assert "tools" not in v2(tools=[TOOL], tool_choice="none")


@pytest.mark.parametrize("choice", ["required", NamedTool("lamp")])
def test_a_call_cannot_be_forced(choice: Any) -> None:
    with pytest.raises(Unsupported, match="cannot be made to call a tool") as refused:
        v2(tools=[TOOL], tool_choice=choice)
    assert refused.value.details["option"] == "tool_choice"


def test_calls_and_their_results_with_the_name_of_the_tool() -> None:
    call = MessageV2("assistant", [ToolUseBlock("c1", "lamp", {"on": True})])
    results: list[ContentBlock] = [
        ToolResultBlock("c1", "broken", is_error=True),
        ToolResultBlock("c9", "?"),
        TextBlock("So?"),
    ]
    _, called, first, second, said = v2(HI, call, MessageV2("user", results), tools=[TOOL])["messages"]
    assert called["tool_calls"] == [{"id": "c1", "function": {"name": "lamp", "arguments": {"on": True}}}]
    assert first == {"role": "tool", "content": "Error: broken", "tool_call_id": "c1", "tool_name": "lamp"}
    assert second == {"role": "tool", "content": "?", "tool_call_id": "c9"}
    assert said == {"role": "user", "content": "So?"}


def test_an_image() -> None:
    turn = MessageV2("user", [TextBlock("What is it?"), ImageBlock(0)])
    (said,) = v2(turn, attachments=[Attachment("image", "image/png", b"\x89PNG")])["messages"]
    assert said == {"role": "user", "content": "What is it?", "images": ["iVBORw=="]}


# --- prompts that may be cut ----------------------------------------------------------------------------------

OLD = Manner(64, (), cuts=True)


@pytest.mark.parametrize(
    ("manner", "text", "options", "told"),
    [
        (OLD, "x", {}, False),
        (OLD, "x" * 64, {}, True),
        (OLD, "x", {"max_tokens": 60}, True),
        (Manner(64, (), cuts=True, preamble=60), "x", {}, True),
        (SWITCH, "x" * 64, {}, False),  # which the server refuses
    ],
)
def test_an_old_server_may_have_cut_a_prompt_that_is_not_surely_short_enough(
    manner: Manner, text: str, options: Any, told: bool
) -> None:
    request = GenerateRequest(messages=[Message("user", text)], options=GenerateOptions(**options), cache_scope="1")
    assert [notice.code for notice in notices_of(request, manner)] == ["prompt_may_be_cut"] * told


def test_nobody_knows_how_many_tokens_an_image_is() -> None:
    image = request_v2(MessageV2("user", [ImageBlock(0)]), attachments=[Attachment("image", "image/png", b"x")])
    assert [notice.code for notice in notices_of(image, Manner(1 << 20, (), cuts=True))] == ["prompt_may_be_cut"]


# --- embeddings -----------------------------------------------------------------------------------------------


def test_dimensions_go_out_and_what_has_no_field_is_refused_by_name() -> None:
    assert embed_body(EmbedRequest(input=["a"], dimensions=2), SWITCH, "small", KEPT)["dimensions"] == 2
    for request, option in (
        (EmbedRequest(input=["a"], task="query"), "task"),
        (EmbedRequest(input=["a"], normalize=False), "normalize"),
    ):
        with pytest.raises(Unsupported) as refused:
            embed_body(request, SWITCH, "small", {})
        assert refused.value.details == {"option": option}
