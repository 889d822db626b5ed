"""JSON Schema to GBNF: whatever the grammar lets through is valid; what it cannot enforce it refuses by name."""

from __future__ import annotations

import datetime
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters.llamacpp.derivation import Derivation
from vestal.errors import InvalidRequest, Unsupported
from vestal_adapters.llamacpp.constraining.automaton import compile_grammar
from vestal_adapters.llamacpp.constraining.gbnf import parse
from vestal_adapters.llamacpp.constraining.rules import Rules
from vestal_adapters.llamacpp.constraining.schema import add_schema, to_gbnf
from vestal_adapters.llamacpp.deadline import Deadline

CHECKER = jsonschema.FormatChecker(formats=["date", "uuid"])


def _is_time(text: object) -> bool:
    return not isinstance(text, str) or datetime.time.fromisoformat(text).tzinfo is not None


def _is_date_time(text: object) -> bool:
    return not isinstance(text, str) or datetime.datetime.fromisoformat(text).tzinfo is not None


# jsonschema's own "time" knows no offset and no fraction, and it has no "date-time" without further packages.
CHECKER.checks("time", ValueError)(_is_time)
CHECKER.checks("date-time", ValueError)(_is_date_time)


TREE = {
    "$defs": {"node": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}, "children": {
        "type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["name"]}},
    "$ref": "#/$defs/node",
}  # fmt: skip

SUPPORTED: list[Any] = [
    True,
    {},
    {"type": "object"},
    {"type": ["string", "null"]},
    {"enum": ["a", 1, None, True, {"x": [1.5, "\n\"\\é"]}, 1.0]},
    {"type": "string", "enum": ["a", 1]},
    {"const": {"a": [1, 2]}},
    {"type": "integer", "minimum": -17, "maximum": 1234},
    {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 101, "multipleOf": 1},
    {"type": "integer", "minimum": 99999},
    {"type": "integer", "maximum": -1},
    {"type": "integer", "minimum": 0.5, "maximum": 1.5},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -3, "exclusiveMaximum": 7},
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "number", "minimum": -9, "exclusiveMaximum": 0},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "minLength": 3},
    {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}$"},
    {"type": "string", "pattern": "b+(an){2}a?"},
    {"type": "string", "pattern": "^(?:[^\\s\"]|\\\\|\\x41|\\u00e9)+?\\.(com|org)$"},
    {"type": "string", "pattern": "x|y"},
    {"type": "string", "pattern": "^[\\w.-]{1,4}@\\S\\D\\W.[\\n\\t ]$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1},
    {"type": "array", "items": False},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False, "uniqueItems": False},
    {"properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "null"}}, "required": ["b"]},
    {"type": "object", "properties": {"a": False, "b": True}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer"}, "ab": {"type": "null"}, "": {"type": "null"}},
     "additionalProperties": {"type": "string"}},
    {"type": "object", "additionalProperties": {"type": "integer"}, "required": ["x"]},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True, "required": ["a"]},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]},
    {"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"], "anyOf": [
        {"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "null"}}}]},
    {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    {"oneOf": [{"const": 1}, {"enum": [2, 3]}, False]},
    {"oneOf": [
        {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind"]},
        {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
               {"properties": {"b": {"type": "string"}, "a": {"minimum": 3}}}]},
    {"allOf": [{"type": ["integer", "string"]}, {"type": ["number", "null"], "maximum": 5}]},
    {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]},
    TREE,
    {"$ref": "#/definitions/s~1t", "definitions": {"s/t": {"type": "string", "maxLength": 3}}},
    {"$ref": "#/$defs/n", "minimum": 3, "$defs": {"n": {"type": "integer", "maximum": 9}}},
    {"title": "t", "description": "d", "default": 1, "examples": [1], "$comment": "c", "x-order": 1,
     "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "boolean"},
]  # fmt: skip

REFUSED: list[tuple[Any, str]] = [
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {}}, "contains"),
    ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties"),
    ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
    ({"type": "object", "minProperties": 1}, "minProperties"),
    ({"type": "object", "dependentRequired": {}}, "dependentRequired"),
    ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"not": {}}, "not"),
    ({"if": {}, "then": {}}, "if"),
    ({"type": "string", "format": "email"}, "format"),
    ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
    ({"type": "string", "pattern": "(a)\\1"}, "pattern"),
    ({"type": "string", "pattern": "^a|b$"}, "pattern"),
    ({"type": "string", "pattern": "\\bx"}, "pattern"),
    ({"type": "string", "pattern": "(a*)*"}, "pattern"),
    ({"type": "string", "pattern": "a", "minLength": 3}, "minLength"),
    ({"type": "string", "maxLength": 100000}, "maxLength"),
    ({"type": "number", "minimum": 0.5}, "minimum"),
    ({"type": "number", "exclusiveMaximum": 1e12}, "exclusiveMaximum"),
    ({"type": "integer", "multipleOf": 5}, "multipleOf"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ({"oneOf": [{"type": "object"}, {"type": "object", "required": ["a"]}]}, "oneOf"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "pattern"),
    ({"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]},
     "additionalProperties"),
    ({"enum": [1, 2], "minimum": 2}, "minimum"),
    ({"$ref": "https://example.com/schema"}, "$ref"),
    ({"$dynamicRef": "#x"}, "$dynamicRef"),
    ({"nullable": True, "type": "string"}, "nullable"),
]  # fmt: skip

WRONG: list[Any] = [
    {"type": "text"},
    {"type": 3},
    {"required": "a"},
    {"minLength": -1},
    {"minItems": "3"},
    {"properties": []},
    {"anyOf": []},
    {"enum": 3},
    {"items": 3},
    {"$ref": "#/nowhere"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}}},
    {"$defs": {"n": {"properties": {"c": {"$ref": "#/$defs/n", "minLength": 1}}}}, "$ref": "#/$defs/n"},
    {"enum": ["x" * 100, "y" * 70000]},
    # Nothing satisfies these.
    False,
    {"type": "string", "minLength": 3, "maxLength": 2},
    {"type": "integer", "minimum": 3, "maximum": 2},
    {"enum": []},
    {"type": "object", "properties": {"a": False}, "required": ["a"]},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"anyOf": [False, {"const": 1, "enum": [2]}]},
]


