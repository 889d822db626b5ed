"""How texts are divided: each once, in order, in proportion, within limits, and always the same way."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vestald.routing.shares import Share, Taker, divide

COUNTS = st.integers(0, 70_000)
WEIGHTS = st.integers(1, 4096)
UNLIMITED = st.lists(st.builds(Taker, WEIGHTS), min_size=1, max_size=8)
TAKERS = st.lists(st.builds(Taker, WEIGHTS, st.none() | st.integers(1, 70_000)), min_size=1, max_size=8)


def room(takers: list[Taker]) -> float:
    """Texts that all take together."""
    return sum(float("inf") if taker.limit is None else taker.limit for taker in takers)


def counts(count: int, takers: list[Taker]) -> list[int]:
    """Texts by taker, nobody left out."""
    shares = {share.taker: share.count for share in divide(count, takers)}
    return [shares.get(number, 0) for number in range(len(takers))]


@given(COUNTS, TAKERS)
@example(0, [Taker(1)])
@example(1, [Taker(1), Taker(1)])
@example(10, [Taker(1, 5), Taker(1, 5)])
def test_every_text_is_given_exactly_once_and_in_order(count: int, takers: list[Taker]) -> None:
    if count > room(takers):
        with pytest.raises(ValueError, match="more than"):
            divide(count, takers)
        return
    shares = divide(count, takers)
    assert [text for share in shares for text in range(share.start, share.stop)] == list(range(count))
    numbers = [share.taker for share in shares]
    assert numbers == sorted(set(numbers))


@given(COUNTS, TAKERS)
def test_no_part_is_empty_and_none_is_over_its_limit(count: int, takers: list[Taker]) -> None:
    if count <= room(takers):
        for share in divide(count, takers):
            limit = takers[share.taker].limit
            assert 0 < share.count <= (count if limit is None else limit)


@given(COUNTS, UNLIMITED)
def test_shares_are_the_quotas_rounded_by_largest_remainder(count: int, takers: list[Taker]) -> None:
    total = sum(taker.weight for taker in takers)
    quotas = [Fraction(count * taker.weight, total) for taker in takers]
    given = counts(count, takers)
    assert all(abs(share - quota) < 1 for share, quota in zip(given, quotas, strict=True))
    rounded_up = [n for n, quota in enumerate(quotas) if given[n] > quota]
    rounded_down = [n for n, quota in enumerate(quotas) if given[n] < quota]
    for up in rounded_up:
        for down in rounded_down:  # whose remainder is larger, or the same and later in the list
            assert (quotas[up] % 1, -up) > (quotas[down] % 1, -down)


@given(COUNTS, TAKERS)
def test_who_is_not_at_a_limit_is_in_proportion_to_the_others_who_are_not(count: int, takers: list[Taker]) -> None:
    if count > room(takers):
        return
    given = counts(count, takers)
    free = [n for n, taker in enumerate(takers) if given[n] != taker.limit]
    left, total = sum(given[n] for n in free), sum(takers[n].weight for n in free)
    assert all(abs(given[n] - Fraction(left * takers[n].weight, total)) < 1 for n in free)


@given(COUNTS, TAKERS)
def test_a_limit_binds_only_where_the_share_would_be_more(count: int, takers: list[Taker]) -> None:
    """Who is at a limit has no more than in proportion to whoever is not: nobody gets others' texts for nothing."""
    if count > room(takers):
        return
    given = counts(count, takers)
    free = [n for n, taker in enumerate(takers) if given[n] != taker.limit]
    bound = [n for n, taker in enumerate(takers) if given[n] == taker.limit]
    for n in bound:
        for other in free:
            exact = Fraction(given[other] + 1, takers[other].weight)
            assert given[n] - 1 < exact * takers[n].weight


@given(COUNTS, TAKERS)
def test_the_same_is_always_divided_the_same_way(count: int, takers: list[Taker]) -> None:
    if count <= room(takers):
        assert divide(count, takers) == divide(count, list(takers))


@given(st.integers(1, 70_000), UNLIMITED)
def test_weights_count_only_beside_each_other(count: int, takers: list[Taker]) -> None:
    assert counts(count, takers) == counts(count, [Taker(3 * taker.weight) for taker in takers])


@pytest.mark.parametrize(
    ("count", "takers", "shares"),
    [
        (1000, [Taker(64)], [1000]),
        (1000, [Taker(64), Taker(64)], [500, 500]),
        (1001, [Taker(64), Taker(64)], [501, 500]),
        (1000, [Taker(96), Taker(32)], [750, 250]),
        (1000, [Taker(32), Taker(32), Taker(64)], [250, 250, 500]),
        (1000, [Taker(64, 100), Taker(64)], [100, 900]),
        (1000, [Taker(64, 100), Taker(64, 700), Taker(64)], [100, 450, 450]),
        (1000, [Taker(64, 100), Taker(64, 300), Taker(64)], [100, 300, 600]),
        (400, [Taker(64, 100), Taker(64, 300)], [100, 300]),
        (1, [Taker(1), Taker(64)], [0, 1]),
    ],
)
def test_what_it_comes_to(count: int, takers: list[Taker], shares: list[int]) -> None:
    assert counts(count, takers) == shares


def test_shares_name_their_taker_and_their_texts() -> None:
    assert divide(10, [Taker(1), Taker(1000), Taker(1000)]) == [Share(1, 0, 5), Share(2, 5, 10)]
