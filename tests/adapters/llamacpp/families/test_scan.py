"""Recognisers that take one character at a time, held against Python's own JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal_adapters.llamacpp.families.scan import Json, Literal, Name, Space, Step, Verdict

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)


def feed(step: Step, text: str) -> tuple[Verdict, int]:
    """The last verdict, and how many characters it took to come to it."""
    verdict = Verdict.TAKEN
    for count, char in enumerate(text, start=1):
        verdict = step.feed(char)
        if verdict is not Verdict.TAKEN:
            return verdict, count
    return verdict, len(text)


@settings(deadline=None)
@given(OBJECTS, st.booleans(), st.sampled_from([None, 2]))
def test_an_object_is_complete_at_its_last_character_and_not_before(
    value: object, ascii: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert feed(Json(), text) == (Verdict.DONE, len(text))


@settings(deadline=None)
@given(st.lists(VALUES, max_size=4))
def test_an_array_too_where_one_is_looked_for(value: object) -> None:
    text = json.dumps(value)
    assert feed(Json("["), text) == (Verdict.DONE, len(text))
    assert feed(Json(), text) == (Verdict.FAIL, 1)


PIECES = (
    *('{"a": 1', '"', "\\", "\\u00e9", "{", "}", "[", "]", ",", ":", " ", "\n"),
    *("1", "0", "-", ".", "e", "+", "t", "rue", "null", "x"),
)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(lambda pieces: "{" + "".join(pieces)))
def test_what_it_takes_for_json_is_json_and_what_it_gives_up_is_none(text: str) -> None:
    verdict, count = feed(Json(), text)
    if verdict is Verdict.DONE:
        assert isinstance(json.loads(text[:count], strict=False), dict)
    try:
        json.loads(text, strict=False)
    except ValueError:
        return
    assert (verdict, count) == (Verdict.DONE, len(text.rstrip()))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("{x", 2),
        ('{"a" 1', 6),
        ('{"a":}', 6),
        ('{"a":01', 7),
        ('{"a":1.}', 8),
        ('{"a":tru}', 9),
        ('{"a":1,}', 8),
        ("{]", 2),
        ('{"a":[1}', 8),
        ('{"a":"\\x', 8),
        ('{"a":"\\u00g', 11),
        ('{"a":+', 6),
        ('{"a":1e+}', 9),
        ('{"a":NaN', 6),
    ],
)
def test_it_fails_at_the_first_character_that_cannot_be(text: str, count: int) -> None:
    assert feed(Json(), text) == (Verdict.FAIL, count)


def test_it_fails_at_the_first_key_that_is_not_looked_for() -> None:
    keys = frozenset({"name", "arguments"})
    text = '{"name": {"other": 1}, "arguments": [{"other": 1}]}'
    assert feed(Json(keys=keys), text) == (Verdict.DONE, len(text))
    assert feed(Json(keys=keys), '{"name": 1, "other"') == (Verdict.FAIL, 19)


def test_it_gives_up_what_is_nested_deeper_than_can_be_sent() -> None:
    assert feed(Json(), '{"a":' * 62 + "1" + "}" * 62)[0] is Verdict.DONE
    assert feed(Json(), '{"a":' * 70)[0] is Verdict.FAIL


def test_the_small_ones() -> None:
    assert feed(Literal("ab"), "ab") == (Verdict.DONE, 2)
    assert feed(Literal("ab"), "ac") == (Verdict.FAIL, 2)
    assert feed(Space(), " \n\tx") == (Verdict.PASS, 4)
    assert feed(Name(), "get_it-2.x[") == (Verdict.PASS, 11)
    assert feed(Name(), "[") == (Verdict.FAIL, 1)
    assert feed(Name(), "é") == (Verdict.FAIL, 1)
