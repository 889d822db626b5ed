"""Recognisers that take one character at a time and know at once when a text can no longer be what they look for.

A tool call arrives in pieces of any size. To hold back no more than what can still become one, each part of a
family's syntax is a step: it is shown a character and says whether it took it, is complete with it, was
complete before it, or fails.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Protocol

from vestal.values import MAX_JSON_DEPTH

__all__ = ["Json", "Literal", "Name", "Space", "Step", "Verdict"]


class Verdict(Enum):
    TAKEN = "the character belongs to it, and more must follow"
    DONE = "complete with this character"
    PASS = "complete without it: the character is the next step's"  # noqa: S105  # no password
    FAIL = "it cannot become what was looked for"


class Step(Protocol):
    """One part of a syntax. It is not fed again once it has said anything but `TAKEN`."""

    def feed(self, char: str) -> Verdict: ...


class Literal:
    """Exactly this text."""

    __slots__ = ("_next", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = 0

    def feed(self, char: str) -> Verdict:
        if char != self._text[self._next]:
            return Verdict.FAIL
        self._next += 1
        return Verdict.DONE if self._next == len(self._text) else Verdict.TAKEN


class Space:
    """Any white space, none included."""

    def feed(self, char: str) -> Verdict:
        return Verdict.TAKEN if char.isspace() else Verdict.PASS


class Name:
    """A tool's name, or a call's number."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = False

    def feed(self, char: str) -> Verdict:
        if char.isascii() and (char.isalnum() or char in "_-."):
            self._begun = True
            return Verdict.TAKEN
        return Verdict.PASS if self._begun else Verdict.FAIL


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_BEGINS = re.compile(r"-?(0|[1-9][0-9]*)?((?<=[0-9])\.[0-9]*)?((?<=[0-9])[eE][+-]?[0-9]*)?")
_WORDS = ("true", "false", "null")
_SPACE = " \t\r\n"


class _Expect(Enum):
    VALUE = 1
    VALUE_OR_END = 2
    KEY = 3
    KEY_OR_END = 4
    COLON = 5
    COMMA_OR_END = 6
    IN_STRING = 7
    IN_WORD = 8
    IN_NUMBER = 9
    NOTHING = 10


class Json:
    """One JSON object, or array with `first="["`, nested as deep as a call's arguments may be.

    With `keys`, an object that has any other key at its top is not what is looked for. Control characters in
    strings are let through: models write them, and nothing else could have been meant.
    """

    def __init__(self, first: str = "{", keys: frozenset[str] | None = None) -> None:
        self._first = first
        self._keys = keys
        self._expect = _Expect.VALUE
        self._open: list[str] = []
        self._part: list[str] = []  # of the string, word or number in hand
        self._is_key = False
        self._escape = 0  # characters of an escape that are still to come; -1 right after the backslash

    def feed(self, char: str) -> Verdict:
        if not self._take(char):
            return Verdict.FAIL
        return Verdict.DONE if self._expect is _Expect.NOTHING else Verdict.TAKEN

    def _take(self, char: str) -> bool:
        match self._expect:
            case _Expect.IN_STRING:
                return self._take_in_string(char)
            case _Expect.IN_WORD:
                return self._take_in_word(char)
            case _Expect.IN_NUMBER if char in "+-.eE0123456789":
                self._part.append(char)
                return _NUMBER_BEGINS.fullmatch("".join(self._part)) is not None
            case _Expect.IN_NUMBER:
                return self._end_number() and self._take(char)
        if char in _SPACE:
            return bool(self._open)
        return self._take_structure(char)

    def _take_structure(self, char: str) -> bool:
        expect = self._expect
        if expect in (_Expect.VALUE, _Expect.VALUE_OR_END) and char != "]":
            return self._begin_value(char)
        if expect in (_Expect.KEY, _Expect.KEY_OR_END) and char == '"':
            self._begin_string(is_key=True)
            return True
        if expect is _Expect.COLON:
            self._expect = _Expect.VALUE
            return char == ":"
        if expect is _Expect.COMMA_OR_END and char == ",":
            self._expect = _Expect.KEY if self._open[-1] == "{" else _Expect.VALUE
            return True
        ends = {"]": _Expect.VALUE_OR_END, "}": _Expect.KEY_OR_END}
        return char in ends and expect in (ends[char], _Expect.COMMA_OR_END) and self._close(char)

    def _begin_value(self, char: str) -> bool:
        if not self._open and char != self._first:
            return False
        self._part = [char]
        if char in "{[":
            self._open.append(char)
            self._expect = _Expect.KEY_OR_END if char == "{" else _Expect.VALUE_OR_END
            return len(self._open) < MAX_JSON_DEPTH  # one less: arguments lie inside
        if char == '"':
            self._begin_string(is_key=False)
            return True
        self._expect = _Expect.IN_WORD if char in "tfn" else _Expect.IN_NUMBER
        return char in "tfn-0123456789"

    def _begin_string(self, *, is_key: bool) -> None:
        self._expect, self._is_key, self._part, self._escape = _Expect.IN_STRING, is_key, [], 0

    def _take_in_string(self, char: str) -> bool:
        if self._escape == -1:
            self._escape = 4 if char == "u" else 0
            return char in '"\\/bfnrtu'
        if self._escape > 0:
            self._escape -= 1
            return char in "0123456789abcdefABCDEF"
        if char == "\\":
            self._escape = -1
        elif char == '"':
            return self._end_string()
        if self._is_key and len(self._open) == 1:
            self._part.append(char)
        return True

    def _end_string(self) -> bool:
        self._expect = _Expect.COLON if self._is_key else _Expect.COMMA_OR_END
        looked_at = self._is_key and len(self._open) == 1 and self._keys is not None and self._first == "{"
        return not looked_at or self._keys is None or "".join(self._part) in self._keys

    def _take_in_word(self, char: str) -> bool:
        self._part.append(char)
        word = "".join(self._part)
        if word in _WORDS:
            self._expect = _Expect.COMMA_OR_END
        return any(known.startswith(word) for known in _WORDS)

    def _end_number(self) -> bool:
        self._expect = _Expect.COMMA_OR_END
        return _NUMBER.fullmatch("".join(self._part)) is not None

    def _close(self, char: str) -> bool:
        if self._open.pop() != {"]": "[", "}": "{"}[char]:
            return False
        self._expect = _Expect.COMMA_OR_END if self._open else _Expect.NOTHING
        return True
