"""What the APIs have in common in how they are asked. Pure; what cannot be said is `Unsupported`, by its name."""

from __future__ import annotations

import base64

from vestal.backend import EmbedRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import Unsupported
from vestal.values import Attachment, ImageBlock, Message, Notice, ThinkingBlock, ToolResultBlock, blocks_text

__all__ = [
    "NOT_CALLED",
    "THINKING_LEFT_OUT",
    "check_embedding",
    "forces_a_call",
    "image_text",
    "prompt_size",
    "result_text",
    "thinking_of_earlier_turns",
    "unsupported",
]

NOT_CALLED = Notice("tool_choice_ignored", "the server was told to call a tool, and ended its answer without a call")
THINKING_LEFT_OUT = Notice("thinking_left_out", "this API takes no thinking of earlier turns; it was left out")


def unsupported(option: str, cannot: str) -> Unsupported:
    return Unsupported(f"this model's server {cannot}", details={"option": option})


def prompt_size(request: GenerateRequest | GenerateRequestV2) -> int:
    """Characters of text in the conversation."""
    return sum(
        len(turn.content) if isinstance(turn, Message) else len(blocks_text(turn.content)) for turn in request.messages
    )


def thinking_of_earlier_turns(request: GenerateRequest | GenerateRequestV2) -> list[str]:
    """The thinking that comes with the conversation."""
    if isinstance(request, GenerateRequest):
        return []
    return [block.text for turn in request.messages for block in turn.content if isinstance(block, ThinkingBlock)]


def forces_a_call(request: GenerateRequest | GenerateRequestV2) -> bool:
    return (
        isinstance(request, GenerateRequestV2) and bool(request.tools) and request.tool_choice not in ("auto", "none")
    )


def result_text(block: ToolResultBlock) -> str:
    """A tool's result where the API has no field for its failure."""
    return f"Error: {block.content}" if block.is_error else block.content


def image_text(block: ImageBlock, attachments: list[Attachment]) -> tuple[str, str]:
    """(media type, base64) of an image."""
    image = attachments[block.attachment]
    return image.media_type, base64.b64encode(image.data).decode()


def check_embedding(request: EmbedRequest) -> None:
    """Raise `Unsupported` naming what none of these APIs has a field for."""
    if request.task is not None:
        raise unsupported("task", "takes no task")
    if not request.normalize:
        raise unsupported("normalize", "may normalize its vectors")
