"""What a conversation that is too long can do without: whole turns, oldest first. Pure.

A turn is what a user says and everything up to the next time: the answer, tool calls, their results. So a call and
its result go together, even where a user spoke in between, which makes one turn of all of it. System messages belong
to no turn and stay, and so does the last turn: without it there is nothing to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from vestal.values import Message, MessageV2, ToolResultBlock, ToolUseBlock

__all__ = ["droppable_turns", "fewest", "without"]

_AnyMessage = TypeVar("_AnyMessage", Message, MessageV2, Message | MessageV2)


def droppable_turns(messages: Sequence[Message | MessageV2]) -> list[list[int]]:
    """The numbers of the messages of each turn but the last, oldest first."""
    turns: list[list[int]] = []
    turn_of_call: dict[str, int] = {}
    for number, message in enumerate(messages):
        if message.role == "system":
            continue
        results = _results(message)
        if not turns or (message.role == "user" and not results):
            turns.append([])
        # A result of an earlier turn's call makes one turn of all since then.
        first = min((turn_of_call.get(call, len(turns) - 1) for call in results), default=len(turns) - 1)
        turns[first:] = [[member for turn in turns[first:] for member in turn] + [number]]
        turn_of_call = {call: min(turn, first) for call, turn in turn_of_call.items()}
        turn_of_call |= dict.fromkeys(_calls(message), len(turns) - 1)
    return turns[:-1]


def without(messages: Sequence[_AnyMessage], turns: Sequence[Sequence[int]]) -> list[_AnyMessage]:
    """The conversation less these turns."""
    gone = {number for turn in turns for number in turn}
    return [message for number, message in enumerate(messages) if number not in gone]


def fewest(most: int, enough: Callable[[int], bool]) -> int | None:
    """The fewest of 1 to `most` that are enough; `None` if all are not. More is never less: about log2(most) asked."""
    if most < 1 or not enough(most):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _calls(message: Message | MessageV2) -> list[str]:
    if isinstance(message, Message):
        return []
    return [block.call_id for block in message.content if isinstance(block, ToolUseBlock)]


def _results(message: Message | MessageV2) -> list[str]:
    if isinstance(message, Message):
        return []
    return [block.call_id for block in message.content if isinstance(block, ToolResultBlock)]
