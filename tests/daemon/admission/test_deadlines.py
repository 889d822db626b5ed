"""What was asked for counts, then the default, then the ceiling; past the ceiling is an error and never clamped."""

from __future__ import annotations

import pytest

from vestal.errors import InvalidRequest
from vestald.admission.deadlines import Deadlines
from vestald.config import AdmissionConfig, Duration


def test_without_configuration_what_is_asked_for_is_taken_and_nothing_is_imposed() -> None:
    deadlines = Deadlines.of(AdmissionConfig())
    assert (deadlines.waiting(None), deadlines.whole(None)) == (None, None)
    assert (deadlines.waiting(1500), deadlines.whole(604_800_000)) == (1.5, 604_800.0)


def test_a_default_holds_for_those_who_ask_for_nothing() -> None:
    deadlines = Deadlines.of(AdmissionConfig(queue_timeout=Duration(5), timeout=Duration(60)))
    assert (deadlines.waiting(None), deadlines.whole(None)) == (5, 60)
    assert (deadlines.waiting(9000), deadlines.whole(1)) == (9, 0.001)


def test_a_ceiling_alone_is_the_default_too() -> None:
    deadlines = Deadlines.of(AdmissionConfig(max_queue_timeout=Duration(5), max_timeout=Duration(60)))
    assert (deadlines.waiting(None), deadlines.whole(None)) == (5, 60)


def test_past_the_ceiling_is_refused_by_the_name_of_the_field() -> None:
    deadlines = Deadlines.of(AdmissionConfig(max_queue_timeout=Duration(5), max_timeout=Duration(60)))
    assert deadlines.waiting(5000) == 5
    with pytest.raises(InvalidRequest, match="queue_timeout_ms = 5001 is more than the 5000 ms") as refused:
        deadlines.waiting(5001)
    assert refused.value.details == {"field": "queue_timeout_ms", "limit": 5000}
    with pytest.raises(InvalidRequest) as refused:
        deadlines.whole(60_001)
    assert refused.value.details == {"field": "timeout_ms", "limit": 60_000}
