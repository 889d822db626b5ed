"""From an answer's bytes to its events: characters, thinking, calls of tools, text less the stop strings.

Each stage holds back what it cannot decide yet and hands on the rest; none looks at where the tokens end, so
that the events, joined, depend on the bytes alone. Stop strings count in the answer's text only: they end no
thought and no call.

Every token is counted once: with the first event that holds a character of it, or, if it made nothing but
syntax, with the event after. `silent` says how many of an event's tokens are such; an answer's last tokens may
belong to no event.
"""

from __future__ import annotations

import codecs
import secrets
import string
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from msgspec import structs

from vestal.backend import TextEvent, ThinkingEvent, ToolUseEvent
from vestal.values import Notice
from vestal_adapters.llamacpp.reading.calls import CallSplitter
from vestal_adapters.llamacpp.reading.spans import Span
from vestal_adapters.llamacpp.reading.text import StopMatcher
from vestal_adapters.llamacpp.reading.thinking import ThinkingSplitter

__all__ = ["Piece", "Reader", "joined"]

_Utf8 = codecs.getincrementaldecoder("utf-8")
_ID_LENGTH = 9  # Mistral's templates refuse any other
_ID_CHARACTERS = string.ascii_letters + string.digits
_LEFT_OUT = Notice("thinking_left_out", "the model thought before it answered; its thinking was left out")

_MALFORMED = "the model began a call of a tool that could not be read, which is in the text: "


class Piece(NamedTuple):
    """An event; the first `silent` of its tokens made no part of it."""

    event: TextEvent | ThinkingEvent | ToolUseEvent
    silent: int


class Reader:
    """Reads one answer, token by token. Invalid bytes become U+FFFD.

    `called` says whether calls have come, `notices` what has to be said about the answer so far.
    `markers` are the control tokens that the stages know by their text; other control tokens have none. Without
    `shows_thinking` the thinking is left out, and a notice says so. `taken` are call ids that would be mistaken
    for others.
    """

    def __init__(
        self,
        stops: Sequence[str] = (),
        *,
        thinking: ThinkingSplitter | None = None,
        calls: CallSplitter | None = None,
        markers: Mapping[int, bytes] | None = None,
        shows_thinking: bool = True,
        taken: Collection[str] = (),
    ) -> None:
        self.markers: Mapping[int, bytes] = markers or {}
        self.called = False
        self._decode = _Utf8(errors="replace").decode
        self._stops = stops
        self._matcher = StopMatcher(stops)
        self._thinking = thinking
        self._calls = calls
        self._plain = not stops and thinking is None and calls is None  # no stage holds anything back
        self._shows_thinking = shows_thinking
        self.notices: list[Notice] = []
        self._taken = set(taken)
        self._tokens: deque[tuple[int, int]] = deque()  # where those begin and end that no event has
        self._read = self._reached = 0  # characters that came in, and that came out
        self._silent = 0

    def __repr__(self) -> str:
        stages = [stage for stage in (self._thinking, self._calls, self._matcher) if stage is not None]
        return f"<Reader {' > '.join(map(repr, stages))}>"

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._matcher.stopped

    def feed(self, data: bytes) -> list[Piece]:
        """Take one token's bytes; returns what is certain now, often a token late."""
        text = self._decode(data)
        if self._plain and text and not self._tokens:  # nearly every token of nearly every answer
            self._read = self._reached = self._read + len(text)
            return [Piece(TextEvent(text), 0)]
        self._tokens.append((self._read, self._read + len(text)))
        self._read += len(text)
        return self._pieces(self._split(text)) if text else []

    def finish(self) -> list[Piece]:
        """No more tokens: the rest."""
        rest = self._decode(b"", True)
        self._read += len(rest)
        spans = self._split(rest)
        if self._thinking is not None:
            spans += self._split_calls(self._thinking.finish())
        if self._calls is not None:
            spans += self._calls.finish()
        pieces = self._pieces(spans)
        _extend(pieces, self._shown(self._matcher.flush()))
        return pieces

    def _split(self, text: str) -> list[Span]:
        spans = [Span.of_text(text)] if self._thinking is None else self._thinking.feed(text)
        return self._split_calls(spans)

    def _split_calls(self, spans: list[Span]) -> list[Span]:
        if self._calls is None:
            return spans
        split: list[Span] = []
        for span in spans:
            split += self._calls.feed(span.text) if span.kind == "text" else [span]
        return split

    def _pieces(self, spans: list[Span]) -> list[Piece]:
        pieces: list[Piece] = []
        for span in spans:
            if self.stopped:
                break
            if span.kind == "flaw":
                self.notices.append(Notice("tool_call_malformed", _MALFORMED + span.text))
            elif span.kind == "text":
                _extend(pieces, self._shown(self._matcher.feed(span.text)))
            else:
                _extend(pieces, self._break_text())
                _extend(pieces, self._other(span))
        return pieces

    def _break_text(self) -> list[Piece]:
        """A stop string does not reach over what is no text."""
        held = self._matcher.flush()
        if self._stops:
            self._matcher = StopMatcher(self._stops)
        return self._shown(held)

    def _shown(self, text: str) -> list[Piece]:
        return [self._piece(TextEvent(text), len(text))] if text else []

    def _other(self, span: Span) -> list[Piece]:
        if span.kind == "call" and span.call is not None:
            self.called = True
            return [self._piece(ToolUseEvent(self._call_id(), *span.call), span.width)]
        if span.kind == "thinking" and self._shows_thinking:
            return [self._piece(ThinkingEvent(span.text), span.width)]
        if span.kind == "thinking" and _LEFT_OUT not in self.notices:
            self.notices.append(_LEFT_OUT)
        self._reached += span.width
        while self._tokens and self._tokens[0][1] <= self._reached:
            self._tokens.popleft()
            self._silent += 1
        return []

    def _piece(self, event: TextEvent | ThinkingEvent | ToolUseEvent, width: int) -> Piece:
        self._reached += width
        silent, tokens = self._silent, self._silent
        while self._tokens and self._tokens[0][0] < self._reached:
            self._tokens.popleft()
            tokens += 1
        self._silent = 0
        return Piece(structs.replace(event, tokens=tokens), silent)

    def _call_id(self) -> str:
        while True:
            number = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
            if number not in self._taken:
                self._taken.add(number)
                return number


def joined(pieces: list[Piece], more: list[Piece]) -> list[Piece]:
    """One list, text to text and thinking to thinking."""
    pieces = list(pieces)
    _extend(pieces, more)
    return pieces


def _extend(pieces: list[Piece], more: list[Piece]) -> None:
    """Add them, text to text and thinking to thinking."""
    for piece in more:
        joined = _join(pieces[-1], piece) if pieces and not piece.silent else None
        if joined is None:
            pieces.append(piece)
        else:
            pieces[-1] = joined


def _join(first: Piece, second: Piece) -> Piece | None:
    one, two = first.event, second.event
    if isinstance(one, TextEvent) and isinstance(two, TextEvent):
        return Piece(TextEvent(one.text + two.text, one.tokens + two.tokens), first.silent)
    if isinstance(one, ThinkingEvent) and isinstance(two, ThinkingEvent):
        return Piece(ThinkingEvent(one.text + two.text, one.tokens + two.tokens), first.silent)
    return None
