"""How much text a conversation shows a model, told without rendering it. Pure.

To guard, render and tokenise megabytes takes seconds, in which nobody else's answer goes on: what cannot fit by this
sum is refused before. A sum of what every template shows: the texts, calls and results, and the tools. Templates
cut off white space, and may leave the thinking of earlier turns out: of that a quarter counts, which is enough to bound
the time it takes.
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

_THINKING_SHOWN = 4


def extent(messages: Sequence[Message | MessageV2], tools: Sequence[Tool], most: int) -> int:
    """Characters that are shown at least; past `most` it is not counted to the end."""
    total = 0
    for part in _parts(messages, tools):
        total += part
        if total > most:
            break
    return total


def _parts(messages: Sequence[Message | MessageV2], tools: Sequence[Tool]) -> Iterator[int]:
    for message in messages:
        if isinstance(message, Message):
            yield len(message.content.strip())
        else:
            for block in message.content:
                yield from _block(block)
    for tool in tools:
        yield len(tool.description)
        yield from _json(tool.input_schema)


def _block(block: ContentBlock) -> Iterator[int]:
    if isinstance(block, TextBlock):
        yield len(block.text.strip())
    elif isinstance(block, ToolResultBlock):
        yield len(block.content.strip())
    elif isinstance(block, ThinkingBlock):
        yield len(block.text) // _THINKING_SHOWN
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
