"""Durations: every legal form means what it says, everything else is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.durations import LEGAL_FORMS, MAX_SECONDS, parse_duration

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0s", 0.0),
        ("10ms", 0.01),
        ("250us", 0.00025),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1d", 86400.0),
        (" 2s ", 2.0),
        ("1s500ms", 1.5),
        (0, 0.0),
        (3, 3.0),
        (0.25, 0.25),
        ("365d", MAX_SECONDS),
    ],
)
def test_legal_forms(written: str | int | float, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "s",
        "10",
        "1.s",
        ".5s",
        "-1s",
        "+1s",
        "1 s",
        "1S",
        "1min",
        "1e3s",
        "1s,",
        "1s 1s",
        "१s",
        "1_0s",
        "9" * 80 + "s",
    ],
)
def test_other_strings_are_refused_naming_the_value_and_the_legal_forms(bad: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(bad)
    assert repr(bad)[:40] in str(caught.value)
    assert LEGAL_FORMS in str(caught.value)


@pytest.mark.parametrize("bad", [True, False, None, [1], {"s": 1}, b"1s"])
def test_other_types_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(bad)


@pytest.mark.parametrize("bad", [-1, -0.001, math.inf, -math.inf, math.nan, 10**400, "366d", "9" * 60 + "h"])
def test_values_outside_the_range_are_refused(bad: str | int | float) -> None:
    with pytest.raises(ValueError, match="out of range: from 0 to 365d"):
        parse_duration(bad)


@given(st.floats(min_value=0, max_value=MAX_SECONDS))
def test_a_number_is_seconds(seconds: float) -> None:
    assert parse_duration(seconds) == seconds


@given(st.integers(min_value=0, max_value=300), st.sampled_from(sorted(UNITS)))
def test_a_number_with_a_unit_is_their_product(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * UNITS[unit], rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from(sorted(UNITS))), min_size=1, max_size=5))
def test_parts_add_up(parts: list[tuple[int, str]]) -> None:
    written = "".join(f"{number}{unit}" for number, unit in parts)
    assert parse_duration(written) == pytest.approx(sum(number * UNITS[unit] for number, unit in parts), rel=1e-12)


@given(st.text(max_size=12))
def test_any_string_is_a_duration_in_range_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= MAX_SECONDS
    assert text.strip()[-1] in "smhd"
