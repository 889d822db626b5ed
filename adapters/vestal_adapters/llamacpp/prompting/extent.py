"""How much text a conversation shows a model, told without rendering it. Pure.

To guard, render and tokenise megabytes takes seconds, in which nobody else's answer goes on: what cannot fit by this
sum is refused before. It is a sum of what templates show: the texts, calls and results, and the tools. They cut off
white space, and may leave out what a model said or thought in earlier turns: of that a quarter counts, which bounds the
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vestal.values import (
    ContentBlock,
    Message,
    MessageV2,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)

__all__ = ["extent"]

_LEFT_OUT = 4  # characters of which one counts, where a template may show none


def extent(messages: Sequence[Message | MessageV2], tools: Sequence[Tool]) -> int:
    """Characters that the model is shown, about, and rather too few."""
    return sum(_parts(messages, tools))


def _parts(messages: Sequence[Message | MessageV2], tools: Sequence[Tool]) -> Iterator[int]:
    for message in messages:
        share = _LEFT_OUT if message.role == "assistant" else 1
        if isinstance(message, Message):
            yield len(message.content.strip()) // share
        else:
            for block in message.content:
                yield from _block(block, share)
    for tool in tools:
        yield len(tool.description)
        yield from _json(tool.input_schema)


def _block(block: ContentBlock, share: int) -> Iterator[int]:
    if isinstance(block, TextBlock):
        yield len(block.text.strip()) // share
    elif isinstance(block, ToolResultBlock):
        yield len(block.content.strip())
    elif isinstance(block, ThinkingBlock):
        yield len(block.text) // _LEFT_OUT
    elif isinstance(block, ToolUseBlock):
        yield from _json(block.input)


def _json(value: Any) -> Iterator[int]:
    """Of each value in it what JSON takes for it at least: a character."""
    waiting = [iter([value])]
    while waiting:
        for item in waiting[-1]:
            if isinstance(item, dict):
                yield 1 + sum(map(len, item))
                waiting.append(iter(item.values()))
                break
            if isinstance(item, list):
                yield 1
                waiting.append(iter(item))
                break
            yield len(item) if isinstance(item, str) else 1
        else:
            waiting.pop()
