"""From a conversation to the prompt's text, by the template that the model's file carries.

The template is a Jinja program in the dialect of Hugging Face's `apply_chat_template`, which llama.cpp
follows: blocks trimmed, loop controls, `tojson` without HTML escapes, `raise_exception`, `strftime_now`. It
is code of whoever made the file, so it runs in Jinja's immutable sandbox, compiled once at load. What no
sandbox stops (an expression that never ends) is the worker's to survive.

A file without a template gets ChatML, and every answer says so in a notice. Thinking blocks of earlier turns
go in as `reasoning_content`, the key that templates of thinking models read; if the template never reads it,
a notice says that they were left out. `thinking: off` is `enable_thinking = false` to the template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vestal.errors import BackendRefused, InvalidRequest, ModelError, Unsupported
from vestal.values import Message, MessageV2, Notice, TextBlock, Thinking, ThinkingBlock, blocks_text
from vestal_adapters.llamacpp.guard import Segment, SpecialGuard

__all__ = ["CHATML", "ChatTemplate", "Prompt"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_FALLBACK = Notice(
    code="chat_template_missing",
    message="the model's file has no chat template; the conversation was written as ChatML",
)
_THINKING_LEFT_OUT = Notice(
    code="thinking_left_out",
    message="the model's chat template takes no thinking of earlier turns; it was left out of the prompt",
)
_REASONING = "reasoning_content"
_MAX_MESSAGE = 300


class Prompt:
    """A rendered conversation: its segments in order, and what has to be said about it."""

    __slots__ = ("notices", "segments")

    def __init__(self, segments: list[Segment], notices: list[Notice]) -> None:
        self.segments = segments
        self.notices = notices

    def __repr__(self) -> str:
        return f"<Prompt of {sum(len(segment.text) for segment in self.segments)} characters>"


class ChatTemplate:
    """One model's template, compiled. `specials` are the texts of its control tokens."""

    def __init__(self, source: str | None, *, bos: str = "", eos: str = "", specials: Iterable[str] = ()) -> None:
        self._guard = SpecialGuard(specials)
        self._notices = [_FALLBACK] if source is None else []
        source = CHATML if source is None else source
        self._takes_thinking = _REASONING in source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._template = _compile(source)

    def __repr__(self) -> str:
        return f"<ChatTemplate {'ChatML for want of one' if self._notices else 'of the model'}, {self._guard!r}>"

    def prompt(self, messages: Sequence[Message | MessageV2], thinking: Thinking = "auto") -> Prompt:
        """The conversation, ready for the assistant's turn.

        `InvalidRequest` with the template's own words if it refuses the conversation, `BackendRefused` if it
        breaks on it, `Unsupported` for a block that cannot be shown to the model.
        """
        turns = [self._turn(number, message) for number, message in enumerate(messages)]
        variables: dict[str, Any] = {"enable_thinking": False} if thinking == "off" else {}
        notices = list(self._notices)
        if not self._takes_thinking and any(_REASONING in turn for turn in turns):
            notices.append(_THINKING_LEFT_OUT)
        return Prompt(self._guard.segments(self._render(turns, variables)), notices)

    def _render(self, turns: Sequence[Mapping[str, str]], variables: Mapping[str, Any]) -> str:
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=True, tools=None, documents=None, **self._tokens, **variables
            )
        except _Refused as error:
            message = f"the model's chat template refuses the conversation: {_short(error)}"
            raise InvalidRequest(message, details={"field": "messages"}) from None
        except Exception as error:  # the template is the file's code: what it raises is of no known type
            message = f"the model's chat template failed: {type(error).__name__}: {_short(error)}"
            hint = "the template in the model's file does not fit this conversation, or is broken"
            raise BackendRefused(message, hint=hint) from None

    def _turn(self, number: int, message: Message | MessageV2) -> dict[str, str]:
        if isinstance(message, Message):
            return {"role": message.role, "content": self._guard.protect(message.content)}
        for index, block in enumerate(message.content):
            if not isinstance(block, TextBlock | ThinkingBlock):
                _refuse_block(f"messages[{number}].content[{index}]", str(type(block).__struct_config__.tag))
        turn = {"role": message.role, "content": self._guard.protect(blocks_text(message.content))}
        thoughts = [block.text for block in message.content if isinstance(block, ThinkingBlock)]
        if thoughts:
            turn[_REASONING] = self._guard.protect("".join(thoughts))
        return turn


class _Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _GenerationTag(Extension):
    """`{% generation %}` marks what a model was trained to say; for a prompt it means nothing."""

    tags = {"generation"}  # noqa: RUF012  # declared so by Jinja

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        reason = f"line {error.lineno}: {_short(error)}"
    except Exception as error:  # of the file's making, as in `_render`: too deeply nested, for one
        reason = f"{type(error).__name__}: {_short(error)}"
    raise ModelError(
        f"the chat template in the model's file does not compile: {reason}",
        hint="the file was made for another program, or is damaged: try another conversion of the model",
    )


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise _Refused(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _refuse_block(place: str, kind: str) -> NoReturn:
    raise Unsupported(
        f"{place}: this model cannot be shown a `{kind}` block",
        hint="leave it out, or name a model whose capabilities include it",
        details={"option": place},
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE - 1]}…"
