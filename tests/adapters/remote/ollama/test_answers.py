"""Streamed chats become the port's events, whatever their server leaves out or makes up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.remote.ollama.model import done, line
from vestal.backend import EndEvent, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.errors import WireError
from vestal.values import Usage
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.ollama.answers import LineAnswer


def fed(answer: LineAnswer, *data: Any) -> list[Any]:
    return [event for item in data for event in answer.feed(item if isinstance(item, str) else json.dumps(item))]


def read(*data: Any, v2: bool = True, key: Key | None = None) -> list[Any]:
    answer = LineAnswer("local", v2=v2, prompt_size=40, key=key)
    events = fed(answer, *data)
    assert answer.ended
    return events


def codes(end: EndEvent) -> list[str]:
    return [notice.code for notice in end.notices]


def test_a_chat_in_pieces_with_its_usage() -> None:
    assert read(line("Hel"), line("lo"), done()) == [TextEvent("Hel"), TextEvent("lo"), EndEvent("end", Usage(7, 0, 2))]


@pytest.mark.parametrize(
    ("told", "reason", "notices"),
    [
        ("stop", "end", []),
        ("length", "length", []),
        ("unload", "end", ["unknown_stop_reason"]),
        (None, "end", ["unknown_stop_reason"]),
    ],
)
def test_reasons_to_be_done(told: str | None, reason: str, notices: list[str]) -> None:
    end = read(line("Hi"), done(told))[-1]
    assert (end.stop_reason, codes(end)) == (reason, notices)


@pytest.mark.parametrize("counts", [{"prompt": None}, {"output": None}])
def test_usage_that_is_not_told_is_estimated_and_that_is_said(counts: Any) -> None:
    end = read(line("a"), line("b"), line("c"), done(**counts))[-1]
    assert (end.usage, codes(end)) == (Usage(10, 0, 3), ["usage_estimated"])


def test_thinking_is_thinking_in_v2_and_left_out_with_a_notice_in_v1() -> None:
    data = [line(thinking="hm"), line("Hi"), done()]
    assert read(*data)[:2] == [ThinkingEvent("hm"), TextEvent("Hi")]
    first, end = read(*data, v2=False)
    assert (first, codes(end)) == (TextEvent("Hi"), ["thinking_left_out"])


def call(name: str = "lamp", arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return fields | {"function": {"name": name} | ({} if arguments is None else {"arguments": arguments})}


def test_calls_come_whole_and_two_of_one_tool_are_two() -> None:
    data = [
        line(tool_calls=[call(arguments={"on": True}), call(arguments={"on": False})]),
        line(tool_calls=[call(id="x")]),
    ]
    first, second, third, end = read(*data, done())
    assert first == ToolUseEvent("call_0_lamp", "lamp", {"on": True}, 1)
    assert (second.call_id, second.input) == ("call_1_lamp", {"on": False})
    assert (third.call_id, third.input) == ("x", {})
    assert end.stop_reason == "tool_use"  # which the server calls stop


@pytest.mark.parametrize("arguments", ["on", [1]])
def test_a_call_that_cannot_be_read_is_text_with_a_notice(arguments: Any) -> None:
    text, end = read(line(tool_calls=[call(arguments=arguments)]), done())
    assert text == TextEvent(f"lamp({json.dumps(arguments)})", 1)
    assert (end.stop_reason, codes(end)) == ("end", ["tool_call_malformed"])


def test_an_answer_that_was_cut_off_after_a_call_was_cut_off() -> None:
    assert read(line(tool_calls=[call()]), done("length"))[-1].stop_reason == "length"


def test_an_error_line_is_an_error() -> None:
    with pytest.raises(WireError, match="llama runner process has terminated") as failed:
        read(line("Hi"), {"error": "llama runner process has terminated"})
    assert (failed.value.code, failed.value.retryable) == ("backend_crashed", True)


@pytest.mark.parametrize("data", ["{", "[]", '"x"', '{"message": 7}', '{"done": "yes"}', '{"prompt_eval_count": -1}'])
def test_a_line_that_is_none_is_an_error_that_no_retry_helps(data: str) -> None:
    with pytest.raises(WireError, match="not a chunk of an answer") as failed:
        read(data)
    assert (failed.value.code, failed.value.retryable) == ("backend_crashed", False)


def test_a_key_that_comes_back_in_an_error_is_masked() -> None:
    key = Key("ollama-secret", "variable A")
    with pytest.raises(WireError) as failed:
        read({"error": f"bad {key.value}"}, key=key)
    assert key.value not in f"{failed.value!r} {failed.value}"


KEYS = ["message", "content", "thinking", "tool_calls", "function", "arguments", "done", "done_reason", "eval_count"]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=10,
)


@given(data=st.lists(JUNK, max_size=4))
def test_nothing_a_server_sends_is_more_than_an_error_of_the_wire(data: list[Any]) -> None:
    try:
        fed(LineAnswer("local", v2=True, prompt_size=0), *map(json.dumps, data))
    except WireError as error:
        assert error.message.isprintable()
