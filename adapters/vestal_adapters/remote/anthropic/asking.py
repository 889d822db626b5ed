"""The port's requests as JSON for `messages`. Pure; what cannot be said is `Unsupported`, by its name.

System turns go into a field of their own, so they must come first. Nothing asks for the provider's prompt cache,
so no prompt is in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from vestal.backend import CountRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import Unsupported
from vestal.values import (
    Attachment,
    ContentBlock,
    GenerateOptions,
    ImageBlock,
    Message,
    MessageV2,
    NamedTool,
    Notice,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from vestal_adapters.remote.anthropic.listing import Manner
from vestal_adapters.remote.requests import image_text, thinking_of_earlier_turns, unsupported

__all__ = ["SignatureOf", "count_body", "limit_of", "messages_body", "notices_of"]

SignatureOf = Callable[[str], str | None]
"""The signature of a thinking text, `None` if it is not known."""

_UNSIGNED = Notice(
    "thinking_left_out", "thinking of earlier turns whose signature is not known here (any more) was left out"
)


class _Speaker(Struct, frozen=True):
    """What a block may refer to."""

    attachments: list[Attachment]
    signature_of: SignatureOf


def messages_body(
    request: GenerateRequest | GenerateRequestV2, manner: Manner, model: str, signature_of: SignatureOf
) -> dict[str, Any]:
    """The body of `messages`, always as a stream."""
    body: dict[str, Any] = {"model": model, "stream": True, "max_tokens": limit_of(request.options, manner)}
    body |= _options(request.options)
    output, attachments = _format(request.options), []
    if isinstance(request, GenerateRequestV2):
        thinking, effort = _thinking(request, manner)
        body |= thinking | _tools(request)
        output, attachments = output | effort, request.attachments
    body |= {"output_config": output} if output else {}
    return body | _conversation(request.messages, _Speaker(attachments, signature_of))


def count_body(request: CountRequest, model: str) -> dict[str, Any]:
    """The body of `messages/count_tokens`."""
    turns: Sequence[Message | MessageV2] = request.messages or request.messages_v2 or []
    for turn in request.messages_v2 or ():
        if any(isinstance(block, ImageBlock) for block in turn.content):
            raise unsupported("messages", "is not shown the images of a conversation that is only counted")
    body = {"model": model} | _conversation(turns, _Speaker([], lambda _: None))
    return body | ({"tools": [_tool(tool) for tool in request.tools]} if request.tools else {})


def limit_of(options: GenerateOptions, manner: Manner) -> int:
    """The `max_tokens` that is sent."""
    return options.max_tokens or manner.max_tokens


def notices_of(request: GenerateRequest | GenerateRequestV2, signature_of: SignatureOf) -> list[Notice]:
    """What of the request does not go out."""
    return [_UNSIGNED] if any(signature_of(text) is None for text in thinking_of_earlier_turns(request)) else []


def _options(options: GenerateOptions) -> dict[str, Any]:
    if options.temperature is not None and options.temperature > 1:
        raise unsupported("temperature", f"takes a temperature from 0 to 1, not {options.temperature:g}")
    if any(not stop.strip() for stop in options.stop):
        raise unsupported("stop", "takes no stop string of white space alone")
    values: dict[str, Any] = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k")}
    values["top_k"] = values["top_k"] or None  # 0 is off, which the API says by leaving it out
    values["stop_sequences"] = options.stop or None
    return {name: value for name, value in values.items() if value is not None}


def _format(options: GenerateOptions) -> dict[str, Any]:
    if options.response_format is None:
        return {}
    return {"format": {"type": "json_schema", "schema": options.response_format.schema}}


# --- thinking and tools ---------------------------------------------------------------------------------------


def _thinking(request: GenerateRequestV2, manner: Manner) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the field for it, what belongs into `output_config`)."""
    level = request.thinking
    if level == "auto" or manner.thinking is None:
        return {}, {}
    if level == "off":
        return {"thinking": {"type": "disabled"}}, {}
    if level not in manner.levels:
        raise unsupported("thinking", f"has no level {level!r}; it has {', '.join(['auto', 'off', *manner.levels])}")
    _check_beside_thinking(request)
    word = manner.levels[level]
    if manner.thinking == "adaptive":  # the newest models show nothing of it unless they are asked to
        return {"thinking": {"type": "adaptive", "display": "summarized"}}, {"effort": word}
    limit = limit_of(request.options, manner)
    if int(word) >= limit:
        raise unsupported("thinking", f"thinks {word} tokens at level {level!r}: more than max_tokens {limit} allows")
    return {"thinking": {"type": "enabled", "budget_tokens": word}}, {}


def _check_beside_thinking(request: GenerateRequestV2) -> None:
    """What the API refuses beside thinking, here refused by its name."""
    if request.options.temperature not in (None, 1.0):
        raise unsupported("temperature", "takes no temperature but 1 while it thinks")
    if request.options.top_k:
        raise unsupported("top_k", "takes no top_k while it thinks")
    if request.tools and request.tool_choice not in ("auto", "none"):
        raise unsupported("tool_choice", "cannot be made to call a tool while it thinks")


def _tools(request: GenerateRequestV2) -> dict[str, Any]:
    choice = request.tool_choice
    if not request.tools:
        return {}
    if isinstance(choice, NamedTool):
        chosen = {"type": "tool", "name": choice.name}
    else:
        chosen = {"type": "any" if choice == "required" else choice}
    return {"tools": [_tool(tool) for tool in request.tools], "tool_choice": chosen}


def _tool(tool: Tool) -> dict[str, Any]:
    said = {"name": tool.name, "input_schema": tool.input_schema}
    return said | ({"description": tool.description} if tool.description else {})


# --- the conversation -----------------------------------------------------------------------------------------


def _conversation(turns: Sequence[Message | MessageV2], speaker: _Speaker) -> dict[str, Any]:
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        blocks = _blocks(turn, speaker)
        if turn.role == "system":
            if messages:
                raise Unsupported(
                    f"messages[{number}]: this model's server takes system messages only before all others",
                    details={"option": f"messages[{number}]"},
                )
            system += blocks
        elif blocks:
            messages.append({"role": turn.role, "content": blocks})
    return {"messages": messages} | ({"system": system} if system else {})


def _blocks(turn: Message | MessageV2, speaker: _Speaker) -> list[dict[str, Any]]:
    """Results of tools go first, as the API wants them; blocks with nothing in them it refuses."""
    content: list[ContentBlock] = [TextBlock(turn.content)] if isinstance(turn, Message) else turn.content
    ordered = sorted(content, key=lambda block: not isinstance(block, ToolResultBlock))
    return [said for block in ordered if (said := _block(block, speaker)) is not None]


def _block(block: ContentBlock, speaker: _Speaker) -> dict[str, Any] | None:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text} if block.text else None
    if isinstance(block, ImageBlock):
        media_type, data = image_text(block, speaker.attachments)
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    if isinstance(block, ThinkingBlock):
        signature = speaker.signature_of(block.text)
        return {"type": "thinking", "thinking": block.text, "signature": signature} if signature else None
    if isinstance(block, ToolUseBlock):
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": block.input}
    if isinstance(block, ToolResultBlock):
        result = {"type": "tool_result", "tool_use_id": block.call_id, "content": block.content}
        return result | ({"is_error": True} if block.is_error else {})
    raise unsupported("messages", "hears no audio")
