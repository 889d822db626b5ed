"""A JSON Schema `pattern` as rules over the characters of a JSON string. Pure.

The subset is what is regular, means the same to every validator and is exact: literals, classes, groups,
alternation, quantifiers, and anchors at the two ends. As in JSON Schema a pattern without an anchor may match
anywhere. Where ECMA 262 and Python disagree on a class (`\\w`, `\\s`, `.`) only what both mean is produced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from vestal.values import MAX_GRAMMAR_BYTES
from vestal_adapters.llamacpp.constraining.charset import EVERY, JSON_RAW, Ranges, difference, gbnf_class, single, union
from vestal_adapters.llamacpp.constraining.rules import Rules

__all__ = ["PatternError", "pattern_body"]

MAX_DEPTH = 32
MAX_REPEAT = 4096

_DIGIT: Ranges = ((0x30, 0x39),)
_WORD = union([*_DIGIT, (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_ASCII: Ranges = ((0x01, 0x7F),)
_SPACE = single(" \t\n\r\f\v")
_WIDE_SPACE = union(
    [(0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
     (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]
)  # fmt: skip
_CLASSES = {
    "d": _DIGIT,
    "D": difference(_ASCII, _DIGIT),
    "w": _WORD,
    "W": difference(_ASCII, _WORD),
    "s": _SPACE,
    "S": difference(EVERY, _WIDE_SPACE),
}
# What a class has to mean inside a negated one: all that anybody takes for it.
_NEGATED = {
    "d": union([*_DIGIT, (0x80, 0x10FFFF)]),
    "w": union([*_WORD, (0x80, 0x10FFFF)]),
    "s": _WIDE_SPACE,
}
_ANY = difference(EVERY, single("\n\r\u0085\u2028\u2029"))
_NOT_RAW = difference(((0, 0x10FFFF),), JSON_RAW)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_HEX = {"x": 2, "u": 4}
_PUNCTUATION = frozenset("^$\\.*+?()[]{}|/-\"'#&~@!%,:;<=>_` ")
_SHORT = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r"}


class PatternError(ValueError):
    """Something that the subset does not have; `at` is where."""

    def __init__(self, what: str, at: int) -> None:
        super().__init__(f"{what} at character {at}")


@dataclass(frozen=True, slots=True)
class _Part:
    """A GBNF expression that needs no brackets, and whether it may be empty."""

    text: str
    empty: bool


def pattern_body(pattern: str, rules: Rules) -> str:
    """GBNF for the inside of a JSON string, without its quotes; `PatternError` for what is not in the subset."""
    return _Reader(pattern, rules).whole()


class _Reader:
    def __init__(self, pattern: str, rules: Rules) -> None:
        self._text = pattern
        self._rules = rules
        self._at = 0
        self._depth = 0

    def whole(self) -> str:
        if len(self._text) > MAX_GRAMMAR_BYTES:  # of what is written plainly the grammar is as long
            self._refuse(f"more than {MAX_GRAMMAR_BYTES:,} characters")
        anywhere = f"{self._rules.shared('char')}*"
        before = "" if self._take("^") else f"{anywhere} "
        start = self._at
        part, count = self._alternatives()
        after = "" if self._take("$") else f" {anywhere}"
        if self._at < len(self._text):
            self._refuse(f"{self._text[self._at]!r} is not expected")
        if count > 1 and (start or not after):
            self._refuse("an anchor beside alternatives belongs to one of them; write ^(…|…)$")
        return f"{before}{part.text}{after}" or '""'

    def _alternatives(self) -> tuple[_Part, int]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} groups inside each other")
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        self._depth -= 1
        empty = any(part.empty for part in parts)
        if len(parts) == 1:
            return parts[0], 1
        return _Part(f"({' | '.join(part.text for part in parts)})", empty), len(parts)

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)$":
            self._rules.deadline.check()
            parts.append(self._quantified(self._atom()))
        return _Part(" ".join(part.text for part in parts) or '""', all(part.empty for part in parts))

    def _quantified(self, atom: _Part) -> _Part:
        bounds = self._quantifier()
        if bounds is None:
            return atom
        low, high = bounds
        self._take("?")  # lazy: the same strings
        if self._peek() in ("*", "+", "{"):
            self._refuse("a quantifier behind a quantifier")
        if high is None and atom.empty:
            self._refuse("something that may be empty is repeated without end")
        if max(low, high or 0) > MAX_REPEAT:
            self._refuse(f"more than {MAX_REPEAT} repetitions")
        if high == 0:
            return _Part('""', True)
        body = self._rules.add(atom.text, "p")
        return _Part(f"{body}{{{low},{'' if high is None else high}}}", atom.empty or low == 0)

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        if not self._take("{"):
            return None
        low = self._number()
        high: int | None = low
        if self._take(","):
            high = None if self._peek() == "}" else self._number()
        if not self._take("}"):
            self._refuse("a quantifier that does not end")
        if high is not None and high < low:
            self._refuse(f"a quantifier from {low} to {high}")
        return low, high

    def _atom(self) -> _Part:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return self._chars(self._class())
        if char == ".":
            return self._chars(_ANY)
        if char == "\\":
            return self._chars(self._escape())
        if char in "*+?{}^]":
            self._at -= 1
            self._refuse(f"{char!r} is not expected")
        return self._chars(single(char))

    def _group(self) -> _Part:
        if self._take("?") and not self._take(":"):
            self._refuse("a group of a kind that no grammar can enforce")
        part, _ = self._alternatives()
        if not self._take(")"):
            self._refuse("a group that does not end, or an anchor inside one")
        return _Part(f"({part.text})", part.empty)

    def _class(self) -> Ranges:
        negative = self._take("^")
        found: list[tuple[int, int]] = []
        while not self._take("]"):
            low = self._member(negative)
            if len(low) == 1 and low[0][0] == low[0][1] and self._peek() == "-" and self._peek(1) != "]":
                self._at += 1
                high = self._member(negative)
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    self._refuse("a range that is none")
                low = ((low[0][0], high[0][0]),)
            found += low
        ranges = difference(union(found), ((0xD800, 0xDFFF),))
        return difference(EVERY, ranges) if negative else ranges

    def _member(self, negative: bool) -> Ranges:
        char = self._next()
        if char == "\\":
            start = self._at
            found = self._escape()
            if self._text[start] in "DWS":
                self._refuse("a negated class inside a class")
            wide = _NEGATED.get(self._text[start]) if negative else None
            return found if wide is None else wide
        if char == "[":
            self._refuse("'[' inside a class")
        return single(char)

    def _escape(self) -> Ranges:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return single(_CONTROLS[char])
        if char in _HEX:
            return self._hex(_HEX[char])
        if char not in _PUNCTUATION:
            self._refuse(f"the escape \\{char}")
        return single(char)

    def _hex(self, digits: int) -> Ranges:
        text = self._text[self._at : self._at + digits]
        if len(text) < digits or not all(char in "0123456789abcdefABCDEF" for char in text):
            self._refuse("an escape without its hexadecimal digits")
        self._at += digits
        code = int(text, 16)
        if code == 0 or 0xD800 <= code <= 0xDFFF:
            self._refuse("an escape of NUL or of half a character")
        return ((code, code),)

    def _chars(self, ranges: Ranges) -> _Part:
        """One character of the set, as JSON writes it."""
        raw = difference(ranges, _NOT_RAW)
        choices = [gbnf_class(raw)] if raw else []
        special = [code for code in (0x22, 0x5C, 0x7F, *range(1, 0x20)) if difference(((code, code),), ranges) == ()]
        choices += map(_escaped, special)
        if not choices:
            self._refuse("a class without a character")
        return _Part(choices[0] if len(choices) == 1 else self._rules.add(" | ".join(choices), "c"), False)

    def _number(self) -> int:
        start = self._at
        while self._peek().isdecimal() and self._peek().isascii():
            self._at += 1
        if not 0 < self._at - start <= 6:
            self._refuse("a quantifier without a number, or with too large a one")
        return int(self._text[start : self._at])

    def _peek(self, ahead: int = 0) -> str:
        return self._text[self._at + ahead : self._at + ahead + 1]

    def _take(self, char: str) -> bool:
        if self._peek() != char:
            return False
        self._at += 1
        return True

    def _next(self) -> str:
        char = self._peek()
        if not char:
            self._refuse("the pattern ends too early")
        self._at += 1
        return char

    def _refuse(self, what: str) -> NoReturn:
        raise PatternError(what, self._at)


def _escaped(code: int) -> str:
    if code in (0x22, 0x5C):
        return '"\\\\\\""' if code == 0x22 else '"\\\\\\\\"'
    short = _SHORT.get(code)
    return f'"\\\\{short}"' if short else f'"\\\\u{code:04x}"'
