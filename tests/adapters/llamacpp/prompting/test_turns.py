"""What may be left out of a conversation, and what belongs together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.values import Message, MessageV2, TextBlock, ToolResultBlock, ToolUseBlock
from vestal_adapters.llamacpp.prompting.turns import droppable_turns, fewest, without


def talk(*roles: str) -> list[Message]:
    names: dict[str, Any] = {"s": "system", "u": "user", "a": "assistant"}
    return [Message(names[role], str(number)) for number, role in enumerate(roles)]


def said(text: str) -> MessageV2:
    return MessageV2("user", [TextBlock(text)])


def call(call_id: str) -> MessageV2:
    return MessageV2("assistant", [ToolUseBlock(call_id, "f", {})])


def result(call_id: str, *more: TextBlock) -> MessageV2:
    return MessageV2("user", [ToolResultBlock(call_id, "4"), *more])


@pytest.mark.parametrize(
    ("roles", "turns"),
    [
        ("", []),
        ("u", []),
        ("su", []),
        ("suau", [[1, 2]]),
        ("suausau", [[1, 2], [3, 5]]),
        ("auau", [[0], [1, 2]]),
        ("uuu", [[0], [1]]),
        ("ua", []),
        ("sa", []),
    ],
)
def test_a_turn_is_what_a_user_says_and_what_follows(roles: str, turns: list[list[int]]) -> None:
    assert droppable_turns(talk(*roles)) == turns


def test_a_call_and_its_result_are_of_one_turn() -> None:
    assert droppable_turns([said("a"), call("1"), result("1"), said("b")]) == [[0, 1, 2]]


def test_a_user_who_speaks_between_a_call_and_its_result_makes_one_turn_of_both() -> None:
    messages = [said("a"), call("1"), said("b"), result("1"), said("c")]
    assert droppable_turns(messages) == [[0, 1, 2, 3]]
    assert droppable_turns(messages[:-1]) == []


def test_a_result_that_comes_with_words_is_still_of_its_calls_turn() -> None:
    assert droppable_turns([said("a"), call("1"), result("1", TextBlock("and?"))]) == []


def test_leaving_out_keeps_the_order_of_the_rest() -> None:
    messages = talk(*"suasuau")
    assert [message.content for message in without(messages, [[1, 2]])] == ["0", "3", "4", "5", "6"]


messages = st.lists(
    st.one_of(
        st.sampled_from([Message("system", "s"), Message("user", "u"), Message("assistant", "a")]),
        st.sampled_from("123").map(call),
        st.sampled_from("123").map(result),
    ),
    max_size=14,
)


def ids(conversation: list[Any], kind: Any) -> set[str]:
    blocks: list[Any] = [
        block for message in conversation if isinstance(message, MessageV2) for block in message.content
    ]
    return {block.call_id for block in blocks if isinstance(block, kind)}


@given(messages, st.integers(0, 14))
def test_however_many_turns_are_left_out(conversation: list[Any], number: int) -> None:
    turns = droppable_turns(conversation)
    dropped = [conversation[index] for turn in turns[:number] for index in turn]
    left = without(conversation, turns[:number])
    assert not any(message.role == "system" for message in dropped)
    spoken = [message for message in conversation if message.role == "user" and not ids([message], ToolResultBlock)]
    assert not spoken or any(message is spoken[-1] for message in left), "the last word of the user stays"
    flat = [index for turn in turns for index in turn]
    assert flat == sorted(set(flat)), "in order, each once"
    others = [index for index, message in enumerate(conversation) if message.role != "system"]
    assert flat == others[: len(flat)], "oldest first, nothing skipped"
    assert len(left) + len(dropped) == len(conversation)


@given(messages)
def test_no_result_is_left_without_its_call(conversation: list[Any]) -> None:
    seen: set[str] = set()
    turn_of = {index: number for number, turn in enumerate(droppable_turns(conversation)) for index in turn}
    last_call: dict[str, int] = {}
    for index, message in enumerate(conversation):
        for call_id in ids([message], ToolResultBlock) & seen:
            assert turn_of.get(index) == turn_of.get(last_call[call_id])
        for call_id in ids([message], ToolUseBlock):
            seen.add(call_id)
            last_call[call_id] = index


@given(st.integers(0, 200), st.integers(1, 250))
def test_the_fewest_that_are_enough(most: int, needed: int) -> None:
    asked: list[int] = []

    def enough(number: int) -> bool:
        asked.append(number)
        return number >= needed

    assert fewest(most, enough) == (needed if needed <= most else None)
    assert len(asked) <= 2 * max(most - needed, 0).bit_length() + 2
    assert not asked or most - min(asked) <= 2 * max(most - needed, 0) + 1, "what is left is small"


def test_a_conversation_of_one_long_turn_takes_one_pass() -> None:
    """Square, as it was, it takes hours; the worker is given up as hung after half a minute."""
    messages = talk("u", *"a" * 1_000_000, "u")
    assert [len(turn) for turn in droppable_turns(messages)] == [1_000_001]


def test_a_conversation_of_many_calls_takes_one_pass() -> None:
    calls = [MessageV2("assistant", [ToolUseBlock(str(number), "f", {})]) for number in range(100_000)]
    assert [len(turn) for turn in droppable_turns([said("a"), *calls, said("b")])] == [100_001]
