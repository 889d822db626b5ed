"""Two schemas that hold at once as one, and whether two can hold at once at all. Pure.

Only where the outcome is exact: `Clash` names the keyword where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ANNOTATIONS", "TYPES", "Clash", "canonical", "constrains", "disjoint", "merge", "types_of", "values_of"]

Schema = Mapping[str, Any]
Flat = Callable[[Any], "Schema | bool"]
"""Follows `$ref` and `allOf` at the top of a schema."""

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$schema", "$comment", "$defs", "definitions", "deprecated",
     "readOnly", "writeOnly"}
)  # fmt: skip
"""Keywords that constrain nothing."""
_HIGHER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems"})
_LOWER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems"})
_MAX_DEPTH = 16


class Clash(ValueError):
    """Both sides have this keyword, and nothing exact says what they mean together."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


def constrains(schema: Schema, *but: str) -> bool:
    """Whether anything in it, other than these keywords, constrains a value."""
    return any(key not in ANNOTATIONS and key not in but for key in schema)


def merge(one: Schema | bool, other: Schema | bool) -> Schema | bool:
    """The schema of what is valid under both. Neither has `$ref` or `allOf` at its top."""
    if isinstance(one, bool) or isinstance(other, bool):
        if one is False or other is False:
            return False
        return other if isinstance(one, bool) else one
    _check_closed(one, other)
    merged: dict[str, Any] = dict(one)
    for key, value in other.items():
        if key in ANNOTATIONS:
            continue
        merged[key] = _both(key, merged[key], value) if key in merged else value
    return _filter_values(merged)


def canonical(value: Any) -> object:
    """The same for JSON values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool) or value is None:
        return ("bool", value)
    if isinstance(value, list):
        return ("list", tuple(canonical(item) for item in value))
    if isinstance(value, dict):
        return ("dict", frozenset((key, canonical(item)) for key, item in value.items()))
    return ("value", value)


def values_of(schema: Schema) -> list[Any] | None:
    """What `const` and `enum` leave; `None` if there is neither."""
    if "const" in schema:
        const = schema["const"]
        allowed = schema.get("enum")
        return [const] if allowed is None or _in(const, allowed) else []
    return list(schema["enum"]) if "enum" in schema else None


def types_of(schema: Schema) -> frozenset[str]:
    """The types that a value may have, an integer being a number too."""
    values = values_of(schema)
    declared = schema.get("type", list(TYPES))
    types = frozenset([declared] if isinstance(declared, str) else declared)
    if "number" in types:
        types |= {"integer"}
    if values is None:
        return types
    return types & frozenset(name for value in values for name in type_names(value))


def type_names(value: Any) -> tuple[str, ...]:
    """Every type name that is right for a JSON value."""
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return ("integer", "number")
    for kind, name in ((float, "number"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return (name,)
    return ()


def disjoint(one: Any, other: Any, flat: Flat, depth: int = 0) -> bool:
    """Whether certainly no value is valid under both. False where that is not plain to see."""
    one, other = flat(one), flat(other)
    if one is False or other is False:
        return True
    if isinstance(one, bool) or isinstance(other, bool) or depth > _MAX_DEPTH:
        return False
    if not (both := types_of(one) & types_of(other)):
        return True
    mine, theirs = values_of(one), values_of(other)
    if mine is not None and theirs is not None:
        return {canonical(value) for value in mine}.isdisjoint(map(canonical, theirs))
    return both == {"object"} and _objects_disjoint(one, other, flat, depth)


def _objects_disjoint(one: Schema, other: Schema, flat: Flat, depth: int) -> bool:
    """By a property that must be there in both with different values, or in one and never in the other."""
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    must, they_must = set(one.get("required", ())), set(other.get("required", ()))
    if other.get("additionalProperties") is False and must - set(theirs):
        return True
    if one.get("additionalProperties") is False and they_must - set(mine):
        return True
    shared = (must | they_must) & set(mine) & set(theirs)
    return any(
        name in must and name in they_must and disjoint(mine[name], theirs[name], flat, depth + 1) for name in shared
    )


def _both(key: str, one: Any, other: Any) -> Any:
    if canonical(one) == canonical(other):
        return one
    if key in _HIGHER:
        return max(one, other)
    if key in _LOWER:
        return min(one, other)
    if key == "type":
        return _types(one, other)
    if key == "enum":
        keys = {canonical(value) for value in other}
        return [value for value in one if canonical(value) in keys]
    if key == "required":
        return list(dict.fromkeys([*one, *other]))
    if key == "properties":
        return {name: _properties(name, one, other) for name in (*one, *(n for n in other if n not in one))}
    raise Clash(key)


def _types(one: Any, other: Any) -> list[str]:
    mine = types_of({"type": one})
    both = mine & types_of({"type": other})
    return sorted(both - {"integer"} if "number" in both else both)


def _properties(name: str, one: Schema, other: Schema) -> Any:
    """Left for later as an `allOf`, where references are followed."""
    if name in one and name in other:
        return {"allOf": [one[name], other[name]]}
    return one[name] if name in one else other[name]


def _check_closed(one: Schema, other: Schema) -> None:
    """`additionalProperties` looks only at the `properties` beside it: merged, it would look at both sides'."""
    for mine, theirs in ((one, other), (other, one)):
        if mine.get("additionalProperties", True) is not True:
            strange = set(theirs.get("properties", ())) - set(mine.get("properties", ()))
            if strange or theirs.get("additionalProperties", True) is not True:
                raise Clash("additionalProperties")
        if ("prefixItems" in mine) != ("prefixItems" in theirs) and "items" in theirs:
            raise Clash("items")


def _filter_values(schema: dict[str, Any]) -> Schema | bool:
    if "const" in schema and "enum" in schema and not _in(schema["const"], schema["enum"]):
        return False
    return schema


def _in(value: Any, values: Any) -> bool:
    key = canonical(value)
    return any(canonical(other) == key for other in values)
