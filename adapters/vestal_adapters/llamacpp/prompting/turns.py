"""What a conversation that is too long can do without: whole turns, oldest first. Pure.

A turn is what a user says and everything up to the next time: the answer, tool calls, their results. So a call and
its result go together, even where a user spoke in between, which makes one turn of all of it. System messages belong
to no turn and stay, and so does the last turn: without it there is nothing to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from vestal.values import Message, MessageV2, ToolResultBlock, ToolUseBlock

__all__ = ["droppable_turns", "fewest", "without"]

_AnyMessage = TypeVar("_AnyMessage", Message, MessageV2, Message | MessageV2)


def droppable_turns(messages: Sequence[Message | MessageV2]) -> list[list[int]]:
    """The numbers of the messages of each turn but the last, oldest first. In the time of one pass over them."""
    spoken: list[int] = []  # the numbers of the messages that are not the system's
    starts: list[int] = []  # where in `spoken` each turn begins
    made: dict[str, int] = {}  # where in `spoken` each call is
    for number, message in enumerate(messages):
        if message.role == "system":
            continue
        results = _results(message)
        if not starts or (message.role == "user" and not results):
            starts.append(len(spoken))
        # A result of an earlier turn's call makes one turn of all since then.
        first = min((made[call] for call in results if call in made), default=len(spoken))
        while starts[-1] > first:
            starts.pop()
        made |= dict.fromkeys(_calls(message), len(spoken))
        spoken.append(number)
    return [spoken[start:end] for start, end in pairwise(starts)]


def without(messages: Sequence[_AnyMessage], turns: Sequence[Sequence[int]]) -> list[_AnyMessage]:
    """The conversation less these turns."""
    gone = {number for turn in turns for number in turn}
    return [message for number, message in enumerate(messages) if number not in gone]


def fewest(most: int, enough: Callable[[int], bool]) -> int | None:
    """The fewest of 1 to `most` that are enough; `None` if all are not. More is never less.

    Asked from `most` down, as what is left then is small and soon looked at: about 2 log2(most - fewest) times.
    """
    if most < 1 or not enough(most):
        return None
    high, step = most, 1
    while high > step and enough(high - step):
        high, step = high - step, 2 * step
    low = max(high - step, 0) + 1
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
