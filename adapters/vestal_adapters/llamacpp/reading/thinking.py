"""Thinking that a model writes between tags: parted from the answer, and turned off. Pure.

Which tags a model uses is seen from its template. Thinking comes first or not at all: a tag further on is text
about tags. The white space around the tags belongs to them.

Off means that the model finds its thinking already done. Where the template knows `enable_thinking`, it sees to
that; otherwise an empty pair of tags goes at the end of the prompt, as Qwen 3's own template does it and as
models distilled from DeepSeek R1 take it ("Reasoning models can be effective without thinking", 2025).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vestal.errors import Unsupported
from vestal.values import Thinking
from vestal_adapters.llamacpp.reading.spans import Span

__all__ = ["Tags", "ThinkingSplitter", "effort", "find_tags", "has_knob", "refuse_off"]

_SWITCH = "enable_thinking"
_KNOB = "reasoning_effort"
_EFFORTS = ("low", "medium", "high")


class Tags(NamedTuple):
    """What thinking stands between. `empty`, where it is known to work, is thinking that is already done."""

    begin: str
    end: str
    empty: str | None

    def opened(self, prompt: str) -> bool:
        """Whether an answer to the prompt begins within thinking."""
        return prompt.rstrip().endswith(self.begin)

    def closing(self, prompt: str, source: str) -> str | None:
        """What has to follow the prompt for an answer without thinking; `None` if nothing is known to do it.

        The prompt is the template's, which was told not to think.
        """
        if self.opened(prompt):
            return f"\n{self.end}\n\n"
        if prompt.rstrip().endswith(self.end) or _SWITCH in source:
            return ""
        return self.empty


_ALL = (Tags("<think>", "</think>", "<think>\n\n</think>\n\n"), Tags("[THINK]", "[/THINK]", None))


def find_tags(source: str) -> Tags | None:
    """The tags that a template knows; `None` for that of a model that does not think, or not between tags."""
    return next((tags for tags in _ALL if tags.begin in source or tags.end in source), None)


def has_knob(source: str) -> bool:
    """Whether the template takes a level of thinking."""
    return _KNOB in source


def effort(source: str, thinking: Thinking) -> dict[str, Any]:
    """What to tell the template about how much to think; `Unsupported` for a level that it does not know."""
    if thinking == "auto":
        return {}
    if thinking == "off":
        return {_SWITCH: False}
    if not has_knob(source) or thinking not in _EFFORTS:
        known = ", ".join(("auto", "off", *(_EFFORTS if has_knob(source) else ())))
        raise Unsupported(
            f"this model's chat template knows no thinking={thinking!r}",
            hint=f"it knows: {known}",
            details={"option": "thinking"},
        )
    return {_SWITCH: True, _KNOB: thinking}


def refuse_off() -> Unsupported:
    return Unsupported(
        "this model always thinks: nothing is known that turns it off",
        hint="leave thinking out, or lower it where the model's capabilities say so",
        details={"option": "thinking"},
    )


class ThinkingSplitter:
    """Reads one answer; `opened` says that the prompt has opened the tag."""

    def __init__(self, tags: Tags, *, opened: bool) -> None:
        self._tags = tags
        self._step = self._inside if opened else self._before
        self._held = ""
        self._said = False

    def __repr__(self) -> str:
        return f"<ThinkingSplitter {self._step.__name__.strip('_')} {self._tags.begin}>"

    def feed(self, text: str) -> list[Span]:
        """Take the next piece; returns what is certain."""
        self._held += text
        return self._step()

    def finish(self) -> list[Span]:
        """The text has ended: what is held was no tag."""
        held, self._held = self._held, ""
        if not held:
            return []
        if self._step == self._before:
            return [Span.of_text(held)]
        return [Span.of_thinking(held) if held.strip() else Span.skip(len(held))]

    def _before(self) -> list[Span]:
        """Nothing but white space so far, and perhaps a part of the tag."""
        begin, text = self._tags.begin, self._held.lstrip()
        if text.startswith(begin):
            skipped = Span.skip(len(self._held) - len(text) + len(begin))
            self._held, self._step = text[len(begin) :], self._inside
            return [skipped, *self._inside()]
        if begin.startswith(text):
            return []
        self._step = self._through
        return self._through()

    def _inside(self) -> list[Span]:
        spans = self._leading_space() if not self._said else []
        thoughts, tag, rest = self._held.partition(self._tags.end)
        certain = thoughts if tag else thoughts[: len(thoughts) - _overlap(thoughts, self._tags.end)]
        said = certain.rstrip()
        if said:
            self._said = True
            spans.append(Span.of_thinking(said))
        if not tag:
            self._held = self._held[len(said) :]
            return spans
        spans.append(Span.skip(len(thoughts) - len(said) + len(tag)))
        self._held, self._step = rest, self._after
        return spans + self._after()

    def _after(self) -> list[Span]:
        spans = self._leading_space()
        if not self._held:
            return spans
        self._step = self._through
        return spans + self._through()

    def _through(self) -> list[Span]:
        held, self._held = self._held, ""
        return [Span.of_text(held)] if held else []

    def _leading_space(self) -> list[Span]:
        text = self._held.lstrip()
        width = len(self._held) - len(text)
        self._held = text
        return [Span.skip(width)] if width else []


def _overlap(text: str, tag: str) -> int:
    """How much of the tag's beginning the text ends with."""
    return next((length for length in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:length])), 0)
