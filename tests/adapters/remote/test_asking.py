"""Requests in each server's dialect: everything that was asked for goes out, or is refused by name."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from vestal.backend import GenerateRequest, GenerateRequestV2
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
    Thinking,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from vestal_adapters.remote.openai.asking import chat_body, notices_of
from vestal_adapters.remote.openai.presets import PRESETS, PresetName
from vestal_adapters.remote.requests import THINKING_LEFT_OUT

TOOL = Tool("lamp", {"type": "object"}, "Switch it.")
SCHEMA = {"type": "object"}
NAMES: tuple[PresetName, ...] = get_args(PresetName)


def v1(preset: PresetName = "vllm", scope: str | None = "1", **options: Any) -> dict[str, Any]:
    request = GenerateRequest(messages=[Message("user", "Hi")], options=GenerateOptions(**options), cache_scope=scope)
    return chat_body(request, PRESETS[preset], "small", thinks=True, has_details=True)


def v2(*turns: MessageV2, preset: PresetName = "vllm", **fields: Any) -> dict[str, Any]:
    return chat_body(
        GenerateRequestV2(messages=list(turns) or [MessageV2("user", [TextBlock("Hi")])], cache_scope="1", **fields),
        PRESETS[preset],
        "small",
        thinks=True,
        has_details=True,
    )


@pytest.mark.parametrize("preset", NAMES)
def test_every_preset_streams_and_asks_for_the_usage(preset: PresetName) -> None:
    body = v1(preset)
    assert (body["stream"], body["stream_options"], body["model"]) == (True, {"include_usage": True}, "small")
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    json.dumps(body)


@pytest.mark.parametrize("preset", NAMES)
def test_every_option_that_is_promised_goes_out(preset: PresetName) -> None:
    values: dict[str, Any] = dict.fromkeys(PRESETS[preset].fields, 1) | {"stop": ["x"]}
    body = v1(preset, **values)
    assert {body[field] == values[name] for name, field in PRESETS[preset].fields.items()} == {True}


def test_an_option_that_was_not_given_does_not_go_out() -> None:
    assert not set(PRESETS["vllm"].fields.values()) & set(v1())


def test_zero_is_given() -> None:
    assert v1(temperature=0.0, seed=0) | {"temperature": 0.0, "seed": 0} == v1(temperature=0.0, seed=0)


def test_more_stop_strings_than_a_server_takes_are_refused() -> None:
    assert v1("openai", stop=["a", "b", "c", "d"])["stop"] == ["a", "b", "c", "d"]
    with pytest.raises(Unsupported) as error:
        v1("openai", stop=["a", "b", "c", "d", "e"])
    assert error.value.details == {"option": "stop"}


def test_a_schema_in_both_dialects() -> None:
    asked = ResponseFormat(SCHEMA)
    assert v1("llamacpp", response_format=asked)["response_format"] == {"type": "json_object", "schema": SCHEMA}
    assert v1("openai", response_format=asked)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
    }


def test_logprobs_and_grammar() -> None:
    assert v1(logprobs=0) | {"logprobs": True, "top_logprobs": 0} == v1(logprobs=0) | {"cache_salt": v1()["cache_salt"]}
    assert v1("llamacpp", grammar='root ::= "a"')["grammar"] == 'root ::= "a"'


def test_callers_get_salts_that_differ_and_do_not_tell_who_they_are() -> None:
    mine, again, other = v1(scope="1000"), v1(scope="1000"), v1(scope="1001")
    assert mine["cache_salt"] == again["cache_salt"] != other["cache_salt"]
    assert "1000" not in mine["cache_salt"]
    assert v1(scope=None)["cache_salt"] != v1(scope=None)["cache_salt"]


def test_a_prompt_that_is_to_stay_out_of_the_cache_does_or_is_refused() -> None:
    assert v1("llamacpp", scope=None)["cache_prompt"] is False
    assert "cache_prompt" not in v1("llamacpp")
    with pytest.raises(Unsupported) as error:
        v1("openai", scope=None)
    assert error.value.details == {"option": "cache"}


@pytest.mark.parametrize("preset", NAMES)
@pytest.mark.parametrize("level", get_args(Thinking))
def test_each_level_of_thinking_goes_out_or_is_refused(preset: PresetName, level: Thinking) -> None:
    dialect = PRESETS[preset]
    if level == "auto" or dialect.thinking is None:
        assert set(v2(preset=preset, thinking=level)) - {"cache_salt"} == set(v2(preset=preset)) - {"cache_salt"}
    elif level in dialect.efforts:
        assert v2(preset=preset, thinking=level)[dialect.thinking] == dialect.efforts[level]
    else:
        with pytest.raises(Unsupported) as error:
            v2(preset=preset, thinking=level)
        assert error.value.details == {"option": "thinking"}


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        (NamedTool("lamp"), {"type": "function", "function": {"name": "lamp"}}),
    ],
)
def test_tools_and_the_choice_among_them(choice: Any, said: object) -> None:
    body = v2(tools=[TOOL], tool_choice=choice)
    assert body["tool_choice"] == said
    function = {"name": "lamp", "description": "Switch it.", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]


@pytest.mark.parametrize("preset", ["ollama", "llamacpp"])
def test_a_server_that_ignores_the_choice_is_not_asked_for_it(preset: PresetName) -> None:
    assert "tools" not in v2(preset=preset, tools=[TOOL], tool_choice="none")
    assert v2(preset=preset, tools=[TOOL])["tool_choice"] == "auto"
    for choice in ("required", NamedTool("lamp")):
        with pytest.raises(Unsupported) as error:
            v2(preset=preset, tools=[TOOL], tool_choice=choice)
        assert error.value.details == {"option": "tool_choice"}


def test_a_model_that_is_known_not_to_think_is_not_told_so() -> None:
    """OpenRouter, which is asked for providers that honour every field, would find none."""
    asked = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("Hi")])], cache_scope="1", thinking="off")
    for thinks, sent in ((False, None), (True, {"effort": "none"})):
        body = chat_body(asked, PRESETS["openrouter"], "small", thinks=thinks, has_details=False)
        assert body.get("reasoning") == sent
    # Of OpenAI's nobody says which of them think: one that does would go on.
    body = chat_body(asked, PRESETS["openai"], "small", thinks=False, has_details=False)
    assert body["reasoning_effort"] == "none"


def test_a_conversation_with_tools_images_and_thinking() -> None:
    turns = [
        MessageV2("system", [TextBlock("Be "), TextBlock("brief.")]),
        MessageV2("user", [TextBlock("See"), ImageBlock(0)]),
        MessageV2("assistant", [ThinkingBlock("hm"), TextBlock("Well"), ToolUseBlock("c1", "lamp", {"on": True})]),
        MessageV2("user", [TextBlock("and?"), ToolResultBlock("c1", "dark", is_error=True)]),
        MessageV2("assistant", [ThinkingBlock("hm")]),
    ]
    image = Attachment("image", "image/png", b"\x89PNG")
    assert v2(*turns, attachments=[image])["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
            ],
        },
        {
            "role": "assistant",
            "content": "Well",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "lamp", "arguments": '{"on":true}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Error: dark"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": ""},
    ]  # fmt: skip
    request = GenerateRequestV2(messages=turns, attachments=[image])
    assert notices_of(request) == [THINKING_LEFT_OUT]
    assert notices_of(GenerateRequestV2(messages=turns[:2], attachments=[image])) == []


def test_extras_of_a_preset_are_always_there() -> None:
    assert v1("openrouter")["provider"] == {"require_parameters": True}
    assert v1("venice")["venice_parameters"] == {"include_venice_system_prompt": False}
