"""The restart policy, with time passed in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal_adapters.worker.restarts import RestartPolicy


def test_pauses_double_and_the_sixth_death_in_a_window_gives_up() -> None:
    policy = RestartPolicy()
    pauses = [policy.died(now) for now in (0, 1, 2, 3, 4)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert policy.died(5) is None
    assert policy.deaths == 6


def test_deaths_far_apart_are_never_given_up_and_pauses_end_at_ten_seconds() -> None:
    policy = RestartPolicy()
    pauses = [policy.died(20.0 * number) for number in range(500)]
    assert None not in pauses
    assert pauses[-1] == 10.0


def test_a_worker_that_served_for_a_window_has_earned_the_first_pause_again() -> None:
    policy = RestartPolicy()
    assert [policy.died(now) for now in (0, 20, 40)] == pytest.approx([0.1, 0.2, 0.4])
    policy.serving(50)
    assert policy.died(109) == pytest.approx(0.8)
    policy.serving(110)
    assert policy.died(170) == pytest.approx(0.1)


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=60))
def test_never_more_starts_than_the_limit_in_any_window(gaps: list[float]) -> None:
    policy, now, starts = RestartPolicy(), 0.0, []
    for gap in gaps:
        now += gap
        if policy.died(now) is None:
            break
        starts.append(now)
    for start in starts:
        assert sum(start <= other < start + policy.WINDOW for other in starts) <= policy.LIMIT
