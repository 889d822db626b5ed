"""Reading GBNF, llama.cpp's grammar notation, within limits. Pure.

The notation is llama.cpp's own, except for three things. References to tokens (`<[7]>`, `!<think>`) are refused:
a client does not choose tokens. A rule that is defined twice, and an empty class `[]`, are errors, where llama.cpp
takes the last and the empty text. And repetitions are exact, where llama.cpp takes more than 2,000 for "any number".

llama.cpp's reader is not used because it can be made to run for ever: `"a"{5,2}` never ends, its check for left
recursion takes exponential time, misses recursion behind rules that may be empty, and an error it throws while
sampling ends the process. Here the work is bounded by arithmetic before it is done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from vestal.errors import InvalidRequest, Unsupported
from vestal.values import MAX_GRAMMAR_BYTES
from vestal_adapters.llamacpp.constraining.charset import EVERY, Ranges, difference, union

__all__ = ["MAX_ALTERNATIONS", "MAX_DEPTH", "Chars", "Choice", "Grammar", "Item", "Literal", "Ref", "Repeat", "parse"]

MAX_ALTERNATIONS = 4096
"""Of all rules and groups together, what is repeated counted as often as it may come."""
MAX_DEPTH = 32
"""Brackets inside each other."""
_MAX_DIGITS = 9
_QUOTE = 60


@dataclass(frozen=True, slots=True)
class Literal:
    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Ref:
    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several sequences of items."""

    options: tuple[tuple[Item, ...], ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`high` is `None` for "any number"."""

    item: Item
    low: int
    high: int | None


Item = Literal | Chars | Ref | Choice | Repeat
Grammar = dict[str, Choice]

_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK_OR_LINE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_NUMBER = re.compile(r"[0-9]+")
_SIGNS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEX = {"x": 2, "u": 4, "U": 8}
_ANY = Chars(EVERY)


def parse(text: str, field: str = "grammar") -> Grammar:
    """The rules by their names, `root` among them; `InvalidRequest` with the line for what is not GBNF."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_GRAMMAR_BYTES:
        raise _over(field, "bytes", size, MAX_GRAMMAR_BYTES)
    return _Reader(text, field).grammar()


class _Reader:
    def __init__(self, text: str, field: str) -> None:
        self._text = text
        self._field = field
        self._at = 0
        self._depth = 0
        self._rules: Grammar = {}
        self._referred: dict[str, int] = {}

    def grammar(self) -> Grammar:
        """Everything, checked."""
        self._blank(lines=True)
        while self._at < len(self._text):
            self._rule()
            self._blank(lines=True)
        self._check()
        return self._rules

    def _check(self) -> None:
        if "root" not in self._rules:
            self._wrong("there is no rule `root`, which a grammar begins with", None)
        for name, at in self._referred.items():
            if name not in self._rules:
                self._wrong(f"the rule `{_shown(name)}` is not defined", at)
        weight = sum(_weight(rule) for rule in self._rules.values())
        if weight > MAX_ALTERNATIONS:
            raise _over(self._field, "alternations", weight, MAX_ALTERNATIONS)

    def _rule(self) -> None:
        start = self._at
        name = self._match(_NAME, "a rule's name")
        self._blank()
        if not self._text.startswith("::=", self._at):
            self._wrong(f"expected ::= after `{_shown(name)}`")
        self._at += 3
        self._blank(lines=True)
        if name in self._rules:
            self._wrong(f"the rule `{_shown(name)}` is defined twice", start)
        self._rules[name] = self._choice(nested=False)
        if self._peek() not in ("", "\r", "\n"):
            self._wrong(f"{self._peek()!r} is not expected")

    def _choice(self, *, nested: bool) -> Choice:
        options = [self._sequence(nested)]
        while self._peek() == "|":
            self._at += 1
            self._blank(lines=True)
            options.append(self._sequence(nested))
        return Choice(tuple(options))

    def _sequence(self, nested: bool) -> tuple[Item, ...]:
        items: list[Item] = []
        while (item := self._item()) is not None:
            self._blank(lines=nested)
            if (bounds := self._bounds(nested)) is not None:
                item = Repeat(item, *bounds)
                self._blank(lines=nested)
                if _repeats(self._peek()):
                    self._wrong("a repetition behind a repetition; put brackets around the first")
            items.append(item)
        if _repeats(self._peek()):
            self._wrong(f"{self._peek()!r} has nothing before it to repeat")
        return tuple(items)

    def _item(self) -> Item | None:
        char = self._peek()
        if char == '"':
            return self._literal()
        if char == "[":
            return self._class()
        if char == "(":
            return self._group()
        if char == ".":
            self._at += 1
            return _ANY
        if char in ("<", "!"):
            message = f"{self._field}: {self._where(self._at)}: tokens cannot be named in a grammar here, only text"
            raise Unsupported(message, details={"option": "grammar", "field": self._field})
        if found := _NAME.match(self._text, self._at):
            self._referred.setdefault(found.group(), self._at)
            self._at = found.end()
            return Ref(found.group())
        return None

    def _literal(self) -> Item:
        self._at += 1
        chars: list[str] = []
        while self._peek() != '"':
            start = self._at
            chars.append(char := self._char())
            if char == "\0" or "\ud800" <= char <= "\udfff":
                self._wrong(f"U+{ord(char):04X} cannot be part of a text", start)
        self._at += 1
        return Literal("".join(chars))

    def _class(self) -> Item:
        start = self._at
        self._at += 1
        negative = self._peek() == "^"
        self._at += negative
        pairs: list[tuple[int, int]] = []
        while self._peek() != "]":
            low = high = ord(self._char())
            if self._peek() == "-" and self._peek(1) != "]":
                self._at += 1
                high = ord(self._char())
            if high < low:
                self._wrong(f"the range from {chr(low)!r} to {chr(high)!r} holds nothing")
            pairs.append((low, high))
        self._at += 1
        found = union(pairs)
        ranges = difference(EVERY, found if negative else difference(EVERY, found))
        if not pairs or not ranges:
            self._wrong("a class that holds no character", start)
        return Chars(ranges)

    def _group(self) -> Item:
        start = self._at
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _over(self._field, "brackets inside each other", self._depth, MAX_DEPTH)
        self._at += 1
        self._blank(lines=True)
        choice = self._choice(nested=True)
        if self._peek() != ")":
            self._wrong("a bracket that is not closed", start)
        self._at += 1
        self._depth -= 1
        return choice

    def _bounds(self, nested: bool) -> tuple[int, int | None] | None:
        sign = self._peek()
        if not _repeats(sign):
            return None
        start = self._at
        self._at += 1
        if sign != "{":
            return _SIGNS[sign]
        low = self._number(nested)
        high: int | None = low
        if self._peek() == ",":
            self._at += 1
            self._blank(lines=nested)
            high = None if self._peek() == "}" else self._number(nested)
        if self._peek() != "}":
            self._wrong("a repetition is {n}, {n,} or {n,m}", start)
        self._at += 1
        if high is not None and high < low:
            self._wrong(f"a repetition from {low:,} down to {high:,}", start)
        return low, high

    def _number(self, nested: bool) -> int:
        self._blank(lines=nested)
        digits = self._match(_NUMBER, "a number")
        if len(digits) > _MAX_DIGITS:
            self._wrong(f"a number of repetitions of {len(digits):,} digits")
        self._blank(lines=nested)
        return int(digits)

    def _char(self) -> str:
        """One character of a literal or a class."""
        char = self._peek()
        self._at += 1
        if char == "\\":
            char = self._escape()
        if not char:
            self._wrong("the grammar ends too early")
        return char

    def _escape(self) -> str:
        kind = self._peek()
        self._at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self._text[self._at : self._at + _HEX.get(kind, 0)]
        if len(digits) < _HEX.get(kind, 9) or not re.fullmatch("[0-9A-Fa-f]+", digits):
            self._wrong(f"the escape \\{kind}{digits} is not known")
        self._at += len(digits)
        if (code := int(digits, 16)) > 0x10FFFF:
            self._wrong(f"there is no character U+{code:X}")
        return chr(code)

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._wrong(f"expected {what}")
        self._at = found.end()
        return found.group()

    def _blank(self, *, lines: bool = False) -> None:
        found = (_BLANK_OR_LINE if lines else _BLANK).match(self._text, self._at)
        self._at = self._at if found is None else found.end()

    def _peek(self, ahead: int = 0) -> str:
        return self._text[self._at + ahead : self._at + ahead + 1]

    def _where(self, at: int) -> str:
        line = self._text.count("\n", 0, at) + 1
        return f"line {line}, column {at - self._text.rfind(chr(10), 0, at)}"

    def _wrong(self, what: str, at: int | None = -1) -> NoReturn:
        place = "" if at is None else f"{self._where(min(self._at if at < 0 else at, len(self._text)))}: "
        raise InvalidRequest(f"{self._field}: {place}{what}", details={"field": self._field})


def _repeats(char: str) -> bool:
    return char != "" and char in "*+?{"


def _weight(item: Item) -> int:
    """Alternations of an item, with its repetitions written out. References count once: they are not copied."""
    match item:
        case Choice(options):
            return sum(max(1, sum(_inner(part) for part in option)) for option in options)
        case Repeat(repeated, low, high):
            return _weight(repeated) * max(1, low if high is None else high)
        case _:
            return 1


def _inner(item: Item) -> int:
    """What an item adds to the alternative it is in: nothing, unless it makes alternatives of its own."""
    return _weight(item) if isinstance(item, Choice | Repeat) else 0


def _over(field: str, what: str, count: int, limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"{field}: {count:,} {what}, and the limit is {limit:,}",
        hint="make the grammar smaller; what is repeated counts as often as it may come",
        details={"field": field, "count": count, "limit": limit, "of": what},
    )


def _shown(name: str) -> str:
    return name if len(name) <= _QUOTE else f"{name[:_QUOTE]}…"
