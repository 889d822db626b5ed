"""The values that wire messages, the backend port and the client library share.

Frozen structs, no behaviour beyond validation. A constraint written here is checked wherever the value is
decoded, so the wire, a worker channel and a configuration file refuse the same things in the same words.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

__all__ = [
    "FLAGS",
    "Attachment",
    "AttachmentKind",
    "AudioBlock",
    "BackendState",
    "BreakerState",
    "Capabilities",
    "ContentBlock",
    "ContextPolicy",
    "GenerateOptions",
    "ImageBlock",
    "LifecycleState",
    "Message",
    "MessageV2",
    "NamedTool",
    "Notice",
    "Priority",
    "ResponseFormat",
    "Role",
    "RoutePolicy",
    "RouteVerdict",
    "StopReason",
    "TextBlock",
    "Thinking",
    "ThinkingBlock",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolChoice",
    "ToolResultBlock",
    "ToolUseBlock",
    "TopLogprob",
    "Usage",
    "blocks_text",
    "check_json",
]

Role = Literal["system", "user", "assistant"]
StopReason = Literal["end", "length", "stop_sequence", "tool_use", "cancelled", "refused"]
Priority = Literal["interactive", "normal", "batch"]
ContextPolicy = Literal["error", "truncate", "shift"]
CachePolicy = Literal["caller", "none"]
Thinking = Literal["auto", "off", "minimal", "low", "medium", "high", "xhigh"]
AttachmentKind = Literal["image", "audio"]
LifecycleState = Literal["starting", "loading", "ready", "draining", "stopping", "stopped", "failed"]
BackendState = Literal["starting", "loading", "ready", "unavailable", "stopping", "stopped", "failed"]
BreakerState = Literal["closed", "open", "half_open"]
RoutePolicy = Literal["priority", "least_busy", "local_first"]
RouteVerdict = Literal["chosen", "possible", "away", "cold", "lost", "draining", "loading", "incapable", "other_model"]

MAX_ATTACHMENTS = 32
MAX_GRAMMAR_BYTES = 64 * 1024
MAX_STOP_STRINGS = 16
MAX_JSON_DEPTH = 64
MAX_JSON_VALUES = 2**18
_JSON_KINDS = (dict, list, str, int, float, type(None))

Milliseconds = Annotated[int, Meta(ge=1, le=7 * 24 * 3600 * 1000)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
ShortText = Annotated[str, Meta(min_length=1, max_length=256)]


def check_json(value: Any, field: str) -> None:
    """Raise `ValueError` unless `value` is what JSON can say, in at most `MAX_JSON_DEPTH` levels and `MAX_JSON_VALUES`.

    MessagePack can say more: bytes, extension types, keys that are no strings, NaN. A schema with those would
    pass every check here and break in the engine, where nobody can name the field any more.
    """
    # A level at a time, and each in C: a frame has room for sixty million values, which took the daemon twenty seconds.
    level, depth, seen = [value], 0, 0
    while level:
        depth, seen = depth + 1, seen + len(level)
        if seen > MAX_JSON_VALUES:
            raise ValueError(f"{field}: holds more than {MAX_JSON_VALUES} values")
        kinds = set(map(type, level))
        if foreign := [kind for kind in kinds if not issubclass(kind, _JSON_KINDS)]:
            raise ValueError(f"{field}: holds {min(kind.__name__ for kind in foreign)}, which JSON cannot say")
        for number in (item for item in level if isinstance(item, float)):
            if not math.isfinite(number):
                raise ValueError(f"{field}: holds {number}, which JSON cannot say")
        if depth > MAX_JSON_DEPTH and any(issubclass(kind, (dict, list)) for kind in kinds):
            raise ValueError(f"{field}: nested deeper than {MAX_JSON_DEPTH} levels")
        maps = [item for item in level if isinstance(item, dict)]
        if not all(isinstance(key, str) for key in chain.from_iterable(maps)):
            raise ValueError(f"{field}: a key inside it is not a string")
        lists = [item for item in level if isinstance(item, list)]
        if sum(map(len, maps)) + sum(map(len, lists)) > MAX_JSON_VALUES:  # before they are all put into one list
            raise ValueError(f"{field}: holds more than {MAX_JSON_VALUES} values")
        level = [*chain.from_iterable(map(dict.values, maps)), *chain.from_iterable(lists)]


class Message(Struct, frozen=True):
    """One turn of a v1 conversation: plain text."""

    role: Role
    content: str


class TextBlock(Struct, frozen=True, tag="text"):
    text: str


class ImageBlock(Struct, frozen=True, tag="image"):
    """`attachment` is an index into the request's `attachments`."""

    attachment: Annotated[int, Meta(ge=0, lt=MAX_ATTACHMENTS)]


