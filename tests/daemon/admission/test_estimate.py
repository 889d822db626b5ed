"""Rates are learned from what has ended, the newest counting most, and are unknown until something has."""

from __future__ import annotations

import pytest

from vestald.admission.estimate import OUTPUT_GUESS, Pace, Spent


def test_before_anything_has_ended_nothing_is_known() -> None:
    pace = Pace()
    assert pace.service(100, 50) is None
    assert pace.mean is None
    assert (pace.expected_output(None), pace.expected_output(10)) == (OUTPUT_GUESS, 10)
    assert repr(pace) == "<Pace ? tokens/s read, ? tokens/s made>"


def test_reading_and_making_have_a_rate_each() -> None:
    pace = Pace()
    pace.learn(3.0, Spent(read=1000, reading=1.0, made=40, making=2.0))
    assert pace.service(cost=500 + 20, output=20) == pytest.approx(0.5 + 1.0)
    assert repr(pace) == "<Pace 1000 tokens/s read, 20 tokens/s made>"


def test_a_change_is_learned_within_ten_requests_and_one_odd_request_moves_little() -> None:
    pace = Pace()
    for _ in range(50):
        pace.learn(1.0, Spent(read=100, reading=1.0, made=0, making=0.0))
    pace.learn(3.0, Spent(read=100, reading=3.0, made=0, making=0.0))
    assert pace.service(100, 0) == pytest.approx(1.4, rel=0.001)
    for _ in range(10):
        pace.learn(3.0, Spent(read=100, reading=3.0, made=0, making=0.0))
    assert pace.service(100, 0) == pytest.approx(3.0, rel=0.1)


def test_an_answer_is_taken_to_be_as_long_as_answers_are_and_never_longer_than_asked() -> None:
    pace = Pace()
    pace.learn(1.0, Spent(read=1, reading=0.1, made=40, making=1.0))
    assert pace.expected_output(None) == pytest.approx(40)
    assert pace.expected_output(1000) == pytest.approx(40)
    assert 7 < pace.expected_output(8) < 8


def test_answers_that_were_cut_do_not_make_those_with_more_room_seem_short() -> None:
    pace = Pace()
    for _ in range(30):
        pace.learn(1.0, Spent(read=1, reading=0.1, made=16, making=1.0, own_end=False))
    assert (pace.expected_output(500), pace.expected_output(None)) == (500, OUTPUT_GUESS)
    pace.learn(1.0, Spent(read=1, reading=0.1, made=16, making=1.0))
    assert 75 < pace.expected_output(500) < 80  # eighty tokens were seen, some faded, and one end


def test_where_nobody_counts_tokens_the_mean_time_in_the_slot_is_what_is_known() -> None:
    pace = Pace()
    pace.learn(2.0, None)
    assert pace.service(1e6, 0) == 2.0
    assert pace.service(1e6, 0, requests=3) == 6.0
