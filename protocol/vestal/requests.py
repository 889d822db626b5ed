"""What the user asked for → one wire message, checked as the daemon would check it. Pure.

The arguments are encoded and decoded against the message's own struct, so that a wrong value is refused here
in the daemon's words, with the same `details["field"]`, and before anything is sent. Two things are stricter
than the wire, which ignores keys it does not know: a misspelt option and an unknown key inside a message are
refused. On a version 1 connection whatever needs version 2 is refused by name; nothing is flattened or dropped
that carries meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypedDict, TypeVar

import msgspec

from vestal import __version__
from vestal import messages as m
from vestal.codec import Codec, encode
from vestal.errors import InvalidRequest, Unsupported
from vestal.values import (
    Attachment,
    CachePolicy,
    ContextPolicy,
    Message,
    MessageV2,
    Priority,
    ResponseFormat,
    TextBlock,
    Thinking,
    Tool,
    ToolChoice,
)

__all__ = [
    "CLIENT",
    "MessageLike",
    "Options",
    "Prompt",
    "admin_message",
    "check_options",
    "count_message",
    "embed_message",
    "generate_message",
    "hello_message",
    "milliseconds",
]

M = TypeVar("M", bound=msgspec.Struct)
CLIENT = f"vestal-python/{__version__}"
"""How an app that gives no name of its own calls itself in the hello."""

MessageLike = Message | MessageV2 | Mapping[str, object]
Prompt = str | Sequence[MessageLike]
"""A user's text, or a conversation: structs, or maps with `role` and `content` (a text, or in v2 blocks)."""


class Options(TypedDict, total=False):
    """The options of `generate`, with the meaning and bounds of `GenerateOptions` and `GenerateV2`.

    `None` is the same as leaving the option out.
    """

    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repeat_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: Sequence[str] | None
    grammar: str | None
    response_format: ResponseFormat | Mapping[str, object] | None
    logprobs: int | None
    context_policy: ContextPolicy | None
    priority: Priority | None
    queue_timeout_ms: int | None
    timeout_ms: int | None
    cache: CachePolicy | None
    tools: Sequence[Tool | Mapping[str, object]] | None
    tool_choice: ToolChoice | Mapping[str, object] | None
    thinking: Thinking | None
    attachments: Sequence[Attachment | Mapping[str, object]] | None


_ONLY_V2: Mapping[str, object] = {"tools": [], "tool_choice": "auto", "thinking": "auto", "attachments": []}
"""Options that version 1 lacks, each with the value that asks for nothing."""


def hello_message(*, versions: Sequence[int], client: str, features: Sequence[str], require: Sequence[str]) -> m.Hello:
    """The greeting a client opens each connection with. Raises `InvalidRequest`."""
    return _checked(m.Hello, {"versions": versions, "client": client, "features": features, "require": require})


def check_options(options: Mapping[str, object]) -> None:
    """Raise `InvalidRequest` for an option `generate` does not have, naming the nearest it has."""
    known = Options.__annotations__
    for name in options:
        if name not in known:
            raise _unknown(f"generate has no option `{name}`", name, name, known)


def generate_message(
    id: int, version: int, prompt: Prompt, *, system: str | None, options: Mapping[str, object], stream: bool
) -> m.Generate | m.GenerateV2:
    """The `generate` of a protocol `version`. Raises `InvalidRequest`, or `Unsupported` for what needs v2."""
    check_options(options)
    fields = {name: value for name, value in options.items() if value is not None}
    fields["stream"] = stream
    if version == 1:
        fields = _without_v2(fields)
    fields["messages"] = _messages(version, prompt, system)
    kind: type[m.Generate | m.GenerateV2] = m.Generate if version == 1 else m.GenerateV2
    return _checked(kind, {"id": id, **fields})


def count_message(
    id: int,
    version: int,
    prompt: Prompt,
    *,
    system: str | None,
    model: str | None,
    tools: Sequence[Tool | Mapping[str, object]] | None,
) -> m.Count | m.CountV2:
    """The `count` of a protocol `version`; errors as in `generate_message`."""
    fields = _given(model=model, tools=tools)
    if version == 1:
        fields = _without_v2(fields)
    fields["messages"] = _messages(version, prompt, system)
    kind: type[m.Count | m.CountV2] = m.Count if version == 1 else m.CountV2
    return _checked(kind, {"id": id, **fields})


def embed_message(
    id: int,
    input: str | Sequence[str],
    *,
    model: str | None,
    dimensions: int | None,
    task: str | None,
    normalize: bool | None,
) -> m.Embed:
    """The `embed` of one text or several. Raises `InvalidRequest`."""
    texts = [input] if isinstance(input, str) else input
    given = _given(model=model, dimensions=dimensions, task=task, normalize=normalize)
    return _checked(m.Embed, {"id": id, "input": texts, **given})


def admin_message(kind: type[m.AdminRequest], id: int, **fields: object) -> m.AdminRequest:
    """An operator's command. Raises `InvalidRequest`."""
    return _checked(kind, {"id": id, **_given(**fields)})


