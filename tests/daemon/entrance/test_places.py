"""The bounds on connections: what fills them, what frees them, and what one who finds them full is told."""

from __future__ import annotations

import pytest

from vestal.errors import QueueFull
from vestald.entrance.places import Places


def refused(places: Places, uid: int) -> QueueFull:
    with pytest.raises(QueueFull) as full:
        places.enter(uid)
    return full.value


def test_a_uid_has_as_many_places_as_it_may_and_another_uid_its_own() -> None:
    places = Places(in_all=10, per_uid=2)
    places.enter(7)
    places.enter(7)
    error = refused(places, 7)
    assert error.details == {"bound": "connections_per_uid", "limit": 2, "current": 2}
    assert error.retryable
    assert "uid 7 has 2 connections" in error.message
    places.enter(8)
    assert places.taken == 3


def test_all_together_have_a_bound_of_their_own() -> None:
    places = Places(in_all=3, per_uid=2)
    for uid in (1, 2, 3):
        places.enter(uid)
    error = refused(places, 4)
    assert error.details == {"bound": "connections", "limit": 3, "current": 3}
    assert places.taken == 3, "one who was refused took no place"


def test_with_less_room_than_are_inside_nobody_is_put_out_and_nobody_let_in() -> None:
    places = Places(in_all=3, per_uid=2)
    for uid in (1, 2, 3):
        places.enter(uid)
    places.in_all = 2
    assert places.taken == 3
    places.leave(1, 0.0)
    assert refused(places, 4).details == {"bound": "connections", "limit": 2, "current": 2}
    places.in_all = 3
    places.enter(4)


def test_who_leaves_makes_room_in_both_bounds() -> None:
    places = Places(in_all=2, per_uid=1)
    places.enter(1)
    places.enter(2)
    assert refused(places, 1).details["bound"] == "connections_per_uid"
    places.leave(1, now=5.0)
    places.enter(1)
    assert refused(places, 3).details["bound"] == "connections"


def test_a_uid_that_has_left_is_forgotten() -> None:
    places = Places(in_all=10, per_uid=5)
    for uid in range(1000):
        places.enter(uid)
        places.leave(uid, now=float(uid))
    assert places.taken == 0
    assert repr(places) == "<Places 0 of 10, 5 a uid>"
    assert not places._by_uid


def test_nobody_is_told_when_to_come_back_before_anybody_has_left() -> None:
    places = Places(in_all=10, per_uid=1)
    places.enter(1)
    assert refused(places, 1).retry_after_ms is None


def test_when_to_come_back_is_how_often_a_place_comes_free() -> None:
    places = Places(in_all=4, per_uid=10)
    for _ in range(4):
        places.enter(1)
    for now in (1.0, 1.5, 2.0, 2.5):  # one leaves every half second, and another takes its place
        places.leave(1, now)
        places.enter(1)
    assert refused(places, 1).retry_after_ms == 500
    places.leave(1, 2.5)
    places.enter(1)
    assert refused(places, 1).retry_after_ms == 400, "the latest interval has a weight, not the last word"


def test_another_limit_counts_for_those_who_are_inside_too() -> None:
    places = Places(in_all=10, per_uid=3)
    for _ in range(3):
        places.enter(1)
    places.per_uid = 2
    assert refused(places, 1).details == {"bound": "connections_per_uid", "limit": 2, "current": 3}
    places.leave(1, 0.0)
    refused(places, 1)
    places.per_uid = 4
    places.enter(1)
    places.enter(1)
    refused(places, 1)
