"""The messages of infer.sock: text conversations (v1) and typed blocks (v2)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from vestal.explain import shown
from vestal.messages.common import Id, Wire
from vestal.values import (
    MAX_ATTACHMENTS,
    Attachment,
    ContentBlock,
    GenerateOptions,
    Message,
    MessageV2,
    NamedTool,
    Notice,
    ShortText,
    StopReason,
    Thinking,
    Timings,
    TokenLogprob,
    Tool,
    ToolChoice,
    Usage,
)

__all__ = [
    "Count", "CountV2", "Counted", "Done", "Generate", "GenerateV2", "Queued", "Started", "Text", "ThinkingDelta",
    "Token", "ToolUse",
]  # fmt: skip


class Generate(GenerateOptions, frozen=True, kw_only=True, omit_defaults=True, tag="generate"):
    """→ v1: a text conversation."""

    id: Id
    messages: Annotated[list[Message], Meta(min_length=1)]


class GenerateV2(GenerateOptions, frozen=True, kw_only=True, omit_defaults=True, tag="generate"):
    """→ v2: typed blocks, tools, thinking, attachments."""

    id: Id
    messages: Annotated[list[MessageV2], Meta(min_length=1)]
    tools: Annotated[list[Tool], Meta(max_length=128)] = []
    tool_choice: ToolChoice = "auto"
    thinking: Thinking = "auto"
    attachments: Annotated[list[Attachment], Meta(max_length=MAX_ATTACHMENTS)] = []

    def __post_init__(self) -> None:
        GenerateOptions.__post_init__(self)
        self._check_attachments()
        names = [tool.name for tool in self.tools]
        if len(set(names)) != len(names):
            raise ValueError("tools: two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.name not in names:
            raise ValueError(f"tool_choice: no tool is named `{shown(self.tool_choice.name)}`")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: `required` needs at least one tool")

    def _check_attachments(self) -> None:
        for number, message in enumerate(self.messages):
            for index, block in enumerate(message.content):
                wanted = getattr(block, "attachment", None)
                if wanted is None:
                    continue
                field = f"messages[{number}].content[{index}].attachment"
                if wanted >= len(self.attachments):
                    raise ValueError(f"{field}: index {wanted}, the request has {len(self.attachments)} attachments")
                kind = type(block).__struct_config__.tag
                if self.attachments[wanted].kind != kind:
                    raise ValueError(f"{field}: a `{kind}` block names a `{self.attachments[wanted].kind}` attachment")


class Count(Wire, frozen=True, kw_only=True, tag="count"):
    """→ v1: how many tokens a conversation takes."""

    id: Id
    messages: Annotated[list[Message], Meta(min_length=1)]
    model: ShortText | None = None


class CountV2(Wire, frozen=True, kw_only=True, tag="count"):
    """→ v2: how many tokens a conversation takes."""

    id: Id
    messages: Annotated[list[MessageV2], Meta(min_length=1)]
    model: ShortText | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] = []


class Counted(Wire, frozen=True, kw_only=True, tag="counted"):
    """← answer to `count`. `context_length` is absent where the backend has no limit of its own."""

    id: Id
    input_tokens: int
    context_length: int | None = None


class Queued(Wire, frozen=True, kw_only=True, tag="queued"):
    """← with feature `queue_events`: `position` 1 is next; `eta_ms` is absent until a rate has been observed."""

    id: Id
    position: int
    depth: int
    eta_ms: int | None = None


class Started(Wire, frozen=True, kw_only=True, tag="started"):
    """← with feature `queue_events`: the backend has the request."""

    id: Id
    backend: str
    model: str


class Token(Wire, frozen=True, tag="token", gc=False):
    """← v1: the next piece of text."""

    id: Id
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Text(Wire, frozen=True, tag="text", gc=False):
    """← v2: the next piece of answer text."""

    id: Id
    delta: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ThinkingDelta(Wire, frozen=True, tag="thinking", gc=False):
    """← v2: the next piece of thinking text."""

    id: Id
    delta: str


class ToolUse(Wire, frozen=True, kw_only=True, tag="tool_use"):
    """← v2: one whole tool call."""

    id: Id
    call_id: str
    name: str
    input: dict[str, Any]


class Done(Wire, frozen=True, kw_only=True, tag="done"):
    """← terminal frame of a `generate`, and of an `embed` that was cancelled.

    `text` (v1), `content` (v2) and `logprobs` only with `stream: false`.
    """

    id: Id
    stop_reason: StopReason
    usage: Usage
    backend: str
    model: str
    timings: Timings
    notices: list[Notice] = []
    text: str | None = None
    content: list[ContentBlock] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
