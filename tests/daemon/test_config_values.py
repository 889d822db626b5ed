"""From the text of a flag or variable to a value, and from a value to what would stand in the file."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Literal

import pytest

from vestal.options import DurationText, about
from vestald.config import Config, Duration, Mode
from vestald.config.table import options_of
from vestald.config.values import converted, from_text, to_text


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "64", 64),
        (int, "sixty", "sixty"),
        (float, "0.5", 0.5),
        (bool, "true", True),
        (str, "64", "64"),
        (str | None, "true", "true"),
        (Annotated[str | None, about("x")], "[1]", "[1]"),
        (Literal["off", "on"], "off", "off"),
        (Mode, "0660", "0660"),
        (Duration, "10s", "10s"),
        (Duration, "10", 10),
        (Duration | None, "1.5", 1.5),
        (DurationText, "10ms", "10ms"),
        (list[str | int], '["alice", 1000]', ["alice", 1000]),
        (list[str | int], "alice", "alice"),
        (dict[str, float], '{ "@staff" = 2 }', {"@staff": 2}),
        (dict[str, float], "x\ny = 1", "x\ny = 1"),
        (int, "1\nvalue = 2", "1\nvalue = 2"),
    ],
)
def test_a_text_is_read_as_toml_would_read_it_or_is_a_text(kind: Any, text: str, value: object) -> None:
    assert from_text(text, kind) == value
    assert type(from_text(text, kind)) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (Duration(0), '"0s"'),
        (Duration(0.25), '"250ms"'),
        (Duration(1.5), '"1.5s"'),
        (Duration(90), '"90s"'),
        (Duration(300), '"5m"'),
        (Duration(7200), '"2h"'),
        (Duration(86400), '"1d"'),
        (Mode(0o60), '"0060"'),
        (True, "true"),
        (2.0, "2"),
        (67108864, "67108864"),
        ("é", '"é"'),
        ("a\x1b\udcff", '"a\\u001b\\udcff"'),
        (["a", 1], '["a", 1]'),
        ({}, "{}"),
        ({"@a": 0.5}, '{ "@a" = 0.5 }'),
    ],
)
def test_a_value_is_shown_as_it_would_be_written(value: object, text: str) -> None:
    assert to_text(value) == text


@pytest.mark.parametrize("option", options_of(Config), ids=repr)
def test_every_default_and_example_is_legal_as_it_is_shown(option: Any) -> None:
    shown = [to_text(value) for value in option.field.examples]
    if option.field.default is not None:
        shown.append(to_text(option.field.default))
    for text in shown:
        converted(tomllib.loads(f"value = {text}")["value"], option.field.type)
        assert to_text(converted(from_text(text.strip('"'), option.field.type), option.field.type)) == text
