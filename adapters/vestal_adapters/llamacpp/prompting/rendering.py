"""A model's chat template, compiled: turns in, text out.

The template is a Jinja program in the dialect of Hugging Face's `apply_chat_template`, which llama.cpp
follows: blocks trimmed, loop controls, `tojson` without HTML escapes, `raise_exception`, `strftime_now`. It
is code of whoever made the file, so it runs in Jinja's immutable sandbox, compiled once at load, for two seconds
at most, and without sums of millions of digits, which no signal could end. What is left (much memory, for one) is
the worker's to survive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vestal.errors import BackendRefused, InvalidRequest, ModelError
from vestal_adapters.llamacpp.prompting.cutoff import within

__all__ = ["RENDER_SECONDS", "Renderer", "TemplateOverdue"]

RENDER_SECONDS = 2.0
"""Of computing, per conversation; real templates take a few milliseconds."""

_MAX_MESSAGE = 300
_MAX_BITS = 4096  # of a number that a template computes
_MAX_REPEATED = 1_000_000  # characters or items
_WIDTH = re.compile(r"%[^a-zA-Z%]*(?:\*|\d{4})")  # of a field, in a text that is a format


class TemplateOverdue(BackendRefused):
    """The template was still at it after `RENDER_SECONDS`."""


class Renderer:
    """`tokens` are the texts of the special tokens that templates name, such as `bos_token`."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self.source = source
        self._tokens = dict(tokens)
        self._template = _compile(source)

    def __repr__(self) -> str:
        return f"<Renderer of {len(self.source):,} characters>"

    def render(
        self,
        turns: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        *,
        answer: bool = True,
        **variables: Any,
    ) -> str:
        """The turns' text; with `answer` the beginning of the assistant's turn follows it.

        `InvalidRequest` with the template's own words if it refuses the turns, `BackendRefused` if it breaks, and
        `TemplateOverdue` if it does not come to an end.
        """
        shown = {"messages": turns, "add_generation_prompt": answer, "tools": tools, "documents": None}
        try:
            return within(RENDER_SECONDS, lambda: self._template.render(**shown, **self._tokens, **variables))
        except TimeoutError:
            raise TemplateOverdue(
                f"the model's chat template did not come to an end within {RENDER_SECONDS:g} s",
                hint="the template in the model's file loops, or the conversation is far too long for it",
            ) from None
        except _Refused as error:
            message = f"the model's chat template refuses the conversation: {_short(error)}"
            raise InvalidRequest(message, details={"field": "messages"}) from None
        except Exception as error:  # the template is the file's code: what it raises is of no known type
            message = f"the model's chat template failed: {type(error).__name__}: {_short(error)}"
            hint = "the template in the model's file does not fit this conversation, or is broken"
            raise BackendRefused(message, hint=hint) from None


class _Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _GenerationTag(Extension):
    """`{% generation %}` marks what a model was trained to say; for a prompt it means nothing."""

    tags = {"generation"}  # noqa: RUF012  # declared so by Jinja

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Looks at what is multiplied: one such step may otherwise take hours, and all memory."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _too_much(operator, left, right):
            raise SecurityError(f"`{operator}` would make more than a prompt needs")
        return super().call_binop(context, operator, left, right)


def _too_much(operator: str, left: Any, right: Any) -> bool:
    if operator == "%":
        return isinstance(left, str) and _WIDTH.search(left) is not None
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            return left.bit_length() * max(right, 0) > _MAX_BITS
        return left.bit_length() + right.bit_length() > _MAX_BITS
    for sequence, times in ((left, right), (right, left)):
        if operator == "*" and isinstance(times, int) and isinstance(sequence, str | bytes | list | tuple):
            return len(sequence) * max(times, 0) > _MAX_REPEATED
    return False


def _compile(source: str) -> jinja2.Template:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag])
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    try:
        return within(RENDER_SECONDS, lambda: environment.from_string(source))
    except TimeoutError:
        reason = f"it is not done after {RENDER_SECONDS:g} s"
    except jinja2.TemplateSyntaxError as error:
        reason = f"line {error.lineno}: {_short(error)}"
    except Exception as error:  # of the file's making, as in `render`: too deeply nested, for one
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


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE - 1]}…"
