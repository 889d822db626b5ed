"""From JSON Schema to GBNF, such that whatever the grammar lets through is valid under the schema. Pure.

What cannot be enforced is refused by name, never ignored; an annotation (`title`, `default`, …) constrains nothing
and is. The converse does not hold, and need not: not all that is valid can be written. Left out are

- properties in another order than declared: required and optional ones come as `properties` lists them, then those
  that only `required` names;
- properties that are not declared, unless `additionalProperties` is given and not false, or none are declared;
- items behind `prefixItems`, unless `items` or `minItems` asks for them; all of `prefixItems` is always there;
- values of a type for which a schema without `type` says nothing while it says something for another;
- white space beyond one blank, or one line break with 16 blanks; integers of more than 18 digits and numbers of
  more than 18 + 16; what is nested deeper than `FREE_DEPTH` where a schema allows anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from vestal.errors import InvalidRequest, Unsupported
from vestal_adapters.llamacpp.constraining import schema_types
from vestal_adapters.llamacpp.constraining.rules import Rules
from vestal_adapters.llamacpp.constraining.schema_merge import (
    ANNOTATIONS,
    TYPES,
    Clash,
    Schema,
    constrains,
    disjoint,
    merge,
    type_names,
    types_of,
    values_of,
)
from vestal_adapters.llamacpp.deadline import Deadline

__all__ = ["FREE_DEPTH", "add_schema", "to_gbnf"]

FREE_DEPTH = 5
"""Levels of arrays and objects in a value that may be anything: a small model would go on nesting for ever."""
MAX_DEPTH = 48
MAX_FLAT = 32

_FAMILIES: Mapping[str, frozenset[str]] = {
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}
_COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf", "type", "enum", "const"})
_KNOWN = ANNOTATIONS | _COMBINING | frozenset().union(*_FAMILIES.values())


class _Never(Exception):
    """No value is valid under the schema at this path."""


def to_gbnf(schema: Schema | bool, *, field: str = "response_format.schema", deadline: Deadline | None = None) -> str:
    """A grammar of JSON texts that are valid under `schema`.

    `Unsupported` names the keyword that cannot be enforced and its path below `field`; `InvalidRequest` says what
    is no schema, or is one that nothing satisfies, or one whose grammar would be too large.
    """
    rules = Rules(field, deadline)
    return rules.text(add_schema(rules, schema))


def add_schema(rules: Rules, schema: Schema | bool, *, field: str | None = None, only: Schema | None = None) -> str:
    """The same as a rule in a larger grammar; returns its name. `only` is a second schema that has to hold too."""
    path = field or rules.field
    whole = schema if only is None else {"allOf": [schema, only]}
    try:
        return _Writer(rules, schema, path).value(whole, path)
    except _Never as never:
        raise InvalidRequest(
            f"{path}: no value satisfies it, because of {never}",
            hint="look at this part of the schema: its requirements exclude each other",
            details={"field": str(never)},
        ) from None


class _Writer:
    """Writes one schema's rules. `root` is what its references are relative to."""

    def __init__(self, rules: Rules, root: Schema | bool, field: str) -> None:
        self.rules = rules
        self._root = root
        self._field = field
        self._named: dict[str, str] = {}
        self._depth = 0

    def value(self, schema: Any, path: str) -> str:
        """The name of a rule for the values of one schema; `_Never` if there are none."""
        self.rules.deadline.check()
        if schema is True:
            return self.free(FREE_DEPTH)
        if schema is False:
            raise _Never(path)
        with self._deeper(path):
            self._check(schema, path)
            if "$ref" in schema and not constrains(schema, "$ref"):
                return self._reference(schema["$ref"], f"{path}.$ref")
            if "$ref" in schema or "allOf" in schema:
                return self._together(schema, path)
            for keyword in ("anyOf", "oneOf"):
                if keyword in schema:
                    return self._either(keyword, schema, path)
            return self._plain(schema, path)

    def free(self, depth: int) -> str:
        """Any JSON value."""
        rules = self.rules
        scalars = [rules.shared(name) for name in ("string", "number", "boolean", "null")]
        if depth == 0:
            return rules.add(" | ".join(scalars), "scalar")
        inner = self.free(depth - 1)
        array = schema_types.array_body(rules, [], inner, 0, None)
        member = f'{rules.shared("string")} ":" {rules.shared("ws")} {inner}'
        extra = rules.add(schema_types.object_body(rules, [], member), "object")
        return rules.add(" | ".join([*scalars, rules.add(array, "array"), extra]), "value")

    def refuse(self, keyword: str, path: str, why: str) -> NoReturn:
        """`Unsupported`, by the keyword and where it is."""
        raise Unsupported(
            f"{path}.{keyword}: {why}",
            hint="leave the keyword out of the schema, and check what it asks for in the answer",
            details={"option": "response_format", "field": f"{path}.{keyword}", "keyword": keyword},
        )

    def wrong(self, path: str, why: str) -> NoReturn:
        """`InvalidRequest`: this is no JSON Schema."""
        raise InvalidRequest(f"{path}: {why}", details={"field": path})

    @contextmanager
    def _deeper(self, path: str) -> Iterator[None]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.wrong(path, f"nested deeper than {MAX_DEPTH} levels, counting through references")
        try:
            yield
        finally:
            self._depth -= 1

    def _check(self, schema: Any, path: str) -> None:
        if not isinstance(schema, Mapping):
            self.wrong(path, f"expected a schema, an object or a boolean, got {type(schema).__name__}")
        for keyword in schema:
            if keyword == "$id" and schema is self._root:
                continue
            if keyword not in _KNOWN and not keyword.startswith("x-"):
                self.refuse(keyword, path, "this keyword cannot be enforced by a grammar")
        schema_types.check_form(schema, path, self.wrong)

    def _reference(self, pointer: Any, path: str) -> str:
        """One rule for each target, so that a schema may contain itself."""
        target = self._target(pointer, path)
        name = self._named.get(pointer)
        if name is None:
            name = self._named[pointer] = self.rules.reserve("ref")
            where = f"{self._field}{pointer[1:].replace('/', '.')}"
            try:
                self.rules.define(name, self.value(target, where))
            except _Never:
                del self._named[pointer]
                raise
        return name

    def _target(self, pointer: Any, path: str) -> Any:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            self.refuse_reference(path, "only references into this schema, such as #/$defs/name, are followed")
        found: Any = self._root
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                self.wrong(path, f"there is no {pointer} in the schema")
        return found

    def refuse_reference(self, path: str, why: str) -> NoReturn:
        """`Unsupported` for a `$ref`; `path` includes the keyword."""
        self.refuse("$ref", path.removesuffix(".$ref"), why)

    def _flat(self, schema: Any, path: str, left: int = MAX_FLAT) -> Schema | bool:
        """A schema without `$ref` and `allOf` at its top."""
        self.rules.deadline.check()
        if left == 0:
            self.wrong(path, f"refers to itself, or through more than {MAX_FLAT} references")
        if isinstance(schema, bool):
            return schema
        self._check(schema, path)
        whole: Schema | bool = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        parts = [(f"{path}.allOf[{i}]", part) for i, part in enumerate(schema.get("allOf", ()))]
        if "$ref" in schema:
            parts.append((f"{path}.$ref", self._target(schema["$ref"], f"{path}.$ref")))
        for where, part in parts:
            whole = self._merge(whole, self._flat(part, where, left - 1), path)
        return whole

    def _merge(self, one: Schema | bool, other: Schema | bool, path: str) -> Schema | bool:
        try:
            return merge(one, other)
        except Clash as clash:
            self.refuse(clash.keyword, path, "two schemas that hold at once both have it, and cannot be made one")

    def _together(self, schema: Schema, path: str) -> str:
        alone = schema.get("allOf", ())
        if len(alone) == 1 and not constrains(schema, "allOf"):
            return self.value(alone[0], f"{path}.allOf[0]")  # as it is, so that it may contain itself
        return self.value(self._flat(schema, path), path)

    def _either(self, keyword: str, schema: Schema, path: str) -> str:
        choices = schema[keyword]
        if keyword == "oneOf":
            self._check_disjoint(choices, path)
        rest = {key: value for key, value in schema.items() if key != keyword and key not in ANNOTATIONS}
        names = []
        for index, choice in enumerate(choices):
            where = f"{path}.{keyword}[{index}]"
            both = self._merge(rest, self._flat(choice, where), where) if rest else choice
            try:
                names.append(self.value(both, where))
            except _Never:
                continue
        if not names:
            raise _Never(f"{path}.{keyword}")
        return self.rules.add(" | ".join(dict.fromkeys(names)), "either")

    def _check_disjoint(self, choices: Sequence[Any], path: str) -> None:
        def flat(schema: Any) -> Schema | bool:
            return self._flat(schema, f"{path}.oneOf")

        for index, one in enumerate(choices):
            for offset, other in enumerate(choices[index + 1 :], start=index + 1):
                if not disjoint(one, other, flat):
                    why = f"a value may be valid under both [{index}] and [{offset}]; where that is right, use anyOf"
                    self.refuse("oneOf", path, why)

    def _plain(self, schema: Schema, path: str) -> str:
        values = values_of(schema)
        if values is not None:
            return self._values(values, schema, path)
        declared = types_of(schema) if "type" in schema else self._implied(schema)
        types = [name for name in TYPES if name in declared and not (name == "integer" and "number" in declared)]
        if set(types) == set(TYPES) - {"integer"} and not constrains(schema, "type"):
            return self.free(FREE_DEPTH)
        names = []
        for name in types:
            try:
                names.append(self.rules.add(self._body(name, schema, path), name))
            except _Never:
                if len(types) == 1:
                    raise
        if not names:
            raise _Never(path)
        return names[0] if len(names) == 1 else self.rules.add(" | ".join(names), "types")

    def _implied(self, schema: Schema) -> frozenset[str]:
        families = [name for name, keywords in _FAMILIES.items() if keywords & set(schema)]
        return frozenset(families or TYPES)

    def _values(self, values: Sequence[Any], schema: Schema, path: str) -> str:
        for keyword in schema:
            if keyword not in ANNOTATIONS and keyword not in ("enum", "const", "type") and not keyword.startswith("x-"):
                self.refuse(keyword, path, "beside `enum` or `const` it is not checked; list only the values meant")
        allowed = types_of({"type": schema["type"]}) if "type" in schema else frozenset(TYPES)
        chosen = [self.rules.json(value) for value in values if allowed & set(type_names(value))]
        if not chosen:
            raise _Never(path)
        return self.rules.add(" | ".join(dict.fromkeys(chosen)), "enum")

    def _body(self, name: str, schema: Schema, path: str) -> str:
        if name in ("null", "boolean"):
            return self.rules.shared(name)
        if name in ("integer", "number"):
            body = schema_types.number_body(self.rules, name, schema, path, self.refuse)
            if body is None:
                raise _Never(path)
            return body
        if name == "string":
            body = schema_types.string_body(self.rules, schema, path, self.refuse)
            if body is None:
                raise _Never(path)
            return body
        return self._array(schema, path) if name == "array" else self._object(schema, path)

    def _array(self, schema: Schema, path: str) -> str:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if schema.get("uniqueItems", False) is not False:
            self.refuse("uniqueItems", path, "a grammar cannot compare items")
        prefix = list(schema.get("prefixItems", ()))[: None if high is None else int(high)]
        low = max(int(low), len(prefix))
        items = schema.get("items", True)
        if "prefixItems" in schema and "items" not in schema:
            high = low
        if high is not None and low > high:
            raise _Never(f"{path}.minItems")
        first = [self.value(item, f"{path}.prefixItems[{index}]") for index, item in enumerate(prefix)]
        try:
            item = self.value(items, f"{path}.items") if high is None or high > len(first) else ""
        except _Never:
            if low > len(first):
                raise
            item, high = "", len(first)
        most = None if high is None else int(high) - len(first)
        return schema_types.array_body(self.rules, first, item, low - len(first), most)

    def _object(self, schema: Schema, path: str) -> str:
        declared = dict(schema.get("properties", {}))
        required, extra = set(schema.get("required", ())), schema.get("additionalProperties")
        for name in schema.get("required", ()):
            declared.setdefault(name, True if extra is None else extra)
        members = []
        for name, part in declared.items():
            inside = f"{path}.properties.{name}"
            try:
                rule = self.value(part, inside)
            except _Never:
                if name in required:
                    raise
                continue
            members.append((f'{self.rules.json(name)} ":" {self.rules.shared("ws")} {rule}', name in required))
        return schema_types.object_body(self.rules, members, self._extra(extra, declared, path))

    def _extra(self, extra: Any, declared: Mapping[str, Any], path: str) -> str:
        """One member that is not declared; empty if there may be none."""
        if extra is None and declared:
            return ""
        try:
            rule = self.value(True if extra is None else extra, f"{path}.additionalProperties")
        except _Never:
            return ""
        if sum(map(len, declared)) > schema_types.MAX_NAMES:
            why = f"beside properties whose names have more than {schema_types.MAX_NAMES:,} characters in all"
            self.refuse("additionalProperties", path, f"{why}, it cannot be enforced")
        key = schema_types.other_key(self.rules, declared)
        return f'{key} ":" {self.rules.shared("ws")} {rule}'
