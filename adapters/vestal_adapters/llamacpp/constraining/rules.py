"""The rules of a grammar in the making, as GBNF text. Pure.

A rule is named by whoever asks for it and a number; the same body twice is one rule. The size is checked as it
grows, so that a schema which would become a huge grammar is refused before that is written.
"""

from __future__ import annotations

import json

from vestal.errors import InvalidRequest
from vestal.values import MAX_GRAMMAR_BYTES
from vestal_adapters.llamacpp.constraining.charset import JSON_RAW, gbnf_class
from vestal_adapters.llamacpp.deadline import Deadline

__all__ = ["Rules", "literal"]

_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

# White space where JSON allows it between tokens: none, one space, or one line break with its indentation.
# Bounded, because a small model that may write blanks for ever does.
_SPACE = '(" " | "\\n" [ \\t]{0,16})?'
# One code point each: an escape of half a surrogate pair would be none, and a whole pair would count as two.
_ESCAPE = '"\\\\" (["\\\\/bfnrt] | "u" ([0-9A-CE-Fa-ce-f] [0-9A-Fa-f]{3} | [Dd] [0-7] [0-9A-Fa-f]{2}))'
_SHARED = {
    "ws": _SPACE,
    "char": f"{gbnf_class(JSON_RAW)} | {_ESCAPE}",
    "raw": gbnf_class(JSON_RAW),
    "string": '"\\"" char* "\\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,17})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
_NEEDS = {"string": ("char",), "number": ("integer",)}


class Rules:
    """`field` is the part of the request that the grammar is made from: errors name it."""

    def __init__(self, field: str = "response_format.schema", deadline: Deadline | None = None) -> None:
        self.field = field
        self.deadline = deadline or Deadline(field)
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._reserved = 0
        self._size = 0

    def __repr__(self) -> str:
        return f"<Rules {len(self._bodies)} for {self.field}, {self._size} bytes>"

    def add(self, body: str, hint: str = "r") -> str:
        """Add a rule; returns its name. `body` is GBNF in one line."""
        name = self._names.get(body)
        if name is None:
            name = self.reserve(hint)
            self.define(name, body)
        return name

    def reserve(self, hint: str = "r") -> str:
        """A name whose rule comes later: for rules that refer to themselves."""
        self._reserved += 1
        return f"{hint}-{self._reserved}"

    def define(self, name: str, body: str) -> None:
        """Give a reserved name its rule."""
        self._bodies[name] = body
        self._names.setdefault(body, name)
        self.deadline.check()
        self._size += len(name) + len(body.encode()) + 6
        self._check_size(self._size)

    def json(self, value: object) -> str:
        """A JSON value, compact, as a GBNF literal, which is not written if it is too long by itself."""
        self.deadline.check()
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        self._check_size(len(text))
        return literal(text)

    def _check_size(self, size: int) -> None:
        if size > MAX_GRAMMAR_BYTES:
            raise InvalidRequest(
                f"{self.field}: the grammar it becomes is larger than {MAX_GRAMMAR_BYTES:,} bytes",
                hint="make the schema smaller",
                details={"field": self.field, "limit": MAX_GRAMMAR_BYTES},
            )

    def shared(self, name: str) -> str:
        """One of the rules that every schema may use: `ws`, `char`, `raw`, `string`, `integer`, `number`, …"""
        if name not in self._bodies:
            self.define(name, _SHARED[name])
            for needed in _NEEDS.get(name, ()):
                self.shared(needed)
        return name

    def text(self, root: str) -> str:
        """The whole grammar; `root` is the expression that it begins with."""
        return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self._bodies.items()), ""])


def literal(text: str) -> str:
    """A text as a GBNF literal."""
    return '"' + "".join(_ESCAPED.get(char) or _plain(char) for char in text) + '"'


def _plain(char: str) -> str:
    return char if char >= " " and char != "\x7f" else f"\\x{ord(char):02X}"
