"""What families of models have in common: how calls of tools are written, so that they can be read and enforced.

A `Family` is two things. Its `forms` are what may begin at some place of an answer, as steps for the parser; its
`syntax` is the one way of writing calls that is enforced by grammar. All else (holding back, releasing,
numbering, notices) is the same for every family and lives in `calls.py`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from vestal.values import check_json
from vestal_adapters.llamacpp.families.scan import Step, Verdict

__all__ = ["Call", "Family", "Form", "Malformed", "NotACall", "Place", "Syntax", "checked", "read_call", "read_json"]

Place = Literal["start", "middle", "after"]
"""Of a place in an answer: before any text, within text, or right after a call."""


class Call(NamedTuple):
    name: str
    input: dict[str, Any]


class NotACall(ValueError):
    """It looked like one and was ordinary text."""


class Malformed(ValueError):
    """It was meant as a call and is none. The words say why, and quote nothing of the answer."""


class Syntax(NamedTuple):
    """Calls are `begin`, then `before` name `between` arguments `after` for each, with `separator`, then `end`.

    No `separator` means that the family writes one call an answer.
    """

    before: str
    between: str
    after: str
    begin: str = ""
    end: str = ""
    separator: str | None = None


class Form:
    """One way in which calls can be written, while it is being read.

    `read` makes calls of the texts of the steps. From step `commits` on it can hardly have been meant as text;
    from step `settles` on nothing is missing but what models leave out at the end of an answer.
    """

    __slots__ = ("_commits", "_index", "_read", "_settles", "_steps", "_texts")

    def __init__(
        self, read: Callable[[Sequence[str]], list[Call]], *steps: Step, commits: int, settles: int | None = None
    ) -> None:
        self._read = read
        self._steps = steps
        self._texts = [""] * len(steps)
        self._index = 0
        self._commits = commits
        self._settles = len(steps) if settles is None else settles

    def __repr__(self) -> str:
        return f"<Form at step {self._index} of {len(self._steps)}>"

    @property
    def committed(self) -> bool:
        return self._index >= self._commits

    @property
    def settled(self) -> bool:
        return self._index >= self._settles

    def feed(self, char: str) -> Verdict:
        """Take one character; never `PASS`."""
        while (verdict := self._steps[self._index].feed(char)) is Verdict.PASS:
            self._index += 1
            if self._index == len(self._steps):
                return Verdict.FAIL
        if verdict is Verdict.FAIL:
            return verdict
        self._texts[self._index] += char
        if verdict is Verdict.DONE:
            self._index += 1
        return Verdict.DONE if self._index == len(self._steps) else Verdict.TAKEN

    def calls(self) -> list[Call]:
        """The calls that were read; `NotACall` or `Malformed` if there are none in it after all."""
        return self._read(self._texts)


class Family(ABC):
    """One family's way with tools. Without state: one instance serves every answer."""

    name: ClassVar[str]
    markers: ClassVar[tuple[str, ...]]
    """Texts of the syntax that may be control tokens, which make no text of their own."""
    firsts: ClassVar[frozenset[str]]
    """The characters that a form can begin with."""
    syntax: Syntax

    def __repr__(self) -> str:
        return f"<Family {self.name}>"

    def as_written(self, text: str) -> Family:
        """The family that enforces calls as `text`, a template's own work, has them."""
        return self

    @abstractmethod
    def forms(self, place: Place) -> list[Form]:
        """Fresh forms for what may begin at such a place."""


def read_json(text: str) -> Any:
    """The value of a text that `Json` has scanned."""
    try:
        return json.loads(text, strict=False)
    except ValueError as error:  # numbers of more digits than Python reads
        raise Malformed(f"its JSON cannot be read: {type(error).__name__}") from None


def read_call(value: Any, arguments: Sequence[str] = ("arguments", "parameters")) -> Call:
    """A call from an object with `name` and arguments under one of the given keys.

    Some models write the arguments as a string of JSON, and leave them out where there are none.
    """
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str):
        raise Malformed("it has no name of a tool")
    given: Any = next((value[key] for key in arguments if key in value), {})
    if isinstance(given, str):
        given = _from_string(given)
    return Call(name, checked(given))


def checked(given: Any) -> dict[str, Any]:
    """The arguments, if they are an object that can be sent."""
    if not isinstance(given, dict):
        raise Malformed("its arguments are no JSON object")
    try:
        check_json(given, "arguments")
        msgspec.msgpack.encode(given)
    except (ValueError, OverflowError, UnicodeEncodeError):  # 1e999, integers over 64 bits, halves of surrogates
        raise Malformed("its arguments hold what cannot be sent") from None
    return given


def _from_string(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise Malformed("its arguments are a string that is not JSON") from None
