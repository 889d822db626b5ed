"""Streamed messages become the port's events, whatever their server leaves out, interleaves or makes up."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.remote.anthropic.model import begin, block, delta, finish, stop
from vestal.backend import EndEvent, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.errors import WireError
from vestal.values import Usage
from vestal_adapters.remote.anthropic.answers import MessageAnswer
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.streamed import MAX_KEPT

TEXT = [begin(), block(0, "text", text=""), delta(0, text="Hel"), delta(0, text="lo"), stop(0)]


def fed(answer: MessageAnswer, *data: Any) -> list[Any]:
    return [event for item in data for event in answer.feed(item if isinstance(item, str) else json.dumps(item))]


def read(*data: Any, **how: Any) -> list[Any]:
    answer = MessageAnswer("cloud", **({"v2": True, "prompt_size": 40} | how))
    events = fed(answer, *data)
    assert answer.ended
    return events


def codes(end: EndEvent) -> list[str]:
    return [notice.code for notice in end.notices]


def test_a_message_in_pieces_with_its_usage() -> None:
    assert read(*TEXT, *finish()) == [TextEvent("Hel"), TextEvent("lo"), EndEvent("end", Usage(7, 0, 2))]


@pytest.mark.parametrize(
    ("told", "reason", "notices"),
    [
        ("end_turn", "end", []),
        ("max_tokens", "length", []),
        ("stop_sequence", "stop_sequence", []),
        ("refusal", "refused", []),
        ("model_context_window_exceeded", "length", ["context_full"]),
        ("tool_use", "end", []),  # without a call
        ("pause_turn", "end", ["unknown_stop_reason"]),
    ],
)
def test_reasons_to_stop(told: str, reason: str, notices: list[str]) -> None:
    end = read(*TEXT, *finish(told))[-1]
    assert (end.stop_reason, codes(end)) == (reason, notices)


def test_a_limit_that_nobody_asked_for_is_told_when_it_is_reached() -> None:
    end = read(*TEXT, *finish("max_tokens"), chosen_limit=4096)[-1]
    assert (end.stop_reason, codes(end)) == ("length", ["max_tokens_chosen"])
    assert "4096" in end.notices[0].message
    assert codes(read(*TEXT, *finish(), chosen_limit=4096)[-1]) == []


def test_input_that_was_cached_is_input() -> None:
    data = [begin(5, cache_read_input_tokens=20, cache_creation_input_tokens=3), *TEXT[1:]]
    assert read(*data, *finish(tokens=9))[-1].usage == Usage(28, 20, 9)


def test_usage_that_is_not_told_is_estimated_and_that_is_said() -> None:
    untold = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]
    end = read(*TEXT[1:], *untold)[-1]
    assert (end.usage, codes(end)) == (Usage(10, 0, 2), ["usage_estimated"])


# --- thinking -------------------------------------------------------------------------------------------------

THOUGHT = [
    begin(), block(0, "thinking", thinking=""), delta(0, thinking="h"), delta(0, thinking="m"),
    delta(0, signature="si"), delta(0, signature="gn"), stop(0), block(1, "text", text="Hi"), stop(1),
]  # fmt: skip


def test_thinking_is_thinking_in_v2_and_left_out_with_a_notice_in_v1() -> None:
    assert read(*THOUGHT, *finish())[:3] == [ThinkingEvent("h"), ThinkingEvent("m"), TextEvent("Hi")]
    first, end = read(*THOUGHT, *finish(), v2=False)
    assert (first, codes(end)) == (TextEvent("Hi"), ["thinking_left_out"])


def test_a_signature_is_handed_over_with_its_whole_thinking() -> None:
    signed: list[tuple[str, str]] = []
    read(*THOUGHT, *finish(), signed=lambda *what: signed.append(what))
    assert signed == [("hm", "sign")]


def test_thinking_in_cipher_and_blocks_that_nobody_knows_are_told() -> None:
    data = [begin(), block(0, "redacted_thinking", data="x"), stop(0), block(1, "web_search_tool_result"), stop(1)]
    end = read(*data, *finish())[-1]
    assert codes(end) == ["thinking_left_out", "content_left_out"]
    assert "'web_search_tool_result'" in end.notices[1].message


def test_thinking_that_is_not_shown_is_told() -> None:
    hidden = [begin(), block(0, "thinking", thinking=""), delta(0, signature="sign"), stop(0)]
    signed: list[tuple[str, str]] = []
    end = read(*hidden, *finish(), signed=lambda *what: signed.append(what))[-1]
    assert (codes(end), signed) == (["thinking_left_out"], [])


# --- calls ----------------------------------------------------------------------------------------------------


def call(index: int, *pieces: str, name: str = "lamp", **fields: Any) -> list[Any]:
    deltas = [delta(index, type="input_json_delta", partial_json=piece) for piece in pieces]
    return [block(index, "tool_use", **({"id": f"t{index}", "name": name, "input": {}} | fields)), *deltas, stop(index)]


@given(cuts=st.lists(st.integers(0, 30), max_size=6))
def test_a_call_is_whole_however_it_was_cut(cuts: list[int]) -> None:
    arguments = '{"on": true, "room": "h\\u00e4ll"}'
    pieces = [arguments[start:end] for start, end in pairwise(sorted({0, len(arguments), *cuts}))]
    first, end = read(begin(), *call(0, "", *pieces), *finish("tool_use"))
    assert first == ToolUseEvent("t0", "lamp", {"on": True, "room": "h\u00e4ll"}, len([p for p in pieces if p]) + 1)
    assert end.stop_reason == "tool_use"


def test_calls_whose_pieces_are_interleaved_stay_apart() -> None:
    one, two = call(0, '{"a": 1}', name="one"), call(1, '{"b": 2}', name="two")
    mixed = [piece for pair in zip(one, two, strict=True) for piece in pair]
    first, second, _ = read(begin(), *mixed, *finish("tool_use"))
    assert [(first.name, first.input), (second.name, second.input)] == [("one", {"a": 1}), ("two", {"b": 2})]


def test_a_call_whose_input_comes_at_once_or_not_at_all() -> None:
    assert read(begin(), *call(0, input={"on": True}), *finish("tool_use"))[0].input == {"on": True}
    assert read(begin(), *call(0), *finish("tool_use"))[0].input == {}


@pytest.mark.parametrize("reason", ["tool_use", "max_tokens"])
def test_a_call_that_was_cut_off_is_text_with_a_notice(reason: str) -> None:
    text, end = read(begin(), *call(0, '{"on": tr'), *finish(reason))
    assert text == TextEvent('lamp({"on": tr)', 2)
    assert codes(end) == ["tool_call_malformed"]
    assert end.stop_reason == ("length" if reason == "max_tokens" else "end")


# --- what goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        ("overloaded_error", "backend_unavailable", True),
        ("rate_limit_error", "backend_unavailable", True),
        ("timeout_error", "backend_unavailable", True),
        ("api_error", "backend_crashed", True),
        ("invalid_request_error", "backend_refused", False),
        ("authentication_error", "backend_refused", False),
        ("billing_error", "backend_refused", False),
        ("error_of_tomorrow", "backend_crashed", True),
    ],
)
def test_an_error_inside_the_stream_is_what_its_type_would_have_been_before(
    kind: str, code: str, retryable: bool
) -> None:
    with pytest.raises(WireError, match="Oh no") as failed:
        read(*TEXT, {"type": "error", "error": {"type": kind, "message": "Oh no"}})
    assert (failed.value.code, failed.value.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (["{"], "not a chunk of an answer"),
        ([{"type": 7}], "not a chunk of an answer"),
        ([{"index": 0}], "not a chunk of an answer"),
        ([delta(0, text="x")], "had not begun"),
        ([stop(0)], "had not begun"),
        ([block(0, "text"), delta(0, partial_json="{")], "had not begun"),
        ([begin(-1)], "not a chunk of an answer"),
    ],
)
def test_an_answer_that_breaks_the_rules_is_an_error_that_no_retry_helps(data: list[Any], why: str) -> None:
    with pytest.raises(WireError, match=why) as failed:
        read(*data)
    assert (failed.value.code, failed.value.retryable) == ("backend_crashed", False)


@pytest.mark.parametrize(
    "data",
    [
        [*TEXT, finish()[1]],  # no reason
        [*TEXT, *finish(None)],
        [*TEXT[:-1], *finish()],  # a block that has not ended
    ],
)
def test_an_end_that_is_none_is_an_error(data: list[Any]) -> None:
    with pytest.raises(WireError, match="without the end marker"):
        read(*data)


def test_a_key_that_comes_back_in_an_error_is_masked() -> None:
    key = Key("sk-ant-secret", "variable A")
    for data in ({"type": "error", "error": {"message": f"bad {key.value}"}}, {"type": "ping", "index": key.value}):
        with pytest.raises(WireError) as failed:
            read(data, key=key)
        assert key.value not in f"{failed.value!r} {failed.value}"


KEYS = ["type", "index", "delta", "content_block", "message", "usage", "error", "text", "input", "input_tokens"]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["message_stop", "error", "tool_use", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=10,
)


@given(data=st.lists(JUNK, max_size=4))
def test_nothing_a_server_sends_is_more_than_an_error_of_the_wire(data: list[Any]) -> None:
    try:
        fed(MessageAnswer("cloud", v2=True, prompt_size=0), *map(json.dumps, data))
    except WireError as error:
        assert error.message.isprintable()


@pytest.mark.parametrize("field", ["signature", "thinking", "partial_json"])
def test_a_block_that_never_ends_is_bounded(field: str) -> None:
    answer = MessageAnswer("cloud", v2=False, prompt_size=40)
    fed(answer, begin(), block(0, "tool_use", id="t1", name="lamp", input={}))
    with pytest.raises(WireError, match=f"more than {MAX_KEPT} characters"):
        for _ in range(2 * MAX_KEPT // 65_536):
            fed(answer, delta(0, **{field: "x" * 65_536}))


def test_blocks_that_nobody_knows_make_a_bounded_number_of_notices_and_are_bounded_themselves() -> None:
    kinds = [item for index in range(1000) for item in (block(index, f"kind {index}"), stop(index))]
    end = read(begin(), *kinds, *finish())[-1]
    assert 1 < len(end.notices) < 20
    answer = MessageAnswer("cloud", v2=True, prompt_size=40)
    with pytest.raises(WireError, match=f"more than {MAX_KEPT} characters"):
        for index in range(MAX_KEPT // 32):
            fed(answer, block(index, "odd"))