def milliseconds(seconds: float | None) -> int | None:
    """A deadline as the wire has it."""
    return None if seconds is None else round(seconds * 1000)


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _without_v2(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields version 1 has; raises `Unsupported` for another that asks for something."""
    for name, nothing in _ONLY_V2.items():
        if name in fields and fields[name] != nothing:
            raise _needs_v2(name, f"`{name}`")
    return {name: value for name, value in fields.items() if name not in _ONLY_V2}


def _messages(version: int, prompt: Prompt, system: str | None) -> list[object]:
    """The conversation in the shape of `version`, not yet checked against the schema."""
    conversation = _conversation(prompt)
    if system is not None:
        if conversation and _role(conversation[0]) == "system":
            raise _invalid("system", "the conversation already begins with a system message", "give one of the two")
        conversation.insert(0, {"role": "system", "content": system})
    shape = _text_message if version == 1 else _block_message
    return [shape(number, message) for number, message in enumerate(conversation)]


def _conversation(prompt: object) -> list[object]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, (Mapping, Message, MessageV2)):
        raise _invalid("messages", "expected a text or a list of messages, got one message", "put it in a list")
    if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, Iterable):
        raise _invalid("messages", f"expected a text or a list of messages, got `{type(prompt).__name__}`")
    return list(prompt)


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, Mapping) else getattr(message, "role", None)


def _block_message(number: int, message: object) -> object:
    """v2: a text becomes one text block; blocks stay."""
    if isinstance(message, Message):
        return MessageV2(message.role, [TextBlock(message.content)])
    if isinstance(message, Mapping) and isinstance(text := message.get("content"), str):
        return {**message, "content": [{"type": "text", "text": text}]}
    return message


def _text_message(number: int, message: object) -> object:
    """v1: text only. A single text block, which is what `Result.content` holds in v1, is its text."""
    content = message.get("content") if isinstance(message, Mapping) else getattr(message, "content", None)
    if not isinstance(content, (list, tuple)):
        return message
    if len(content) != 1 or (text := _block_text(content[0])) is None:
        raise _needs_v2(f"messages[{number}].content", f"`messages[{number}].content` as a list of blocks")
    return {**message, "content": text} if isinstance(message, Mapping) else Message(_role(message), text)  # type: ignore[arg-type]  # the decoder judges the role


def _block_text(block: object) -> str | None:
    if isinstance(block, TextBlock):
        return block.text
    if isinstance(block, Mapping) and block.get("type") == "text" and isinstance(text := block.get("text"), str):
        return text
    return None


@cache
def _codec_for(kind: type) -> Codec[Any]:
    """The codec the daemon would read a `kind` with; of a whole union, as one for a struct alone is slower."""
    unions = (m.InferRequestV1, m.InferRequestV2, m.EmbedRequest, m.AdminRequest)
    return Codec(next((union for union in unions if kind in union.__args__), kind))


def _checked(kind: type[M], fields: dict[str, object]) -> M:
    """`fields` as a `kind`, by way of its bytes: what the daemon would make of them, it makes of them here."""
    tag = str(kind.__struct_config__.tag)
    for name, value in fields.items():
        if not isinstance(value, (str, bytes, Mapping, list, msgspec.Struct)) and isinstance(value, Sequence):
            fields[name] = list(value)  # the encoder takes lists and tuples, not every sequence
    try:
        payload = encode({"type": tag, **fields})
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _unencodable(tag, fields, error) from None
    message: M = _codec_for(kind).decode(payload)
    _refuse_unknown(fields, message, "")
    return message


def _unencodable(tag: str, fields: Mapping[str, object], error: Exception) -> InvalidRequest:
    """Name the field whose value MessagePack cannot hold."""
    for name, value in fields.items():
        try:
            encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as culprit:
            return _invalid(name, f"{culprit}; the wire takes plain Python values", tag=tag)
    return _invalid("", str(error), tag=tag)


def _refuse_unknown(given: object, decoded: object, path: str) -> None:
    """Raise for a key the user gave that the struct does not have: on the wire it would vanish silently."""
    if isinstance(given, Mapping) and isinstance(decoded, msgspec.Struct):
        config = decoded.__struct_config__
        known = [*decoded.__struct_fields__, *([config.tag_field] if config.tag_field else [])]
        for name, value in given.items():
            where = f"{path}.{name}" if path else str(name)
            if name not in known:
                raise _unknown(f"`{path}` has no field `{name}`", str(name), where, known)
            _refuse_unknown(value, getattr(decoded, name, None), where)
    elif isinstance(given, (list, tuple)) and isinstance(decoded, list):
        for index, (one, other) in enumerate(zip(given, decoded, strict=False)):
            _refuse_unknown(one, other, f"{path}[{index}]")


def _unknown(what: str, name: str, field: str, known: Iterable[str]) -> InvalidRequest:
    from difflib import get_close_matches  # 1 ms to import, for an error only

    near = get_close_matches(name, list(known), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
    return InvalidRequest(what, hint=hint, details={"field": field})


def _invalid(field: str, what: str, hint: str | None = None, *, tag: str = "generate") -> InvalidRequest:
    where = f"{tag}.{field}" if field else tag
    return InvalidRequest(f"{where}: {what}", hint=hint, details={"type": tag, "field": field})


def _needs_v2(option: str, what: str) -> Unsupported:
    return Unsupported(
        f"{what} needs protocol version 2; this connection speaks version 1",
        hint="the daemon offers version 2 while a backend speaks it: leave this out, or use such a model",
        details={"option": option, "version": 1},
    )
