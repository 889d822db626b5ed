"""From a conversation to the prompt's text, by the template that the model's file carries.

A file without a template gets ChatML, and every answer says so in a notice. How the template takes tools and
which tags it thinks between is found out at load. Tools that it does not know are described in the system
prompt instead, which a notice says. Thinking blocks of earlier turns go in as `reasoning_content`, the key that
templates of thinking models read; if the template never reads it, a notice says that they were left out.

All text of the caller's, tools and their results included, is guarded against control tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from vestal.errors import ModelError, Unsupported, WireError
from vestal.values import (
    Message,
    MessageV2,
    Notice,
    TextBlock,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
    blocks_text,
)
from vestal_adapters.llamacpp.families import DEFAULT, Family
from vestal_adapters.llamacpp.prompting import default_tools
from vestal_adapters.llamacpp.prompting.conventions import Turn, definitions, find_convention, one_by_one, tool_turns
from vestal_adapters.llamacpp.prompting.guard import Segment, SpecialGuard
from vestal_adapters.llamacpp.prompting.rendering import Renderer, TemplateOverdue
from vestal_adapters.llamacpp.reading.thinking import Tags, effort, find_tags, has_knob, refuse_off

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
_THINKING_SKIPPED = Notice(
    code="thinking_skipped",
    message="the answer had to keep to a grammar from its first character; the model did not think before it",
)
_TOOLS_BY_DEFAULT = Notice(
    code="tools_by_default_prompt",
    message="the model's chat template takes no tools that can be read here; they were described in the prompt",
)
_TEXT_LEFT_OUT = Notice(
    code="text_left_out",
    message="the model's chat template takes no text beside a call of a tool; it was left out of the prompt",
)
_REASONING = "reasoning_content"
_PROBE = "probe_words"


class Prompt:
    """A rendered conversation: its segments in order, and what has to be said about it."""

    __slots__ = ("notices", "segments")

    def __init__(self, segments: list[Segment], notices: list[Notice]) -> None:
        self.segments = segments
        self.notices = notices

    def __repr__(self) -> str:
        return f"<Prompt of {sum(len(segment.text) for segment in self.segments)} characters>"


class ChatTemplate:
    """One model's template. `specials` are the texts of its control tokens.

    `family` is how the model writes calls of tools, `tags` what it thinks between, if it does.
    """

    def __init__(self, source: str | None, *, bos: str = "", eos: str = "", specials: Iterable[str] = ()) -> None:
        self._guard = SpecialGuard(specials)
        self._notices = [_FALLBACK] if source is None else []
        self._source = CHATML if source is None else source
        self._renderer = Renderer(self._source, {"bos_token": bos, "eos_token": eos})
        self._convention = find_convention(self._without_answer)
        self._takes_system = self._shows_system()
        self.family: Family = DEFAULT if self._convention is None else self._convention.family
        self.tags: Tags | None = find_tags(self._source)

    def __repr__(self) -> str:
        whose = "ChatML for want of one" if self._notices else "of the model"
        tools = "by default prompt" if self._convention is None else "by template"
        return f"<ChatTemplate {whose}, tools {tools} as {self.family.name}, {self._guard!r}>"

    @property
    def takes_efforts(self) -> bool:
        """Whether levels of thinking mean something to the template."""
        return has_knob(self._source)

    def prompt(
        self,
        messages: Sequence[Message | MessageV2],
        thinking: Thinking = "auto",
        tools: Sequence[Tool] = (),
        *,
        constrained: bool = False,
    ) -> Prompt:
        """The conversation, ready for the assistant's turn; `constrained` if that must keep to a grammar.

        `InvalidRequest` with the template's own words if it refuses the conversation, `BackendRefused` if it
        breaks on it, `Unsupported` for a block that cannot be shown to the model, or thinking it cannot do.
        """
        notices = list(self._notices)
        if constrained and self.tags is not None:
            thinking = _skipped(thinking, notices)
        turns = self._turns(messages, tools, notices)
        shown = [self._definition(tool) for tool in definitions(tools)] if self._convention and tools else None
        rendered = self._renderer.render(turns, shown, **effort(self._source, thinking))
        if thinking == "off":
            rendered += self._closing(rendered, constrained)
        return Prompt(self._guard.segments(rendered), notices)

    def _closing(self, rendered: str, constrained: bool) -> str:
        if self.tags is None:
            closing = None if self.takes_efforts else ""
        else:
            closing = self.tags.closing(rendered, self._source)
        if closing is None and not constrained:  # a grammar lets nobody think
            raise refuse_off()
        return closing or ""

    def _turns(
        self, messages: Sequence[Message | MessageV2], tools: Sequence[Tool], notices: list[Notice]
    ) -> list[Turn]:
        names: dict[str, str] = {}
        turns: list[Turn] = []
        for number, message in enumerate(messages):
            turns += self._turns_of(number, message, names, notices)
        if self._convention is None:
            if tools:
                turns = default_tools.with_section(turns, default_tools.section(tools), takes_system=self._takes_system)
            if tools or names:
                notices.append(_TOOLS_BY_DEFAULT)
        elif not self._convention.several:
            turns = one_by_one(turns)
        if _REASONING not in self._source and any(_REASONING in turn for turn in turns):
            notices.append(_THINKING_LEFT_OUT)
        return [self._protected(turn) for turn in turns]

    def _turns_of(
        self, number: int, message: Message | MessageV2, names: dict[str, str], notices: list[Notice]
    ) -> list[Turn]:
        if isinstance(message, Message):
            return [{"role": message.role, "content": message.content}]
        _check_blocks(number, message)
        if message.role == "user":
            return self._user_turns(message, names)
        turn: Turn = {"role": message.role, "content": blocks_text(message.content)}
        calls = {block.call_id: block.name for block in message.content if isinstance(block, ToolUseBlock)}
        names |= calls
        if calls and self._convention is None:
            turn["content"] = default_tools.call_text(message)
        elif calls and self._convention is not None:
            if turn["content"] and not self._convention.with_text and _TEXT_LEFT_OUT not in notices:
                notices.append(_TEXT_LEFT_OUT)
            turn = self._convention.turn(message)
        if thoughts := "".join(block.text for block in message.content if isinstance(block, ThinkingBlock)):
            turn[_REASONING] = thoughts
        return [turn]

    def _user_turns(self, message: MessageV2, names: dict[str, str]) -> list[Turn]:
        """The results of tools come first, since they answer the turn before; then what the user says to them."""
        if self._convention is None:
            return [{"role": "user", "content": default_tools.user_text(message)}]
        turns = tool_turns(message, names)
        if not turns or any(isinstance(block, TextBlock) for block in message.content):
            turns.append({"role": "user", "content": blocks_text(message.content)})
        return turns

    def _protected(self, turn: Turn) -> Turn:
        safe: Turn = {key: self._guard.protect(value) for key, value in turn.items() if key in _WRITTEN and value}
        if "tool_calls" in turn:
            safe["tool_calls"] = [
                {**call, "function": {key: self._deep(value) for key, value in call["function"].items()}}
                for call in turn["tool_calls"]
            ]
        return {**turn, **safe}

    def _definition(self, tool: Turn) -> Turn:
        return {**tool, "function": {key: self._deep(value) for key, value in tool["function"].items()}}

    def _deep(self, value: Any) -> Any:
        """Any JSON value with every text in it guarded."""
        if isinstance(value, str):
            return self._guard.protect(value)
        if isinstance(value, dict):
            return {self._guard.hide(key): self._deep(item) for key, item in value.items()}
        return [self._deep(item) for item in value] if isinstance(value, list) else value

    def _without_answer(self, turns: Sequence[Turn], tools: Sequence[Any] | None) -> str:
        try:
            return self._renderer.render(turns, tools, answer=False)
        except TemplateOverdue as error:  # two turns at load: no request would ever get further
            raise ModelError(error.message, hint="the file's template loops: try another conversion") from None

    def _shows_system(self) -> bool:
        try:
            return _PROBE in self._without_answer(
                [{"role": "system", "content": _PROBE}, {"role": "user", "content": "x"}], None
            )
        except WireError:
            return False


_WRITTEN = frozenset({"content", "name", _REASONING})
"""The keys of a turn that hold what somebody wrote."""


def _skipped(thinking: Thinking, notices: list[Notice]) -> Thinking:
    if thinking not in ("auto", "off"):
        raise Unsupported(
            f"thinking={thinking!r} cannot be had with an answer that must keep to a grammar",
            hint="leave out thinking, or what constrains the answer",
            details={"option": "thinking"},
        )
    if thinking == "auto":
        notices.append(_THINKING_SKIPPED)
    return "off"


def _check_blocks(number: int, message: MessageV2) -> None:
    for index, block in enumerate(message.content):
        if not isinstance(block, TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock):
            _refuse_block(f"messages[{number}].content[{index}]", str(type(block).__struct_config__.tag))


def _refuse_block(place: str, kind: str) -> NoReturn:
    raise Unsupported(
        f"{place}: this model cannot be shown a `{kind}` block",
        hint="leave it out, or name a model whose capabilities include it",
        details={"option": place},
    )
