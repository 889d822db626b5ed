"""Streamed completions become the port's events, whatever their server leaves out or makes up."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.remote.web import chunk, done
from vestal.backend import EndEvent, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.errors import WireError
from vestal.values import TokenLogprob, TopLogprob, Usage
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.openai.answers import ChatAnswer


def read(*data: Any, v2: bool = True, key: Key | None = None) -> list[Any]:
    answer = ChatAnswer("cluster", v2=v2, prompt_size=40, key=key)
    events = [e for item in data for e in answer.feed(item if isinstance(item, str) else json.dumps(item))]
    assert answer.ended
    return events


def end_of(*data: Any, v2: bool = True) -> EndEvent:
    (end,) = [event for event in read(*data, v2=v2) if isinstance(event, EndEvent)]
    return end


def codes(end: EndEvent) -> list[str]:
    return [notice.code for notice in end.notices]


@pytest.mark.parametrize(
    ("finish", "reason", "notices"),
    [
        ("stop", "end", []),
        ("length", "length", []),
        ("content_filter", "refused", []),
        ("eos_reached", "end", ["unknown_stop_reason"]),
        ("tool_calls", "end", []),
    ],
)
def test_reasons_to_finish(finish: str, reason: str, notices: list[str]) -> None:
    end = end_of(chunk("Hi"), chunk(finish=finish), *done())
    assert (end.stop_reason, codes(end)) == (reason, notices)


def test_a_reason_that_nobody_knows_is_told_as_it_came() -> None:
    assert "'eos_reached'" in end_of(chunk("Hi", finish="eos_reached"), *done()).notices[0].message


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_a_reason_that_is_a_failure_is_an_error(finish: str) -> None:
    with pytest.raises(WireError, match=finish):
        read(chunk("Hi", finish=finish), *done())


def test_a_stop_string_is_known_where_the_server_tells_it() -> None:
    finished: dict[str, Any] = {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    assert end_of(chunk("Hi"), finished, *done()).stop_reason == "stop_sequence"
    finished["choices"][0]["stop_reason"] = 151645  # a token that ends a turn
    assert end_of(chunk("Hi"), finished, *done()).stop_reason == "end"


def test_usage_with_what_was_cached() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    assert end_of(chunk("Hi", "stop"), {"choices": [], "usage": usage}, "[DONE]").usage == Usage(9, 4, 3)


def test_usage_that_is_not_told_is_estimated_and_that_is_said() -> None:
    end = end_of(chunk("a"), chunk("b", "stop"), "[DONE]")
    assert (end.usage, codes(end)) == (Usage(10, 0, 2), ["usage_estimated"])


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_thinking_in_v2_and_left_out_with_a_notice_in_v1(field: str) -> None:
    data = [chunk(**{field: "hm"}), chunk(**{field: "m"}), chunk("Hi", "stop"), *done()]
    assert read(*data)[:3] == [ThinkingEvent("hm"), ThinkingEvent("m"), TextEvent("Hi")]
    v1 = read(*data, v2=False)
    assert v1[0] == TextEvent("Hi")
    assert codes(v1[-1]) == ["thinking_left_out"]


def test_a_refusal_is_text_and_a_reason() -> None:
    events = read(chunk(refusal="I cannot."), chunk(finish="stop"), *done())
    assert events[0] == TextEvent("I cannot.")
    assert events[-1].stop_reason == "refused"


def calls(*pieces: tuple[int, str | None, str | None, str | None]) -> list[dict[str, Any]]:
    return [
        chunk(tool_calls=[{"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}])
        for index, id_, name, arguments in pieces
    ]


@given(cuts=st.lists(st.integers(0, 30), max_size=6))
def test_a_call_is_whole_however_it_was_cut(cuts: list[int]) -> None:
    arguments = '{"on": true, "room": "h\\u00e4ll"}'
    places = sorted({0, len(arguments), *cuts})
    pieces = [arguments[start:end] for start, end in pairwise(places)]
    data = calls((0, "c1", "lamp", ""), *((0, None, None, piece) for piece in pieces))
    events = read(*data, chunk(finish="tool_calls"), *done())
    assert events[0] == ToolUseEvent("c1", "lamp", {"on": True, "room": "h\u00e4ll"}, len(pieces) + 1)
    assert events[1].stop_reason == "tool_use"


def test_calls_that_are_interleaved_come_in_their_order() -> None:
    data = calls((1, "b", "two", "{"), (0, "a", "one", "{"), (1, None, None, "}"), (0, None, None, "}"))
    first, second, end = read(*data, chunk(finish="stop"), *done())
    assert [first.name, second.name] == ["one", "two"]
    assert end.stop_reason == "tool_use"  # whatever the server calls it


@pytest.mark.parametrize("arguments", ['{"on": tr', "[1]", "on"])
def test_a_call_that_cannot_be_read_is_text_with_a_notice(arguments: str) -> None:
    text, end = read(*calls((0, "c1", "lamp", arguments)), chunk(finish="tool_calls"), *done())
    assert text == TextEvent(f"lamp({arguments})", 1)
    assert (end.stop_reason, codes(end)) == ("end", ["tool_call_malformed"])


def test_a_call_without_arguments_has_none() -> None:
    assert read(*calls((0, "c1", "now", None)), chunk(finish="tool_calls"), *done())[0].input == {}


def test_logprobs_with_their_alternatives() -> None:
    piece = chunk("Hi")
    top = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}, {"token": "\u2603", "logprob": -2.0}]
    piece["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.5, "top_logprobs": top}]}
    (text, _) = read(piece, chunk(finish="stop"), *done())
    assert text.logprobs == (
        TokenLogprob(b"Hi", -0.5, (TopLogprob(b"Hi", -0.5), TopLogprob("\u2603".encode(), -2.0))),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"message": "busy", "code": 429}, "backend_unavailable", True),
        ({"message": "broken", "code": "server_error"}, "backend_crashed", True),
        ("broken", "backend_crashed", True),
        ({"message": "too long", "code": 400, "type": "context_length_exceeded"}, "backend_refused", False),
    ],
)
def test_an_error_inside_the_stream(error: Any, code: str, retryable: bool) -> None:
    with pytest.raises(WireError) as failed:
        read(chunk("Hi"), {"error": error})
    assert (failed.value.code, failed.value.retryable) == (code, retryable)


def test_a_key_that_comes_back_in_an_error_is_masked() -> None:
    key = Key("sk-secret-1234", "variable A")
    for data in ({"error": {"message": f"bad {key.value}"}}, {"choices": key.value}):
        with pytest.raises(WireError) as failed:
            read(data, key=key)
        assert key.value not in f"{failed.value!r} {failed.value}"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "delta", "content", "error", "usage", "tool_calls", "x"]), inner)
    ),
    max_leaves=8,
)


@given(data=JUNK)
def test_nothing_a_server_sends_is_more_than_an_error_of_the_wire(data: Any) -> None:
    answer = ChatAnswer("cluster", v2=True, prompt_size=0)
    try:
        answer.feed(json.dumps(data))
    except WireError as error:
        assert error.message.isprintable()
