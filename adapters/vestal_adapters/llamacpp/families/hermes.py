"""Hermes, Qwen 2.5 and 3, and all who were trained on their format: JSON between tags.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Rome"}}
    </tool_call>

Source: NousResearch/Hermes-Function-Calling. Models forget the closing tag at the end of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from vestal_adapters.llamacpp.families.family import Call, Family, Form, Place, Syntax, read_call, read_json
from vestal_adapters.llamacpp.families.scan import Json, Literal, Space

__all__ = ["Hermes"]


class Hermes(Family):
    name = "hermes"
    markers = ("<tool_call>", "</tool_call>")
    firsts = frozenset("<")
    syntax = Syntax(
        before='<tool_call>\n{"name": "',
        between='", "arguments": ',
        after="}\n</tool_call>",
        separator="\n",
    )

    def forms(self, place: Place) -> list[Form]:
        return [
            Form(
                _read,
                Literal("<tool_call>"),
                Space(),
                Json(),
                Space(),
                Literal("</tool_call>"),
                commits=1,
                settles=3,
            )
        ]


def _read(texts: Sequence[str]) -> list[Call]:
    return [read_call(read_json(texts[2]))]
