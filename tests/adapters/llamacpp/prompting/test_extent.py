"""What a conversation shows a model at least, counted without a template."""

from __future__ import annotations

from typing import Any

import pytest

from vestal.values import Message, MessageV2, TextBlock, ThinkingBlock, Tool, ToolResultBlock, ToolUseBlock
from vestal_adapters.llamacpp.prompting.extent import extent


def said(*blocks: Any) -> list[MessageV2]:
    return [MessageV2("assistant" if isinstance(blocks[0], ThinkingBlock | ToolUseBlock) else "user", list(blocks))]


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        ([Message("user", "abc"), Message("assistant", " " + "d" * 8 + "\n")], 3 + 8 // 4),
        (said(TextBlock("abc"), ToolResultBlock("1", "four")), 7),
        (said(ThinkingBlock("x" * 40)), 10),
        (said(ToolUseBlock("1", "f", {})), 1),
        (said(ToolUseBlock("1", "f", {"key": ["text", 1, None, {"k": {}}], "k": True})), 16),
    ],
)
def test_it_is_what_any_template_shows(messages: list[Any], shown: int) -> None:
    assert extent(messages, []) == shown


def test_tools_are_shown_too() -> None:
    assert extent([Message("user", "a")], [Tool("f", {"type": "object"}, "what it does")]) == 1 + 12 + 1 + 4 + 6


def test_nesting_is_no_matter() -> None:
    value: dict[str, Any] = {}
    for _ in range(30):
        value = {"a": [value]}
    assert extent([], [Tool("f", value)]) == 30 * 3 + 1
