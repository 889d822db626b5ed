"""The pieces into which an answer is split on its way out: which text is what, and how much of the raw text it took."""

from __future__ import annotations

from typing import Literal, NamedTuple

from vestal_adapters.llamacpp.families import Call

__all__ = ["Span"]


class Span(NamedTuple):
    """`width` is how many characters of the raw text it accounts for.

    A "skip" is nothing but syntax; a "flaw" says what is wrong with the text that follows.
    """

    kind: Literal["text", "thinking", "call", "skip", "flaw"]
    width: int
    text: str = ""
    call: Call | None = None

    @classmethod
    def of_text(cls, text: str) -> Span:
        return cls("text", len(text), text)

    @classmethod
    def of_thinking(cls, text: str) -> Span:
        return cls("thinking", len(text), text)

    @classmethod
    def of_call(cls, call: Call, width: int) -> Span:
        return cls("call", width, call=call)

    @classmethod
    def skip(cls, width: int) -> Span:
        return cls("skip", width)
