"""The port's requests as JSON for this API, in a preset's dialect. Pure; what cannot be said is `Unsupported`.

What the API has no place for is told in notices: thinking of earlier turns, which these servers' templates drop.
"""

from __future__ import annotations

import hashlib
import secrets
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
    TextBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
    blocks_text,
)
from vestal_adapters.remote.openai.presets import Preset
from vestal_adapters.remote.requests import (
    THINKING_LEFT_OUT,
    image_text,
    result_text,
    thinking_of_earlier_turns,
    unsupported,
)

__all__ = ["chat_body", "notices_of"]

_SALT = secrets.token_bytes(32)
"""What a server is told of a caller, it cannot be told by anybody who merely knows a uid."""


def chat_body(
    request: GenerateRequest | GenerateRequestV2, preset: Preset, model: str, *, thinks: bool, has_details: bool
) -> dict[str, Any]:
    """The body of `chat/completions`, always as a stream that ends with its usage.

    `thinks`: what is known of the model. `has_details`: the server has the preset's page of them.
    """
    body: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body |= preset.extras
    body |= _options(request.options, preset)
    body |= _cache(request.cache_scope, preset, has_details)
    if isinstance(request, GenerateRequest):
        return body | {"messages": [{"role": turn.role, "content": turn.content} for turn in request.messages]}
    body |= _tools(request, preset)
    body |= _thinking(request, preset, thinks)
    turns = [said for turn in request.messages for said in _turn(turn, request.attachments)]
    return body | {"messages": turns}


def notices_of(request: GenerateRequest | GenerateRequestV2) -> list[Notice]:
    """What of the request did not go out."""
    return [THINKING_LEFT_OUT] if thinking_of_earlier_turns(request) else []


def _options(options: GenerateOptions, preset: Preset) -> dict[str, Any]:
    body = {}
    for option, field in preset.fields.items():
        value = getattr(options, option)
        if value is not None and value != []:
            body[field] = value
    if len(options.stop) > preset.most_stops:
        raise unsupported("stop", f"takes {preset.most_stops} stop strings, not {len(options.stop)}")
    if options.grammar is not None and preset.grammar is not None:
        body[preset.grammar] = options.grammar
    if options.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": options.logprobs}
    if options.response_format is not None:
        body["response_format"] = _format(options.response_format.schema, preset)
    return body


def _format(schema: dict[str, Any], preset: Preset) -> dict[str, Any]:
    if preset.schema == "json_object":
        return {"type": "json_object", "schema": schema}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _cache(scope: str | None, preset: Preset, has_details: bool) -> dict[str, Any]:
    """Whose cached prefixes may be used: the scope's, where the server can tell scopes apart; nobody's for `None`.

    llama_cpp.server has a cache, and no switch for it; unlike llama-server, it has no page of details either.
    """
    if preset.cache == "salt":
        secret = secrets.token_hex(32) if scope is None else hashlib.sha256(_SALT + scope.encode()).hexdigest()
        return {"cache_salt": secret}
    if scope is None and preset.cache == "switch" and has_details:
        return {"cache_prompt": False}
    if scope is None:
        raise unsupported("cache", "cannot keep a prompt out of its cache")
    return {}


def _thinking(request: GenerateRequestV2, preset: Preset, thinks: bool) -> dict[str, Any]:
    level = request.thinking
    if level == "auto" or preset.thinking is None or (level == "off" and preset.tells_thinking and not thinks):
        return {}
    if level not in preset.efforts:
        raise unsupported("thinking", f"has no level {level!r}; it has {', '.join(['auto', *preset.efforts])}")
    return {preset.thinking: preset.efforts[level]}


def _tools(request: GenerateRequestV2, preset: Preset) -> dict[str, Any]:
    choice = request.tool_choice
    if not request.tools:
        return {}
    if choice in ("required",) or isinstance(choice, NamedTool):
        if not preset.required_calls:
            raise unsupported("tool_choice", "cannot be made to call a tool")
    elif choice == "none" and not preset.required_calls:
        return {}  # a tool that it is not shown it cannot call
    named = {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedTool) else choice
    return {"tools": [_tool(tool) for tool in request.tools], "tool_choice": named}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def _turn(turn: MessageV2, attachments: list[Attachment]) -> list[dict[str, Any]]:
    """One turn; results of tools are turns of their own here, and go first, as the API wants them after the calls."""
    if turn.role == "assistant":
        return [_assistant(turn)]
    said: list[dict[str, Any]] = [_result(block) for block in turn.content if isinstance(block, ToolResultBlock)]
    parts = [_part(block, attachments) for block in turn.content if isinstance(block, (TextBlock, ImageBlock))]
    if all(part["type"] == "text" for part in parts):
        text = blocks_text(turn.content)
        return [*said, {"role": turn.role, "content": text}] if parts else said
    return [*said, {"role": turn.role, "content": parts}]


def _assistant(turn: MessageV2) -> dict[str, Any]:
    calls = [_call(block) for block in turn.content if isinstance(block, ToolUseBlock)]
    said: dict[str, Any] = {"role": "assistant", "content": blocks_text(turn.content) or (None if calls else "")}
    return said | {"tool_calls": calls} if calls else said


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    return {"id": block.call_id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _result(block: ToolResultBlock) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": block.call_id, "content": result_text(block)}


def _part(block: TextBlock | ImageBlock, attachments: list[Attachment]) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    media_type, data = image_text(block, attachments)
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
