"""The port's requests as JSON for `api/chat`. Pure; what cannot be said is `Unsupported`, by its name.

Every request says how long the context is, and that neither the prompt may be cut to it (`truncate`) nor the
conversation shifted out of it (`shift`): both are what Ollama does unless it is told not to.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vestal.backend import GenerateRequest, GenerateRequestV2
from vestal.values import (
    Attachment,
    GenerateOptions,
    ImageBlock,
    MessageV2,
    NamedTool,
    Notice,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
    blocks_text,
)
from vestal_adapters.remote.ollama.listing import Manner
from vestal_adapters.remote.requests import image_text, result_text, unsupported

__all__ = ["chat_body", "load_body", "notices_of"]

_FIELDS = {
    "max_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "seed": "seed", "stop": "stop",
}  # fmt: skip
_UNKNOWN = 1 << 30  # tokens of an image
_MAY_BE_CUT = Notice(
    "prompt_may_be_cut",
    "this version of Ollama cuts prompts that do not fit its context in silence, and this one may not fit",
)


def chat_body(
    request: GenerateRequest | GenerateRequestV2, manner: Manner, model: str, kept: dict[str, float]
) -> dict[str, Any]:
    """The body of `api/chat`, always as a stream. `kept` is the field for `keep_alive`, if any."""
    if request.cache_scope is None:
        raise unsupported("cache", "cannot keep a prompt out of its cache")
    body: dict[str, Any] = {"model": model, "stream": True, "truncate": False, "shift": False} | kept
    body["options"] = {"num_ctx": manner.context} | _options(request.options)
    if request.options.response_format is not None:
        body["format"] = request.options.response_format.schema
    if isinstance(request, GenerateRequest):
        return body | {"messages": [{"role": turn.role, "content": turn.content} for turn in request.messages]}
    body |= _tools(request)
    if (think := _think(request, manner)) is not None:
        body["think"] = think
    return body | {"messages": _conversation(request)}


def load_body(manner: Manner, model: str, kept: dict[str, float]) -> dict[str, Any]:
    """The body of an `api/chat` that only loads the model, with the context that requests will have."""
    return {"model": model, "messages": [], "stream": False, "options": {"num_ctx": manner.context}} | kept


def notices_of(request: GenerateRequest | GenerateRequestV2, manner: Manner) -> list[Notice]:
    """What is not quite as it was asked for."""
    notices = []
    if isinstance(request, GenerateRequestV2) and _think(request, manner) is True:
        why = f"this model's thinking is on or off: level {request.thinking!r} was sent as on"
        notices.append(Notice("thinking_level", why))
    if manner.cuts and manner.preamble + _most_tokens(request) > manner.context:
        notices.append(_MAY_BE_CUT)
    return notices


def _most_tokens(request: GenerateRequest | GenerateRequestV2) -> int:
    """A token is a byte at least; what marks each turn and tool is shorter than the JSON around them."""
    tools: list[Tool] = []
    if isinstance(request, GenerateRequestV2):
        if request.attachments:
            return _UNKNOWN
        tools = request.tools
    return len(msgspec.json.encode([request.messages, tools])) + (request.options.max_tokens or 0)


def _options(options: GenerateOptions) -> dict[str, Any]:
    values = {field: getattr(options, name) for name, field in _FIELDS.items()}
    return {field: value for field, value in values.items() if value not in (None, [])}


def _think(request: GenerateRequestV2, manner: Manner) -> bool | str | None:
    """The value of `think`; `None` leaves it to the model."""
    level, takes = request.thinking, manner.thinking
    if level == "auto" or (level == "off" and not takes):
        return None
    if level == "off" and False in takes:
        return False
    if level != "off" and (level in takes or True in takes):
        return level if level in takes else True
    raise unsupported("thinking", f"has no level {level!r}; it takes {', '.join(map(str, takes))}")


def _tools(request: GenerateRequestV2) -> dict[str, Any]:
    if not request.tools or request.tool_choice == "none":
        return {}  # a tool that it is not shown it cannot call
    if request.tool_choice == "required" or isinstance(request.tool_choice, NamedTool):
        raise unsupported("tool_choice", "cannot be made to call a tool")
    return {"tools": [_tool(tool) for tool in request.tools]}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function}


# --- the conversation -----------------------------------------------------------------------------------------


def _conversation(request: GenerateRequestV2) -> list[dict[str, Any]]:
    """A result is a turn of its own here, with the name of the tool, which the port has in the call alone."""
    names = {
        block.call_id: block.name
        for turn in request.messages
        for block in turn.content
        if isinstance(block, ToolUseBlock)
    }
    said = []
    for turn in request.messages:
        results = [block for block in turn.content if isinstance(block, ToolResultBlock)]
        said += [_result(block, names) for block in results]
        if len(results) < len(turn.content):
            said.append(_turn(turn, request.attachments))
    return said


def _turn(turn: MessageV2, attachments: list[Attachment]) -> dict[str, Any]:
    said: dict[str, Any] = {"role": turn.role, "content": blocks_text(turn.content)}
    if thoughts := [block.text for block in turn.content if isinstance(block, ThinkingBlock)]:
        said["thinking"] = "".join(thoughts)
    if images := [image_text(block, attachments)[1] for block in turn.content if isinstance(block, ImageBlock)]:
        said["images"] = images
    if calls := [_call(block) for block in turn.content if isinstance(block, ToolUseBlock)]:
        said["tool_calls"] = calls
    return said


def _call(block: ToolUseBlock) -> dict[str, Any]:
    return {"id": block.call_id, "function": {"name": block.name, "arguments": block.input}}


def _result(block: ToolResultBlock, names: dict[str, str]) -> dict[str, Any]:
    said = {"role": "tool", "content": result_text(block), "tool_call_id": block.call_id}
    return said | ({"tool_name": names[block.call_id]} if block.call_id in names else {})
