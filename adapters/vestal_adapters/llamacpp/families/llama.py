"""Llama 3.1 and later: the whole answer is a JSON object, at times behind a control token.

    {"name": "weather", "parameters": {"city": "Rome"}}

Source: Meta's model card, "JSON based tool calling". An answer that is JSON for other reasons must not wait for
its end, so an object is given up at the first key that no call has. Several calls come with `;` or white space
between, though the model's own template shows it only one.
"""

from __future__ import annotations

from collections.abc import Sequence

from vestal_adapters.llamacpp.families.family import Call, Family, Form, NotACall, Place, Syntax, read_call, read_json
from vestal_adapters.llamacpp.families.scan import Json, Literal, Space

__all__ = ["Llama"]

_KEYS = frozenset({"name", "parameters", "arguments", "type", "id"})
_TAG = "<|python_tag|>"


class Llama(Family):
    name = "llama"
    markers = (_TAG,)
    firsts = frozenset("<{;")
    syntax = Syntax(before='{"name": "', between='", "parameters": ', after="}")

    def forms(self, place: Place) -> list[Form]:
        forms = [Form(_read_tagged, Literal(_TAG), Space(), Json(), commits=1)]
        if place != "middle":
            forms.append(Form(_read_bare, Json(keys=_KEYS), commits=2))
        if place == "after":
            forms.append(Form(_read_tagged, Literal(";"), Space(), Json(keys=_KEYS), commits=4))
        return forms


def _read_tagged(texts: Sequence[str]) -> list[Call]:
    return [read_call(read_json(texts[2]), ("parameters", "arguments"))]


def _read_bare(texts: Sequence[str]) -> list[Call]:
    value = read_json(texts[0])
    if "name" not in value or not value.keys() & {"parameters", "arguments"}:
        raise NotACall
    return [read_call(value, ("parameters", "arguments"))]
