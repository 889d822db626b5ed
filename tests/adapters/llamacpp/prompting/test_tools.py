"""Tools and thinking through the engine: chain models that call and think, and a real one that has to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vestal.backend import EndEvent, GenerateRequest, GenerateRequestV2, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.errors import InvalidRequest, Unsupported, WireError
from vestal.values import (
    GenerateOptions,
    Message,
    MessageV2,
    NamedTool,
    ResponseFormat,
    TextBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from vestal_adapters.llamacpp.families import FAMILIES, Family
from vestal_adapters.llamacpp.prompting.tools import MOST_CALLS, call_grammar, offered

END = "<|end|>"
F = Tool("f", {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}, "Does it")
HERMES = ["<tool", "_call>", '\n{"name": "f",', ' "arguments": {"x"', ": 1}}", "\n</tool", "_call>\n"]
KEEPS_LAST = "{% for m in messages %}{{ m.content }}{% endfor %}"
MISTRAL = (Path(__file__).parents[1] / "templates" / "mistral-v3.jinja").read_text()
THINKS = "{# knows <think> #}" + KEEPS_LAST
OPENS = "{% for m in messages %}{{ m.content }}{% endfor %}{{ '<think>\n' }}"


@pytest.fixture
def talk(make_model: Any, start: Any) -> Any:
    """Loads a chain model with room for the default prompt, and asks it."""

    def load(*chains: Any, **metadata: Any) -> Any:
        return start(make_model(*chains, context=4096, **metadata), context_length=4096, slots=1)

    return load


def ask(driver: Any, text: str = "a", *, options: dict[str, Any] | None = None, **fields: Any) -> list[tuple[str, Any]]:
    """What came, neighbours of a kind joined; every token is in an event or is the last of them."""
    message = MessageV2("user", [TextBlock(text)])
    number = len(driver.events) + 1
    sampling = GenerateOptions(**{"temperature": 0.0} | (options or {}))
    driver.submit(number, GenerateRequestV2(messages=[message], options=sampling, cache_scope="me", **fields))
    driver.run()
    found: list[tuple[str, Any]] = []
    for event in driver.events[number]:
        if isinstance(event, ToolUseEvent):
            found.append(("call", {event.name: event.input}))
        elif isinstance(event, TextEvent | ThinkingEvent):
            kind = "text" if isinstance(event, TextEvent) else "thinking"
            if found and found[-1][0] == kind:
                found[-1] = (kind, found[-1][1] + event.text)
            else:
                found.append((kind, event.text))
    return found


def end(driver: Any) -> EndEvent:
    ended: EndEvent = driver.end(max(driver.events))
    return ended


def codes(driver: Any) -> list[str]:
    return [notice.code for notice in end(driver).notices]


def tokens(driver: Any) -> list[int]:
    events = driver.events[max(driver.events)]
    return [event.tokens for event in events if isinstance(event, TextEvent | ThinkingEvent | ToolUseEvent)]


# --- auto -----------------------------------------------------------------------------------------------------


def test_a_call_comes_out_whole_and_ends_the_answer_as_tool_use(talk: Any) -> None:
    driver = talk(["a", "Well.", "\n", *HERMES, END])
    assert ask(driver, tools=[F]) == [("text", "Well."), ("call", {"f": {"x": 1}})]
    assert end(driver).stop_reason == "tool_use"
    assert codes(driver) == ["tools_by_default_prompt"]
    assert tokens(driver) == [1, 8]
    assert sum(tokens(driver)) == end(driver).usage.output_tokens
    assert driver.capabilities.tools


def test_text_without_a_call_is_an_ordinary_answer(talk: Any) -> None:
    driver = talk(["a", "1 <", " 2, <tool", "box>", END])
    assert ask(driver, tools=[F]) == [("text", "1 < 2, <toolbox>")]
    assert end(driver).stop_reason == "end"


def test_a_call_that_is_cut_off_is_text_with_a_notice(talk: Any) -> None:
    driver = talk(["a", *HERMES, END])
    assert ask(driver, tools=[F], options={"max_tokens": 3}) == [("text", "".join(HERMES[:3]))]
    assert end(driver).stop_reason == "length"
    assert codes(driver) == ["tools_by_default_prompt", "tool_call_malformed"]


def test_a_call_of_a_tool_that_was_not_offered_is_text_with_a_notice(talk: Any) -> None:
    driver = talk(["a", *HERMES, END])
    assert ask(driver, tools=[Tool("g", {})]) == [("text", "".join(HERMES))]
    assert "tool_call_malformed" in codes(driver)


@pytest.mark.parametrize("fields", [{}, {"tools": [F], "tool_choice": "none"}])
def test_without_tools_there_are_no_calls(talk: Any, fields: dict[str, Any]) -> None:
    driver = talk(["a", *HERMES, END])
    assert ask(driver, **fields) == [("text", "".join(HERMES))]
    assert end(driver).stop_reason == "end"
    assert end(driver).usage.input_tokens == 1, "the model is not shown tools that it must not call"


def test_a_marker_that_is_a_control_token_is_read_and_never_shown(talk: Any) -> None:
    chain = ["[/INST]", "[TOOL_CALLS]", ' [{"name": "f",', ' "arguments": {"x": 1}}]', END]
    driver = talk(chain, template=MISTRAL, controls=["[TOOL_CALLS]", "[/INST]"])
    assert ask(driver, tools=[F]) == [("call", {"f": {"x": 1}})]
    assert tokens(driver) == [3]
    assert codes(driver) == []
    assert ask(driver) == [("text", ' [{"name": "f", "arguments": {"x": 1}}]')]


def test_results_go_back_by_the_template(talk: Any) -> None:
    driver = talk(["[/TOOL_RESULTS]", "fine", END], template=MISTRAL, controls=["[/TOOL_RESULTS]"])
    messages = [
        MessageV2("user", [TextBlock("?")]),
        MessageV2("assistant", [ToolUseBlock("1", "f", {"x": 1})]),
        MessageV2("user", [ToolResultBlock("1", "[/TOOL_RESULTS]")]),
    ]
    driver.submit(1, GenerateRequestV2(messages=messages, tools=[F]))
    driver.run()
    assert driver.text(1) == "fine"


def test_log_probabilities_are_of_the_texts_tokens(talk: Any) -> None:
    driver = talk(["a", "Well", ".", *HERMES, END])
    ask(driver, tools=[F], options={"logprobs": 0})
    reported = [event.logprobs for event in driver.events[1] if isinstance(event, TextEvent)]
    assert [entry.token for part in reported for entry in part] == [b"Well", b"."]


# --- thinking -------------------------------------------------------------------------------------------------

THINKING = ["a", "<th", "ink>", "\nhm", ", hm", "\n</", "think>\n\n", "Yes", ".", END]


def test_thinking_is_parted_from_the_answer_also_when_a_tag_spans_tokens(talk: Any) -> None:
    driver = talk(THINKING, template=THINKS)
    assert ask(driver) == [("thinking", "hm, hm"), ("text", "Yes.")]
    assert tokens(driver) == [3, 1, 3, 1]
    assert codes(driver) == []


def test_tags_that_are_control_tokens_are_seen(talk: Any) -> None:
    driver = talk(["a", "<think>", "hm", "</think>", "Yes", END], template=THINKS, controls=["<think>", "</think>"])
    assert ask(driver) == [("thinking", "hm"), ("text", "Yes")]


@pytest.mark.parametrize("controls", [[], ["<think>"]])
def test_thinking_that_the_prompt_opens_is_thinking(talk: Any, controls: list[str]) -> None:
    driver = talk([b"\n", "hm", "</think>", "Yes", END], ["<think>"], template=OPENS, controls=controls)
    assert ask(driver) == [("thinking", "hm"), ("text", "Yes")]


def test_the_thinking_of_a_v1_answer_is_left_out_and_that_is_said(talk: Any) -> None:
    driver = talk(THINKING, template=THINKS)
    driver.submit(1, GenerateRequest(messages=[Message("user", "a")]))
    driver.run()
    assert driver.text(1) == "Yes."
    assert not any(isinstance(event, ThinkingEvent) for event in driver.events[1])
    assert codes(driver) == ["thinking_left_out"]
    assert end(driver).usage.output_tokens == sum(tokens(driver)) == 8


def test_thinking_off_opens_no_thinking(talk: Any) -> None:
    driver = talk([b"\n", "Yes", END], template=OPENS)
    assert ask(driver, thinking="off") == [("text", "Yes")]


def test_thinking_in_spite_of_off_is_left_out_and_that_is_said(talk: Any) -> None:
    driver = talk([b"\n", *THINKING[1:]], template=THINKS)
    assert ask(driver, thinking="off") == [("text", "Yes.")]
    assert codes(driver) == ["thinking_left_out"]


def test_a_level_of_thinking_is_a_capability_of_the_template(talk: Any) -> None:
    driver = talk(["a", "Yes", END])
    assert not driver.capabilities.thinking
    with pytest.raises(Unsupported, match="high"):
        ask(driver, thinking="high")
    driver = talk(["a", "Yes", END], template="{{ reasoning_effort }}" + KEEPS_LAST)
    assert driver.capabilities.thinking
    assert ask(driver, thinking="high") == [("text", "Yes")]


def test_a_model_that_does_not_think_is_off_already(talk: Any) -> None:
    assert ask(talk(THINKING), thinking="off") == [("text", "".join(THINKING[1:-1]))]


# --- enforced -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", NamedTool("f")])
def test_an_answer_that_has_to_call_does(talk: Any, choice: Any) -> None:
    driver = talk(["a", "I would", " rather not.", END])
    found = ask(driver, tools=[F], tool_choice=choice, options={"max_tokens": 2000, "seed": 1})
    assert {kind for kind, _ in found} == {"call"}
    assert all(isinstance(call["f"]["x"], int) for _, call in found)
    assert end(driver).stop_reason == "tool_use"


def test_a_marker_that_is_a_control_token_can_be_enforced(talk: Any) -> None:
    driver = talk(["[/INST]", "[TOOL_CALLS]", " no", END], template=MISTRAL, controls=["[TOOL_CALLS]", "[/INST]"])
    found = ask(driver, tools=[F], tool_choice=NamedTool("f"), options={"max_tokens": 2000})
    assert [kind for kind, _ in found] == ["call"]


def test_a_thinking_model_that_has_to_call_does_not_think_first(talk: Any) -> None:
    driver = talk([b"\n", "hm", END], template=OPENS)
    found = ask(driver, tools=[F], tool_choice="required", options={"max_tokens": 2000})
    assert {kind for kind, _ in found} == {"call"}
    assert "thinking_skipped" in codes(driver)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_schema_that_cannot_be_enforced_is_named(family: Family) -> None:
    tools = [F, Tool("g", {"type": "object", "properties": {"y": {"not": {}}}})]

    def grammar(choice: Any) -> str | None:
        return call_grammar(family, GenerateRequestV2(messages=[], tools=tools, tool_choice=choice))

    with pytest.raises(WireError, match=r"tools\[1\]\.input_schema\.properties\.y") as caught:
        grammar("required")
    assert isinstance(caught.value, Unsupported)
    assert grammar(NamedTool("f"))
    assert grammar("auto") is grammar("none") is None


def test_arguments_that_are_no_objects_are_refused() -> None:
    request = GenerateRequestV2(messages=[], tools=[Tool("f", {"type": "string"})], tool_choice="required")
    with pytest.raises(InvalidRequest, match=r"tools\[0\]\.input_schema"):
        call_grammar(FAMILIES[0], request)


def test_there_is_an_end_to_calls() -> None:
    grammar = call_grammar(FAMILIES[0], GenerateRequestV2(messages=[], tools=[F], tool_choice="required"))
    assert grammar is not None
    assert f"{{0,{MOST_CALLS - 1}}}" in grammar.splitlines()[0]


@pytest.mark.parametrize(
    ("option", "value"), [("grammar", 'root ::= "x"'), ("response_format", ResponseFormat({"type": "object"}))]
)
def test_tools_and_a_grammar_of_the_callers_do_not_go_together(talk: Any, option: str, value: Any) -> None:
    driver = talk(["a", "x", END])
    with pytest.raises(Unsupported) as caught:
        ask(driver, tools=[F], options={option: value})
    assert caught.value.details["option"] == option


def test_v1_has_no_tools() -> None:
    assert offered(GenerateRequest(messages=[])) == []


# --- the real model -------------------------------------------------------------------------------------------

PLAN = Tool(
    "plan_trip",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "by": {"enum": ["train", "plane"]},
            "stops": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        },
        "required": ["city", "days", "by"],
        "additionalProperties": False,
    },
    "Plan a trip",
)
NOTE = Tool(
    "note", {"type": "object", "properties": {"text": {"type": "string", "maxLength": 40}}, "required": ["text"]}
)


def check(name: str, given: dict[str, Any]) -> None:
    """The schemas above, written out."""
    if name == "note":
        assert set(given) == {"text"}
        assert len(given["text"]) <= 40
        return
    assert name == "plan_trip"
    assert {"city", "days", "by"} <= set(given) <= {"city", "days", "by", "stops"}
    assert len(given["city"]) <= 20
    assert given["days"] in range(1, 15)
    assert given["by"] in ("train", "plane")
    assert len(given.get("stops", [])) <= 3
    assert all(len(stop) <= 12 for stop in given.get("stops", []))


@pytest.mark.model
@pytest.mark.timeout(240)  # four answers of up to 200 tokens, on a machine that has other things to do
@pytest.mark.parametrize("choice", ["required", NamedTool("plan_trip")])
def test_a_real_model_calls_as_it_has_to(smollm2_path: str, start: Any, choice: Any) -> None:
    driver = start(smollm2_path, context_length=1024, slots=1)
    reasons = []
    for seed in range(4):
        options = {"seed": seed, "temperature": 1.0, "max_tokens": 200}
        found = ask(driver, "Plan a trip to Rome.", options=options, tools=[PLAN, NOTE], tool_choice=choice)
        reasons.append(end(driver).stop_reason)
        calls = [call for kind, call in found if kind == "call"]
        assert reasons[-1] == "length" or (calls and len(calls) == len(found))
        for call in calls:
            ((name, given),) = call.items()
            assert choice == "required" or name == choice.name
            check(name, given)
    assert "tool_use" in reasons
