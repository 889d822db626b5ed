"""Mistral: a control token, and then either a list of calls, or since 2025 each call's name and arguments.

    [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]
    [TOOL_CALLS]weather[ARGS]{"city": "Rome"}

Source: mistral-common's instruct tokenisers v3 and v11. Both are read; the one that the template writes is
enforced.
"""

from __future__ import annotations

from collections.abc import Sequence

from vestal_adapters.llamacpp.families.family import (
    Call,
    Family,
    Form,
    Malformed,
    Place,
    Syntax,
    checked,
    read_call,
    read_json,
)
from vestal_adapters.llamacpp.families.scan import Json, Literal, Name, Space

__all__ = ["MistralArgs", "MistralList"]

_MARKER, _NUMBER, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


class MistralList(Family):
    name = "mistral"
    markers = (_MARKER, _NUMBER, _ARGS)
    firsts = frozenset("[")
    syntax = Syntax(
        begin="[TOOL_CALLS] [",
        before='{"name": "',
        between='", "arguments": ',
        after="}",
        end="]",
        separator=", ",
    )

    def as_written(self, text: str) -> Family:
        return MistralList() if text.removeprefix(_MARKER).lstrip().startswith("[") else MistralArgs()

    def forms(self, place: Place) -> list[Form]:
        return [
            Form(_read_list, Literal(_MARKER), Space(), Json("["), commits=1),
            Form(_read_one, Literal(_MARKER), Space(), Json(), commits=1),
            Form(_read_args, Literal(_MARKER), Space(), Name(), Literal(_ARGS), Space(), Json(), commits=1),
            Form(
                _read_args,
                *(Literal(_MARKER), Space(), Name(), Literal(_NUMBER), Name(), Literal(_ARGS), Space(), Json()),
                commits=1,
            ),
        ]


class MistralArgs(MistralList):
    name = "mistral-args"
    syntax = Syntax(before="[TOOL_CALLS]", between="[ARGS]", after="", separator="")


def _read_list(texts: Sequence[str]) -> list[Call]:
    calls = [read_call(value) for value in read_json(texts[2])]
    if not calls:
        raise Malformed("its list of calls is empty")
    return calls


def _read_one(texts: Sequence[str]) -> list[Call]:
    return [read_call(read_json(texts[2]))]


def _read_args(texts: Sequence[str]) -> list[Call]:
    return [Call(texts[2], checked(read_json(texts[-1])))]