def _check(schema: Any, seed: int, count: int = 25) -> None:
    grammar = to_gbnf(schema)
    compile_grammar(parse(grammar))
    derivation = Derivation(grammar, seed)
    for _ in range(count):
        text = derivation.text()
        text.encode()
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator, format_checker=CHECKER)


@pytest.mark.parametrize("schema", SUPPORTED, ids=lambda schema: json.dumps(schema)[:60])
def test_what_the_grammar_lets_through_is_valid(schema: Any) -> None:
    for seed in range(4):
        _check(schema, seed)


@pytest.mark.parametrize(("schema", "keyword"), REFUSED, ids=[f"{k}-{i}" for i, (_, k) in enumerate(REFUSED)])
def test_a_keyword_that_cannot_be_enforced_is_refused_by_its_name_and_path(schema: Any, keyword: str) -> None:
    with pytest.raises(Unsupported) as refused:
        to_gbnf({"type": "object", "properties": {"x": schema}})
    assert refused.value.details["keyword"] == keyword
    assert refused.value.details["field"].startswith("response_format.schema.properties.x")
    assert refused.value.details["field"].endswith(keyword) and refused.value.details["field"] in str(refused.value)


def test_the_path_of_a_keyword_is_that_in_the_request() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(Unsupported, match=r"tools\[2\]\.input_schema\.properties\.x\.uniqueItems"):
        add_schema(Rules("tools"), schema, field="tools[2].input_schema")


@pytest.mark.parametrize("schema", WRONG, ids=lambda schema: json.dumps(schema)[:60])
def test_what_is_no_schema_or_satisfied_by_nothing_is_said_to_be_wrong(schema: Any) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        to_gbnf(schema)
    assert wrong.value.details["field"].startswith("response_format.schema")


def test_a_reference_only_to_itself_is_left_recursion() -> None:
    with pytest.raises(InvalidRequest):
        compile_grammar(parse(to_gbnf({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})))


def test_a_value_that_has_to_contain_itself_is_refused() -> None:
    schema = {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]}
    with pytest.raises(InvalidRequest, match="no text that ends"):
        compile_grammar(parse(to_gbnf(schema)))


def test_integers_between_two_bounds_are_exactly_those() -> None:
    for low, high in ((-12, 3), (0, 0), (7, 130), (95, 1005), (-205, -99)):
        grammar = to_gbnf({"type": "integer", "minimum": low, "maximum": high})
        automaton = _automaton(grammar)
        found = {number for number in range(low - 1200, high + 1200) if _matches(automaton, str(number))}
        assert found == set(range(low, high + 1))


def test_all_strings_of_a_pattern_can_be_written() -> None:
    automaton = _automaton(to_gbnf({"pattern": "^(a|b)?c{2}$"}))
    assert [text for text in ("cc", "acc", "bcc", "abcc", "c", "accc") if _matches(automaton, f'"{text}"')] == [
        "cc", "acc", "bcc"]  # fmt: skip