class AudioBlock(Struct, frozen=True, tag="audio"):
    """`attachment` is an index into the request's `attachments`."""

    attachment: Annotated[int, Meta(ge=0, lt=MAX_ATTACHMENTS)]


class ThinkingBlock(Struct, frozen=True, tag="thinking"):
    text: str


class ToolUseBlock(Struct, frozen=True, tag="tool_use"):
    """The model asks for a tool: whole, never in pieces."""

    call_id: ShortText
    name: ShortText
    input: dict[str, Any]

    def __post_init__(self) -> None:
        check_json(self.input, "input")


class ToolResultBlock(Struct, frozen=True, tag="tool_result"):
    """The app's answer to the `tool_use` with the same `call_id`."""

    call_id: ShortText
    content: str
    is_error: bool = False


ContentBlock = TextBlock | ImageBlock | AudioBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock

_BLOCKS_OF_ROLE: dict[str, tuple[type, ...]] = {
    "system": (TextBlock,),
    "user": (TextBlock, ImageBlock, AudioBlock, ToolResultBlock),
    "assistant": (TextBlock, ThinkingBlock, ToolUseBlock),
}


class MessageV2(Struct, frozen=True):
    """One turn of a v2 conversation: typed blocks. Which role may carry which block is checked here."""

    role: Role
    content: Annotated[list[ContentBlock], Meta(min_length=1)]

    def __post_init__(self) -> None:
        allowed = _BLOCKS_OF_ROLE[self.role]
        for index, block in enumerate(self.content):
            if not isinstance(block, allowed):
                kind = type(block).__struct_config__.tag
                raise ValueError(f"content[{index}]: a {self.role} message cannot hold a `{kind}` block")


def blocks_text(blocks: list[ContentBlock]) -> str:
    """The concatenated text of the `text` blocks."""
    return "".join(block.text for block in blocks if isinstance(block, TextBlock))


class Attachment(Struct, frozen=True):
    """Media of a v2 request, native bytes: never base64."""

    kind: AttachmentKind
    media_type: ShortText
    data: bytes

    def __repr__(self) -> str:
        return f"Attachment(kind={self.kind!r}, media_type={self.media_type!r}, bytes={len(self.data)})"


