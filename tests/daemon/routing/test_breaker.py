"""The breaker: every step of its life, and thousands of random ones against what it promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.errors import ERROR_CLASSES
from vestald.routing.breaker import Breaker, BreakerRules, counts

RULES = BreakerRules(failures=3, window=60.0, cold=30.0)


def after(*failures: float, rules: BreakerRules = RULES) -> Breaker:
    """A breaker after failures at these moments, each of a request that began just before."""
    breaker = Breaker(rules)
    for now in failures:
        breaker.failed(now - 0.001, now, "backend_crashed")
    return breaker


def test_three_failures_within_a_minute_open_it_for_half_a_minute() -> None:
    breaker = after(0.0, 30.0)
    assert (breaker.state(59.0), breaker.failures(59.0)) == ("closed", 2)
    breaker.failed(59.0, 59.5, "backend_unavailable")
    assert (breaker.state(59.5), breaker.state(89.4), breaker.state(89.5)) == ("open", "open", "half_open")
    assert breaker.cold_left(60.0) == 29.5
    assert breaker.last == "backend_unavailable"


def test_a_failure_counts_no_longer_than_the_window() -> None:
    breaker = after(0.0, 1.0, 60.0)
    assert breaker.state(60.0) == "closed", "the first was a minute ago"
    assert breaker.failures(60.0) == 2
    assert breaker.failures(121.0) == 0


def test_what_ran_when_a_failure_was_counted_belongs_to_that_failure() -> None:
    breaker = Breaker(RULES)
    for began in (0.0, 0.5, 1.0, 2.0):
        breaker.failed(began, 2.0, "backend_crashed")
    assert breaker.failures(2.0) == 1
    breaker.failed(2.1, 2.2, "backend_crashed")
    assert breaker.failures(2.2) == 2


def test_the_one_request_closes_it_or_opens_it_again() -> None:
    breaker = after(0.0, 1.0, 2.0)
    assert not breaker.succeeded(31.9), "begun before the cold was over"
    assert breaker.state(32.0) == "half_open"
    breaker.failed(32.0, 33.0, "internal")
    assert (breaker.state(33.0), breaker.cold_left(33.0)) == ("open", 30.0)
    assert breaker.succeeded(63.0)
    assert (breaker.state(63.0), breaker.failures(63.0)) == ("closed", 0)


@pytest.mark.parametrize(("served", "state"), [(0, "open"), (3, "open"), (4, "closed"), (1000, "closed")])
def test_it_does_not_open_while_more_is_served_than_fails(served: int, state: str) -> None:
    breaker = after(0.0, 1.0)
    for _ in range(served):
        assert not breaker.succeeded(1.5)
    assert breaker.failures(2.0) == 2, "nothing is forgiven"
    breaker.failed(2.0, 2.5, "internal")
    assert breaker.state(2.5) == state


def test_what_was_served_before_the_first_failure_says_nothing_of_it() -> None:
    breaker = Breaker(RULES)
    for _ in range(1000):
        breaker.succeeded(0.0)
    for now in (1.0, 2.0, 3.0):
        breaker.failed(now - 0.5, now, "internal")
    assert breaker.state(3.0) == "open"


def test_other_rules_hold_for_one_that_is_open_too() -> None:
    breaker = after(0.0, 1.0, 2.0)
    breaker.adjust(BreakerRules(failures=3, window=60.0, cold=5.0), 3.0)
    assert (breaker.state(6.9), breaker.state(7.0)) == ("open", "half_open")


def test_a_longer_cold_does_not_take_back_the_request_that_tries() -> None:
    breaker = after(0.0, 1.0, 2.0)
    breaker.adjust(BreakerRules(failures=3, window=60.0, cold=500.0), 40.0)
    assert breaker.state(40.0) == "half_open"
    assert breaker.succeeded(39.0)


@pytest.mark.parametrize("code", sorted(ERROR_CLASSES))
def test_what_a_client_did_wrong_never_counts(code: str) -> None:
    backend = {"backend_crashed", "backend_unavailable", "deadline_exceeded", "internal"}
    assert counts(ERROR_CLASSES[code]("x")) is (code in backend)


STEP = st.tuples(st.floats(0.001, 40.0), st.floats(0.0, 100.0), st.booleans())


@given(st.lists(STEP, max_size=60))
def test_whatever_happens_it_opens_only_after_enough_failures_and_closes_only_by_a_later_success(
    steps: list[tuple[float, float, bool]],
) -> None:
    breaker, now = Breaker(RULES), 0.0
    counted: list[float] = []
    for pause, age, good in steps:
        now += pause
        began = now - age
        before = breaker.state(now)
        if good:
            closed = breaker.succeeded(began)
            assert closed == (before == "half_open" and breaker.state(now) == "closed")
            assert not closed or began >= counted[-1] + RULES.cold
        else:
            separate = not counted or began > counted[-1]
            breaker.failed(began, now, "x")
            if separate:
                counted.append(now)
            recent = [moment for moment in counted if moment > now - RULES.window]
            if before == "closed" and breaker.state(now) == "open":
                assert separate
                assert len(recent) >= RULES.failures
            if before == "half_open":
                assert breaker.state(now) == ("open" if separate else "half_open")
        assert (breaker.cold_left(now) > 0) == (breaker.state(now) == "open")