def test_a_schema_whose_parts_multiply_is_ended_by_the_deadline() -> None:
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for number in range(1, 15):
        definitions[f"d{number}"] = {"allOf": [{"$ref": f"#/$defs/d{number - 1}"}, {"$ref": f"#/$defs/d{number - 1}"}]}
    ticks = iter(range(10**9))
    deadline = Deadline("response_format.schema", 2.0, lambda: next(ticks) / 1000)
    with pytest.raises(InvalidRequest, match="deadline of 2 s") as over:
        to_gbnf({"$ref": "#/$defs/d14", "$defs": definitions}, deadline=deadline)
    assert over.value.details["deadline_ms"] == 2000


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "required": [f"name {number}" for number in range(10_000)]},
        {"enum": list(range(10_000))},
        {"type": "string", "pattern": "^" + "ab" * 10_000 + "$"},
    ],
)
def test_the_deadline_is_looked_at_for_each_part(schema: dict[str, Any]) -> None:
    """Not only as rules come of them: a million names took 42 s, and a worker is given up after 30."""
    ticks = iter(range(10**9))
    deadline = Deadline("response_format.schema", 1.0, lambda: next(ticks) / 5000)
    with pytest.raises(InvalidRequest, match="deadline of 1 s"):
        to_gbnf(schema, deadline=deadline)
    assert next(ticks) < 5100


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "a" * 1_000_000},
        {"enum": ["b", '"' * 1_000_000]},
        {"type": "object", "properties": {"k" * 1_000_000: {"type": "integer"}}},
        {"type": "string", "pattern": "a" * 1_000_000},
    ],
)
def test_a_text_that_no_grammar_has_room_for_is_not_looked_at(schema: dict[str, Any]) -> None:
    deadline = Deadline("response_format.schema", 1.0, lambda: 0.0)
    with pytest.raises((InvalidRequest, Unsupported), match=r"larger than 65,536 bytes|more than 65,536 characters"):
        to_gbnf(schema, deadline=deadline)


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=4).filter(str.isprintable))
_NAMES = st.text('abc"\\é ', max_size=3)


@st.composite
def _bounded(draw: st.DrawFn, low: str, high: str, most: int) -> dict[str, Any]:
    first, second = sorted((draw(st.integers(0, most)), draw(st.integers(0, most))))
    return draw(st.sampled_from([{}, {low: first}, {high: second}, {low: first, high: second}]))


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(_NAMES, inner, max_size=4))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if properties:
        schema["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    extra = draw(st.one_of(st.none(), st.booleans(), inner))
    return schema if extra is None else schema | {"additionalProperties": extra}


def _arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    prefix = st.one_of(st.just({}), st.lists(inner, min_size=1, max_size=3).map(lambda items: {"prefixItems": items}))
    return st.builds(
        lambda items, counts, prefix: {"type": "array", "items": items} | counts | prefix,
        inner, _bounded("minItems", "maxItems", 5), prefix,
    )  # fmt: skip


_LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([{"type": name} for name in ("null", "boolean", "integer", "number", "string")]),
    _bounded("minLength", "maxLength", 6).map(lambda counts: {"type": "string"} | counts),
    _bounded("minimum", "maximum", 300).map(lambda bounds: {"type": "integer"} | bounds),
    _bounded("exclusiveMinimum", "maximum", 40).map(lambda bounds: {"type": ["number", "null"]} | bounds),
    st.lists(_SCALARS, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    _SCALARS.map(lambda value: {"const": value}),
    st.sampled_from([{"type": "string", "format": name} for name in ("date", "date-time", "time", "uuid")]),
    st.sampled_from([{"pattern": text} for text in ("^[a-f]{1,3}$", "x.?y", "^\\d+(\\.\\d+)?$", '^(é|")*$')]),
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        _arrays(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"allOf": parts}),
        st.lists(inner, min_size=2, max_size=2).map(lambda parts: {"oneOf": parts}),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(_SCHEMAS, st.integers(0, 1000))
def test_any_schema_is_enforced_or_refused(schema: Any, seed: int) -> None:
    try:
        to_gbnf(schema)
    except (Unsupported, InvalidRequest):
        return
    _check(schema, seed, count=5)


def _automaton(grammar: str) -> Any:
    from vestal_adapters.llamacpp.constraining.automaton import Automaton

    return Automaton(compile_grammar(parse(grammar)))


def _matches(automaton: Any, text: str) -> bool:
    state = automaton.read(automaton.start, text.encode())
    return state is not None and state.may_end
