"""The echo's table in the configuration."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vestal_adapters.echo import EchoOptions
from vestal_adapters.echo.options import LEGAL_FAULTS, Fault


def of(**table: Any) -> EchoOptions:
    return msgspec.convert(table, EchoOptions)


def test_every_option_has_a_default() -> None:
    assert of() == EchoOptions(
        slots=1, ready_delay="0s", token_delay="0s", v2=True, embed=False, fault="", isolation="none"
    )


def test_durations_may_be_strings_and_numbers() -> None:
    options = of(ready_delay="1m30s", token_delay=0.25)
    assert (options.ready_seconds, options.token_seconds) == (90.0, 0.25)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", Fault("")),
        ("start", Fault("start")),
        ("before", Fault("before")),
        ("after:0", Fault("after", 0)),
        ("after:12", Fault("after", 12)),
        ("hang", Fault("hang")),
        ("ignore_stop", Fault("ignore_stop")),
    ],
)
def test_faults_that_are_known(text: str, fault: Fault) -> None:
    assert of(fault=text).requested_fault == fault


@pytest.mark.parametrize(
    "text",
    ["Start", "after", "after:", "after:-1", "after:x", "crash", "hang:3", " hang", "after:1 ", "after:" + "9" * 30],
)
def test_other_faults_are_refused_naming_the_option_and_the_legal_forms(text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        of(fault=text, isolation="process")
    assert f"fault: {text[:64]!r}" in str(caught.value)
    assert LEGAL_FAULTS in str(caught.value)


def test_a_crash_needs_a_process() -> None:
    with pytest.raises(msgspec.ValidationError, match=r'fault: .crash:3. .* isolation = "process"'):
        of(fault="crash:3")
    assert of(fault="crash:3", isolation="process").requested_fault == Fault("crash", 3)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"ready_delay": "soon"}, "ready_delay: 'soon' is not a duration"),
        ({"token_delay": -1}, "token_delay: duration -1 is out of range"),
        ({"slots": 0}, "slots"),
        ({"isolation": "thread"}, "isolation"),
        ({"model": "x"}, "unknown field `model`"),
    ],
)
def test_other_mistakes_name_their_option(table: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        of(**table)
