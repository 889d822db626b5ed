"""Tools for a model whose template knows none: described in the system prompt, called and answered in plain text.

The format is Hermes', which most models have seen. The same words for every model; docs/tools.md shows them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from vestal.values import MessageV2, TextBlock, Tool, ToolResultBlock, ToolUseBlock
from vestal_adapters.llamacpp.prompting.conventions import Turn, definitions, result_text

__all__ = ["SECTION", "call_text", "section", "user_text", "with_section"]

SECTION = """\
# Tools

You can call functions to help with the user's request. Their signatures, as JSON, are:
<tools>
{tools}
</tools>

To call a function, answer with a JSON object of its name and arguments between <tool_call> tags, as here:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>
To call several, write one after another. Their results will be given to you between <tool_response> tags."""


def section(tools: Sequence[Tool]) -> str:
    """What the model is told about its tools."""
    return SECTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in definitions(tools)))


def call_text(message: MessageV2) -> str:
    """An assistant's message, its calls as the model was told to write them."""
    text = "".join(block.text for block in message.content if isinstance(block, TextBlock))
    calls = [
        f"<tool_call>\n{json.dumps({'name': block.name, 'arguments': block.input}, ensure_ascii=False)}\n</tool_call>"
        for block in message.content
        if isinstance(block, ToolUseBlock)
    ]
    return "\n".join([text, *calls] if text else calls)


def user_text(message: MessageV2) -> str:
    """A user's message, the results of tools first."""
    results = [
        f"<tool_response>\n{result_text(block)}\n</tool_response>"
        for block in message.content
        if isinstance(block, ToolResultBlock)
    ]
    text = "".join(block.text for block in message.content if isinstance(block, TextBlock))
    return "\n".join([*results, text] if text else results)


def with_section(turns: Sequence[Turn], text: str, *, takes_system: bool) -> list[Turn]:
    """The turns with a system prompt that ends in `text`; before the first turn's text where there can be none."""
    first = turns[0]
    if first["role"] == "system":
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *turns[1:]]
    if takes_system:
        return [{"role": "system", "content": text}, *turns]
    return [{**first, "content": f"{text}\n\n{first['content']}"}, *turns[1:]]
