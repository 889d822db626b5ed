"""Keeps what users write from being read as the model's control tokens. Pure.

A chat template puts control tokens such as `<|im_end|>` between the turns as text, and the tokeniser turns
that text into tokens. The same text inside a message must not become one: it would let a quoted web page end
the user's turn and speak as the system. So before rendering, each occurrence in a message is replaced by one
private-use character (which `trim`, `upper` or `tojson` in a template leave alone), and after rendering the
text around such a character, up to the template's own control tokens, is marked as plain: it is tokenised
whole, as written, with control tokens off. A prompt without an occurrence is tokenised in one go, like
llama.cpp's server.

Tokens of the kind "user defined" are not control tokens; llama.cpp always parses those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from vestal.errors import ModelError

__all__ = ["Segment", "SpecialGuard"]

_FIRST, _LAST = 0xF0000, 0x10FFFF  # planes 15 and 16: private use


class Segment(NamedTuple):
    """A piece of a prompt; control tokens are parsed only where it is `trusted`."""

    text: str
    trusted: bool


class SpecialGuard:
    """Knows the texts of a vocabulary's control tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted({text for text in texts if text}, key=lambda text: (-len(text), text))
        if len(self._texts) + 1 > _LAST - _FIRST:
            raise ModelError(f"the vocabulary has {len(self._texts):,} control tokens; no model needs that many")
        self._escape, self._cut = chr(_FIRST + len(self._texts)), chr(_FIRST + len(self._texts) + 1)
        self._marks = {text: chr(_FIRST + number) for number, text in enumerate(self._texts)}
        self._originals = {mark: text for text, mark in self._marks.items()}
        self._beginnings = {text[:end] for text in self._texts for end in range(1, len(text))}
        self._longest = max(map(len, self._texts), default=0)
        ours = f"[{chr(_FIRST)}-{self._cut}]"
        self._special = re.compile("(" + "|".join(map(re.escape, self._texts)) + ")") if self._texts else None
        self._foreign = re.compile("|".join([*map(re.escape, self._texts), ours]))
        self._ours = re.compile(f"{self._escape}({ours})|{ours}")

    def __repr__(self) -> str:
        return f"<SpecialGuard against {len(self._texts)} texts>"

    def protect(self, text: str) -> str:
        """A user's text, with nothing in it that could be taken for a control token once it is in a prompt."""
        return self._cut_off(self.hide(text))

    def hide(self, text: str) -> str:
        """The same for a name that a template may look for: it stays as it is, unless there is one in it."""
        return self._foreign.sub(self._mark, text)

    def segments(self, rendered: str) -> list[Segment]:
        """A prompt rendered from protected texts, split by what may hold control tokens. No user's text is lost."""
        if self._special is None or self._ours.search(rendered) is None:
            return [Segment(self._restore(rendered), True)] if rendered else []
        segments: list[Segment] = []
        for part in filter(None, self._special.split(rendered)):
            restored = self._restore(part)
            trusted = restored == part
            if segments and trusted and segments[-1].trusted:
                restored = segments.pop().text + restored
            if restored:
                segments.append(Segment(restored, trusted))
        return segments

    def _mark(self, found: re.Match[str]) -> str:
        text = found.group()
        return self._marks.get(text) or self._escape + text  # a character that we use ourselves

    def _restore(self, text: str) -> str:
        return self._ours.sub(lambda found: found.group(1) or self._originals.get(found.group(), ""), text)

    def _cut_off(self, text: str) -> str:
        """Part a text that ends in the beginning of a control token from whatever a template puts after it.

        White space at the end does not count, since templates strip it.
        """
        end = len(text.rstrip())
        for length in range(1, min(self._longest, end + 1)):
            if text[end - length : end] in self._beginnings:
                return text[:end] + self._cut + text[end:]
        return text