class Tool(Struct, frozen=True):
    """A function the model may ask for; `input_schema` is a JSON Schema of its arguments object."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    input_schema: dict[str, Any]
    description: str = ""

    def __post_init__(self) -> None:
        check_json(self.input_schema, "input_schema")


class NamedTool(Struct, frozen=True):
    """`tool_choice` that forces one tool."""

    name: ShortText


ToolChoice = Literal["auto", "none", "required"] | NamedTool


class ResponseFormat(Struct, frozen=True, tag="json_schema"):
    """The answer must be JSON valid under `schema`."""

    schema: dict[str, Any]

    def __post_init__(self) -> None:
        check_json(self.schema, "schema")


class GenerateOptions(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The options of `generate`. All are optional; `None` leaves the choice to the model's defaults.

    Sampling follows llama.cpp's definitions: temperature 0 is greedy, `top_k` 0 and `min_p` 0 are off,
    `repeat_penalty` 1 is off.
    """

    model: ShortText | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=5.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Probability | None = None
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    # llama.cpp reserves 2**32 - 1 for "choose at random".
    seed: Annotated[int, Meta(ge=0, le=2**32 - 2)] | None = None
    stop: Annotated[list[ShortText], Meta(max_length=MAX_STOP_STRINGS)] = []
    stream: bool = True
    grammar: Annotated[str, Meta(min_length=1, max_length=MAX_GRAMMAR_BYTES)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    context_policy: ContextPolicy = "error"
    priority: Priority = "normal"
    queue_timeout_ms: Milliseconds | None = None
    timeout_ms: Milliseconds | None = None
    cache: CachePolicy = "caller"

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):  # NaN passes every range check
                raise ValueError(f"{name}: expected a finite number, got {value}")
        if self.grammar is not None:
            if self.response_format is not None:
                raise ValueError("response_format: cannot be combined with grammar; give one of the two")
            if (size := len(self.grammar.encode())) > MAX_GRAMMAR_BYTES:
                raise ValueError(f"grammar: {size} bytes, the limit is {MAX_GRAMMAR_BYTES}")


class Usage(Struct, frozen=True):
    """Tokens of one request. `cached_tokens` of the input were not prefilled again."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class Timings(Struct, frozen=True):
    """Milliseconds, on the daemon's monotonic clock.

    `queue_ms`: accepted → handed to the backend. `prefill_ms`: the engine's own figure for the prompt, 0 where
    it tells none. `first_token_ms`: accepted → first output, 0 without output. `decode_ms`: first output → end.
    """

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    first_token_ms: float = 0.0
    decode_ms: float = 0.0


class TopLogprob(Struct, frozen=True):
    """A token that could have come, by its bytes, and the natural logarithm of its probability."""

    token: bytes
    logprob: float


class TokenLogprob(Struct, frozen=True):
    """A token that came, and the likeliest that could have, itself perhaps among them, likeliest first.

    Probabilities are the model's own, before any sampling option changes them. Bytes, because a character may
    take several tokens.
    """

    token: bytes
    logprob: float
    top: tuple[TopLogprob, ...] = ()


class Notice(Struct, frozen=True):
    """Something the daemon or the backend adjusted, said out loud."""

    code: str
    message: str


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a backend can do. The defaults describe a text-only v1 backend with one slot.

    `context_length` and `max_output_tokens` are tokens; `None` is "no limit of its own". `embedding_batch` texts are
    computed together, as far as it tells. `local`: it computes on this machine. `options` names the
    generate options, beyond those the daemon itself honours, that the backend honours.

    Of an `embed` it honours the tasks `embedding_tasks`, `dimensions` from `embedding_shortest` to `embedding_longest`,
    and with `embedding_raw` also `normalize` off. `None` is no no: it does not say, and only asking it tells.
    """

    generate: bool = True
    v2: bool = False
    embed: bool = False
    count: bool = False
    tools: bool = False
    thinking: bool = False
    vision: bool = False
    audio: bool = False
    grammar: bool = False
    json_schema: bool = False
    logprobs: bool = False
    slots: Annotated[int, Meta(ge=1)] = 1
    context_length: Annotated[int, Meta(ge=1)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_input_texts: Annotated[int, Meta(ge=1)] | None = None
    embedding_dimensions: Annotated[int, Meta(ge=1)] | None = None
    embedding_batch: Annotated[int, Meta(ge=1)] | None = None
    embedding_tasks: tuple[str, ...] | None = None
    embedding_shortest: Annotated[int, Meta(ge=1)] | None = None
    embedding_longest: Annotated[int, Meta(ge=1)] | None = None
    embedding_raw: bool | None = None
    local: bool = False
    model: str = ""
    family: str = ""
    options: tuple[str, ...] = ("max_tokens",)


FLAGS: tuple[str, ...] = (
    "generate", "v2", "embed", "count", "tools", "thinking", "vision", "audio", "grammar", "json_schema", "logprobs",
)  # fmt: skip
"""The yes-or-no capabilities: what a hello may `require`."""
