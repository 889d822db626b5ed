"""Streamed completions become the port's events, whatever their server leaves out or makes up."""

from __future__ import annotations

import itertools
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
from vestal_adapters.remote import streamed
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.openai.answers import ChatAnswer
from vestal_adapters.remote.streamed import MAX_KEPT


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


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 3, "completion_tokens": None}])
def test_usage_that_is_not_told_is_estimated_and_that_is_said(usage: Any) -> None:
    end = end_of(chunk("a"), chunk("b", "stop"), {"choices": [], "usage": usage}, "[DONE]")
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


@pytest.mark.parametrize("arguments", ['{"on": ' + "[" * 64 + "]" * 64 + "}", '{"on": 18446744073709551616}'])
def test_a_call_that_no_frame_can_hold_is_text_with_a_notice(arguments: str) -> None:
    text, end = read(*calls((0, "c1", "lamp", arguments)), chunk(finish="tool_calls"), *done())
    assert text == TextEvent(f"lamp({arguments})", 1)
    assert (end.stop_reason, codes(end)) == ("end", ["tool_call_malformed"])


@pytest.mark.parametrize("index", [0, None], ids=["all of them 0", "none"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("a", "lamp", "{}"), ("b", "lamp", '{"on": true}')),
        (("a", "lamp", None), ("b", "door", '{"on": true}')),
        (("", "lamp", '{"on": 1}'), ("", "lamp", '{"on": true}')),  # without ids, but each of them whole
    ],
)
def test_calls_that_have_one_number_are_calls_all_the_same(index: Any, first: Any, second: Any) -> None:
    """Of Ollama until 0.5 and of others that take Gemini's: each call comes whole, and all are number 0."""
    one, two, end = read(*calls((index, *first), (index, *second)), chunk(finish="stop"), *done())
    assert [(call.name, call.input) for call in (one, two)] == [
        (first[1], json.loads(first[2] or "{}")),
        (second[1], {"on": True}),
    ]
    assert end.stop_reason == "tool_use"


def test_pieces_of_one_call_that_have_an_id_each_are_one_call() -> None:
    """Of vLLM, where a named tool was forced: every piece has the name, and an id of its own."""
    pieces = ['{"on"', ": tr", "ue", "}"]
    data = calls(*((0, f"c{number}", "lamp", piece) for number, piece in enumerate(pieces)))
    call, _ = read(*data, chunk(finish="stop"), *done())
    assert (call.name, call.input) == ("lamp", {"on": True})


def test_an_empty_piece_after_a_whole_call_is_no_call() -> None:
    data = calls((0, "c1", "lamp", "{}"), (0, "c2", "lamp", "\n"))
    call, end = read(*data, chunk(finish="stop"), *done())
    assert (call.name, call.input, codes(end)) == ("lamp", {}, [])


def test_a_call_that_is_told_twice_is_not_guessed_at() -> None:
    data = calls((0, "c1", "lamp", "{}"), (0, "c1", "lamp", '{"on": true}'))
    text, end = read(*data, chunk(finish="stop"), *done())
    assert text == TextEvent('lamp({}{"on": true})', 2)
    assert codes(end) == ["tool_call_malformed"]


def test_what_is_refused_is_refused_also_after_a_call() -> None:
    _, end = read(*calls((0, "c1", "lamp", "{}")), chunk(finish="content_filter"), *done())
    assert end.stop_reason == "refused"


@pytest.mark.parametrize(
    "piece", [calls((0, "c1", "lamp", "x" * 65_536)), calls(*((index, "c", "l", "") for index in range(1024)))]
)
def test_calls_that_never_end_are_bounded(piece: list[dict[str, Any]]) -> None:
    answer = ChatAnswer("cluster", v2=True, prompt_size=40)
    numbered = itertools.count()
    with pytest.raises(WireError, match=f"more than {MAX_KEPT} characters") as failed:
        for _ in range(2 * MAX_KEPT // 65_536):
            for item in piece:
                call = item["choices"][0]["delta"]["tool_calls"][0]
                call["index"] = next(numbered) if len(piece) > 1 else 0
                answer.feed(json.dumps(item))
    assert (failed.value.code, failed.value.retryable) == ("backend_crashed", False)


@pytest.mark.parametrize("field", ["content", "reasoning"])
def test_an_answer_that_no_frame_could_hold_is_bounded(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not stream has it kept in the daemon."""
    monkeypatch.setattr(streamed, "MAX_SAID", 1000)
    answer = ChatAnswer("cluster", v2=True, prompt_size=40)
    piece = json.dumps(chunk(**{field: "x" * 100}))
    assert all(answer.feed(piece) for _ in range(10))
    with pytest.raises(WireError, match="more than 1000 characters"):
        answer.feed(piece)


def test_probabilities_are_a_part_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "MAX_SAID", 1000)
    piece = chunk("x")
    token = {"token": "x", "logprob": -0.5}
    piece["choices"][0]["logprobs"] = {"content": [token | {"top_logprobs": [token] * 20}]}
    with pytest.raises(WireError, match="more than 1000 characters"):
        read(*[piece] * 4)


@pytest.mark.parametrize("usage", [{"prompt_tokens": 2**64}, {"completion_tokens": 10**30}, {"prompt_tokens": -1}])
def test_a_count_that_no_frame_can_hold_is_none(usage: dict[str, int]) -> None:
    with pytest.raises(WireError, match="not a chunk of an answer"):
        read(chunk("Hi", "stop"), {"choices": [], "usage": usage}, "[DONE]")


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
        ({"message": "slower", "code": "rate_limit_exceeded"}, "backend_unavailable", True),
        ({"message": "wrong", "type": "invalid_request_error", "code": None}, "backend_refused", False),
        ({"message": "more than the context length"}, "context_overflow", False),  # LM Studio tells no code
        ("broken", "backend_crashed", True),
        ({"message": "broken", "code": "\u00b2"}, "backend_crashed", True),
        ({"message": "broken", "code": "4" * 5000}, "backend_crashed", True),
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
