"""The tables of SPEC.md: how they are read, and what the code says should stand in those of fields.

A test holds the two against each other; the reference is made of both, as what a field means only SPEC.md has.
"""

from __future__ import annotations

import json
import re

import msgspec
from msgspec import inspect

__all__ = ["Row", "default_words", "field_rows", "range_words", "tables", "type_words"]

Row = list[str]

_PLAIN: dict[type, str] = {
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "str",
    inspect.LiteralType: "str",
    inspect.BoolType: "bool",
    inspect.BytesType: "bin",
}


def tables(text: str, marker: str) -> dict[str, list[Row]]:
    """The body of each table under `<!-- marker: key -->`, by key. Raises ValueError for a ragged one."""
    found: dict[str, list[Row]] = {}
    for match in re.finditer(rf"<!-- {marker}: (.+?) -->\n+((?:\|.*\n)+)", text):
        rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                for line in match[2].splitlines()]  # fmt: skip
        if match[1] in found:
            raise ValueError(f"two tables of {match[1]}")
        if not set("".join(rows[1])) <= set("-:"):
            raise ValueError(f"the table of {match[1]} has no header")
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"ragged table of {match[1]}")
        found[match[1]] = rows[2:]
    return found


def type_words(type: inspect.Type) -> str:
    """The SPEC's name of a type."""
    match type:
        case inspect.UnionType():
            members = [member for member in type.types if not isinstance(member, inspect.NoneType)]
            blocks = {member.cls for member in members if isinstance(member, inspect.StructType)}
            words = ["ContentBlock"] if len(blocks) > 1 else [type_words(member) for member in members]
            return " or ".join(words + ["nil"] * (len(type.types) > len(members)))
        case inspect.ListType() | inspect.VarTupleType():
            return f"array of {type_words(type.item_type)}"
        case inspect.DictType():
            if isinstance(type.value_type, inspect.AnyType):
                return "map"
            return f"map of {type_words(type.key_type)} to {type_words(type.value_type)}"
        case inspect.StructType():
            return f"`{type.cls.__name__}`"
    return _PLAIN[type.__class__]


def _number(value: float) -> str:
    """A bound as the SPEC writes it."""
    for power in (31, 32, 63):
        if 0 < 2**power - value <= 2:
            return f"2^{power}-{2**power - int(value)}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def range_words(type: inspect.Type) -> str:
    """The SPEC's words for what a type constrains."""
    match type:
        case inspect.UnionType():
            found = [range_words(member) for member in type.types if not isinstance(member, inspect.StructType)]
            return "; ".join(words for words in found if words)
        case inspect.LiteralType():
            return "one of " + ", ".join(f"`{value}`" for value in sorted(map(str, type.values)))
        case inspect.IntType() | inspect.FloatType():
            return _between(type)
        case inspect.StrType(pattern=str(pattern)):
            return f"matches `{pattern}`"
        case inspect.StrType():
            return _length(type.min_length, type.max_length, "character")
        case inspect.ListType() | inspect.VarTupleType():
            own = _length(type.min_length, type.max_length, "item")
            each = range_words(type.item_type)
            return "; ".join(filter(None, [own, f"each {each}" if each else ""]))
    return ""


def _between(type: inspect.IntType | inspect.FloatType) -> str:
    high = type.le if type.lt is None else type.lt - 1
    low = type.ge if type.gt is None else type.gt
    if low is None or high is None:
        return "" if low is None else f"at least {_number(low)}"
    return f"{_number(low)} to {_number(high)}" if type.gt is None else f"over {_number(low)}, to {_number(high)}"


def _length(low: int | None, high: int | None, what: str) -> str:
    if low and high:
        return f"{low} to {high} {what}s"
    if low:
        return f"at least {low} {what}" + "s" * (low > 1)
    return f"at most {high} {what}s" if high else ""


def default_words(field: inspect.Field) -> str:
    """What a field is when it is left out."""
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{json.dumps(field.default_factory())}`"
    if isinstance(field.default, msgspec.Struct):
        return "its defaults"
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return "nil" if default is None else f"`{json.dumps(default)}`"


def field_rows(cls: type[msgspec.Struct], base: type[msgspec.Struct] | None) -> list[Row]:
    """Name, type, default and range of every field of `cls` that is not in `base`'s table."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    inherited = set(base.__struct_fields__) if base else set()
    rows = [[f"`{info.tag_field}`", "str", "required", f"`{info.tag}`"]] if info.tag_field else []
    return rows + [
        [f"`{field.encode_name}`", type_words(field.type), default_words(field), range_words(field.type)]
        for field in info.fields
        if field.name not in inherited
    ]
