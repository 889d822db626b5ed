"""One rule body for each JSON type, from the keywords that are about it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from vestal_adapters.llamacpp.constraining.charset import JSON_RAW, difference, gbnf_class, single
from vestal_adapters.llamacpp.constraining.pattern import PatternError, pattern_body
from vestal_adapters.llamacpp.constraining.rules import Rules
from vestal_adapters.llamacpp.constraining.schema_numbers import BoundError, Bounds, bounds_of, integers, numbers

__all__ = [
    "FORMATS",
    "MAX_COUNT",
    "MAX_NAMES",
    "array_body",
    "check_form",
    "number_body",
    "object_body",
    "other_key",
    "string_body",
]

Refuse = Callable[[str, str, str], NoReturn]
MAX_NAMES = 1500
"""Characters of all declared names together where others are allowed beside them: each makes a rule."""
MAX_COUNT = 4000
"""Most that `minLength`, `maxItems` and the like may ask for: each counts as an alternation of the grammar."""

_DAY = '("0" [1-9] | [12] [0-9] | "3" [01])'
_DAY_30 = '("0" [1-9] | [12] [0-9] | "30")'
_DAY_28 = '("0" [1-9] | "1" [0-9] | "2" [0-8])'  # a 29th is valid in some years only
_DATE = (
    f'[1-9] [0-9]{{3}} "-" (("0" [13578] | "1" [02]) "-" {_DAY} | ("0" [469] | "11") "-" {_DAY_30} | "02-" {_DAY_28})'
)
_TIME = (
    '("0" [0-9] | "1" [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?'
    ' ("Z" | [-+] ("0" [0-9] | "1" [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
)
_UUID = '[0-9a-fA-F]{8} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{12}'
FORMATS: Mapping[str, str] = {"date": _DATE, "time": _TIME, "date-time": f'{_DATE} "T" {_TIME}', "uuid": _UUID}

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMES = ("null", "boolean", "integer", "number", "string", "array", "object")


def check_form(schema: Mapping[str, Any], path: str, wrong: Callable[[str, str], NoReturn]) -> None:
    """Call `wrong` with the path of a keyword whose value is not of its kind, and the reason."""
    for keyword in _COUNTS:
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
            wrong(f"{path}.{keyword}", "expected a whole number, 0 or more")
    for keyword in _LISTS:
        if keyword in schema and not (isinstance(schema[keyword], list) and schema[keyword]):
            wrong(f"{path}.{keyword}", "expected a list of schemas, at least one")
    for keyword in ("properties", "$defs", "definitions"):
        if not isinstance(schema.get(keyword, {}), Mapping):
            wrong(f"{path}.{keyword}", "expected an object of schemas")
    if not _strings(schema.get("required", [])):
        wrong(f"{path}.required", "expected a list of names")
    if "enum" in schema and not isinstance(schema["enum"], list):
        wrong(f"{path}.enum", "expected a list of values")
    types = schema.get("type", "null")
    types = [types] if isinstance(types, str) else types
    if not _strings(types) or not types or not set(types) <= set(_NAMES):
        wrong(f"{path}.type", f"expected {', '.join(_NAMES)}, or a list of them")
    for keyword in ("pattern", "format"):
        if not isinstance(schema.get(keyword, ""), str):
            wrong(f"{path}.{keyword}", "expected a string")


def number_body(rules: Rules, name: str, schema: Mapping[str, Any], path: str, refuse: Refuse) -> str | None:
    """An integer or a number; `None` if the bounds leave none."""
    step = schema.get("multipleOf", 1)
    if isinstance(step, bool) or step != 1 or (name == "number" and "multipleOf" in schema):
        refuse("multipleOf", path, "a grammar cannot calculate; only 1, for integers, can be enforced")
    try:
        bounds = bounds_of(schema)
        if bounds == Bounds():
            return rules.shared(name)
        return integers(bounds) if name == "integer" else numbers(bounds)
    except BoundError as error:
        refuse(_given(schema, error.keyword), path, str(error))


def string_body(rules: Rules, schema: Mapping[str, Any], path: str, refuse: Refuse) -> str | None:
    """A string with its quotes; `None` if no length is both long and short enough."""
    for keyword, others in (("format", ("pattern", "minLength", "maxLength")), ("pattern", ("minLength", "maxLength"))):
        if keyword in schema:
            for other in others:
                if other in schema:
                    refuse(other, path, f"it cannot be enforced together with `{keyword}`")
    if "format" in schema:
        if schema["format"] not in FORMATS:
            refuse("format", path, f"only {', '.join(FORMATS)} can be enforced")
        return f'"\\"" {FORMATS[schema["format"]]} "\\""'
    if "pattern" in schema:
        try:
            return f'"\\"" {pattern_body(schema["pattern"], rules)} "\\""'
        except PatternError as error:
            refuse("pattern", path, f"outside the subset that can be enforced: {error}")
    return _sized_string(rules, schema, path, refuse)


def array_body(rules: Rules, first: Sequence[str], item: str, low: int, high: int | None) -> str:
    """`first` in their order, then `low` to `high` of `item`: rule names."""
    ws = rules.shared("ws")
    parts = [f' "," {ws} '.join(first)] if first else []
    if item and high != 0:
        more = f'"," {ws} {item}'
        if first:
            parts.append(_repeated(rules, more, low, high))
        else:
            rest = _repeated(rules, more, max(low - 1, 0), None if high is None else high - 1)
            parts.append(f"{item} {rest}" if low else f"({item} {rest} {ws})?")
    inside = " ".join(part for part in parts if part)
    if not inside or (not first and not low):
        return f'"[" {ws} {inside} "]"' if inside else f'"[" {ws} "]"'
    return f'"[" {ws} {inside} {ws} "]"'


def object_body(rules: Rules, members: Sequence[tuple[str, bool]], extra: str) -> str:
    """Members in their order, those marked true always, then any number of `extra`: GBNF for `"key": value`."""
    ws = rules.shared("ws")
    more = f'("," {ws} {extra})*' if extra else ""
    tail = rules.add(more, "more") if more else ""
    heads = [f"{extra} {tail}"] if extra else []
    optional = True
    for member, required in reversed(members):
        following = f'"," {ws} {member}'
        start = f"{member} {tail}"
        heads = [start] if required else [start, *heads]
        optional = optional and not required
        tail = rules.add(f"{following if required else f'({following})?'} {tail}", "more")
    if not heads:
        return f'"{{" {ws} "}}"'
    inside = f"({' | '.join(heads)}) {ws}"
    return f'"{{" {ws} ({inside})? "}}"' if optional else f'"{{" {ws} {inside} "}}"'


def other_key(rules: Rules, names: Iterable[str]) -> str:
    """A key that is none of `names`: escapes are left out, so that no name can come in disguise."""
    if not (known := list(names)):
        return rules.shared("string")
    return rules.add(f'"\\"" {_differs(rules, known)} "\\""', "key")


def _differs(rules: Rules, names: Sequence[str]) -> str:
    """A text that is none of `names`, character by character: one rule for each of their beginnings."""
    whole = {name for name in names if not difference(single(name), JSON_RAW)}
    following: dict[str, set[str]] = {"": set()}
    for name in whole:
        for end, char in enumerate(name):
            following.setdefault(name[:end], set()).add(char)
            following.setdefault(name[: end + 1], set())
    made: dict[str, str] = {}
    for start in sorted(following, key=len, reverse=True):
        chars = sorted(following[start])
        choices = [f"{gbnf_class(difference(JSON_RAW, single(''.join(chars))))} {rules.shared('raw')}*"]
        choices += [f"{gbnf_class(single(char))} {made[start + char]}" for char in chars]
        made[start] = rules.add(" | ".join([*choices, *([] if start in whole else ['""'])]), "other")
    return made[""]


def _sized_string(rules: Rules, schema: Mapping[str, Any], path: str, refuse: Refuse) -> str | None:
    if "minLength" not in schema and "maxLength" not in schema:
        return rules.shared("string")
    low, high = int(schema.get("minLength", 0)), schema.get("maxLength")
    if high is not None and low > high:
        return None
    for keyword, count in (("minLength", low), ("maxLength", high or 0)):
        if count > MAX_COUNT:
            refuse(keyword, path, f"at most {MAX_COUNT:,} can be enforced, got {int(count):,}")
    return f'"\\"" {_repeated(rules, rules.shared("char"), low, None if high is None else int(high))} "\\""'


def _repeated(rules: Rules, what: str, low: int, high: int | None) -> str:
    if high == 0:
        return ""
    part = f"({what})" if " " in what else what
    return f"{part}{{{low},{'' if high is None else high}}}"


def _given(schema: Mapping[str, Any], keyword: str) -> str:
    exclusive = f"exclusive{keyword[0].upper()}{keyword[1:]}"
    return keyword if keyword in schema or exclusive not in schema else exclusive


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
