"""From text to text that may leave: nothing of a stop string.

A stop string can span tokens; text that may turn out to be the beginning of one is held back until the next
token decides. Pure, and independent of where the tokens' borders fall.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopMatcher"]


class _Pattern:
    """One stop string and how much of it the text so far ends with (Knuth-Morris-Pratt)."""

    __slots__ = ("_fallback", "_text", "matched")

    def __init__(self, text: str) -> None:
        self._text = text
        self._fallback = _fallbacks(text)
        self.matched = 0

    def advance(self, char: str) -> bool:
        """Take one character; whether the text now ends with the whole pattern."""
        matched = self.matched
        while matched and self._text[matched] != char:
            matched = self._fallback[matched]
        self.matched = matched + (self._text[matched] == char)
        return self.matched == len(self._text)


def _fallbacks(text: str) -> list[int]:
    """For each length of a match, the longest shorter match that is also an ending of it."""
    table = [0, 0]
    for char in text[1:]:
        length = table[-1]
        while length and text[length] != char:
            length = table[length]
        table.append(length + (text[length] == char))
    return table


class StopMatcher:
    """Passes text on until the first place where a stop string is complete.

    Of several that end at the same place the longest counts, so that no part of any is let through. Linear in
    the text for each stop string, whatever the strings are.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._patterns = [_Pattern(stop) for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else f"holds {len(self._held)} characters"
        return f"<StopMatcher of {len(self._patterns)}, {state}>"

    def feed(self, text: str) -> str:
        """Take the next piece; returns what can no longer be part of a stop string. Nothing after a stop."""
        if self.stopped:
            return ""
        if not self._patterns:
            return text
        buffer = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            if matched := self._advance(char):
                self.stopped, self._held = True, ""
                return buffer[: end - matched]
        keep = len(buffer) - max((pattern.matched for pattern in self._patterns), default=0)
        self._held = buffer[keep:]
        return buffer[:keep]

    def flush(self) -> str:
        """The text has ended: what was held back was no stop string after all."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> int:
        """Length of the longest stop string that is complete with `char`, 0 if none is."""
        longest = 0
        for pattern in self._patterns:
            if pattern.advance(char):
                longest = max(longest, pattern.matched)
        return longest
