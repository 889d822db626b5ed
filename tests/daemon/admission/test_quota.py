"""Tokens a minute: reserved by estimate, corrected at the end, told with when to come back."""

from __future__ import annotations

import pytest

from vestal.errors import QuotaExceeded
from vestald.admission.quota import Quotas


def take(quotas: Quotas, uid: int, tokens: float, now: float) -> None:
    quotas.check(uid, tokens, now)
    quotas.reserve(uid, tokens)


def refused(quotas: Quotas, uid: int, tokens: float, now: float) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as error:
        quotas.check(uid, tokens, now)
    return error.value


def test_what_runs_and_what_has_ended_in_the_last_minute_count_together() -> None:
    quotas = Quotas(lambda _uid: 100)
    take(quotas, 1, 40, 0.0)
    quotas.settle(1, 40, 30, 10.0)
    take(quotas, 1, 60, 20.0)
    error = refused(quotas, 1, 20, 30.0)
    assert error.details == {"limit": 100, "used": 90, "asked": 20}
    assert error.retryable
    assert error.retry_after_ms == 40_000  # at 70 s the thirty of 10 s are a minute old
    quotas.check(1, 20, 70.0)
    quotas.check(2, 100, 30.0)  # another caller's account


def test_an_estimate_is_replaced_by_what_was_used() -> None:
    quotas = Quotas(lambda _uid: 100)
    take(quotas, 1, 100, 0.0)
    refused(quotas, 1, 1, 1.0)
    quotas.settle(1, 100, 5, 1.0)
    take(quotas, 1, 95, 1.0)
    quotas.settle(1, 95, 300, 2.0)
    assert refused(quotas, 1, 1, 2.0).details["used"] == 305


def test_a_request_that_never_ran_costs_nothing() -> None:
    quotas = Quotas(lambda _uid: 100)
    take(quotas, 1, 100, 0.0)
    quotas.settle(1, 100, 0, 1.0)
    quotas.check(1, 100, 1.0)


def test_what_runs_for_longer_than_a_minute_counts_all_the_while_and_a_minute_after() -> None:
    quotas = Quotas(lambda _uid: 100)
    take(quotas, 1, 100, 0.0)
    assert refused(quotas, 1, 1, 500.0).retry_after_ms == 60_000
    quotas.settle(1, 100, 100, 500.0)
    refused(quotas, 1, 1, 559.0)
    quotas.check(1, 1, 560.0)


def test_a_request_larger_than_the_quota_runs_when_nothing_else_counts() -> None:
    quotas = Quotas(lambda _uid: 100)
    take(quotas, 1, 5000, 0.0)
    quotas.settle(1, 5000, 5000, 1.0)
    assert "5000 tokens in a minute" in refused(quotas, 1, 1, 2.0).message


def test_without_a_limit_nothing_is_kept() -> None:
    quotas = Quotas(lambda uid: 0 if uid == 0 else 10)
    for _ in range(3):
        take(quotas, 0, 1e9, 0.0)
        quotas.settle(0, 1e9, 1e9, 0.0)
    assert repr(quotas) == "<Quotas of 0 callers>"
    take(quotas, 1, 10, 0.0)
    assert repr(quotas) == "<Quotas of 1 callers>"


def test_a_quota_that_is_lifted_and_set_again_holds_nothing_that_is_over() -> None:
    limit = 100
    quotas = Quotas(lambda _uid: limit)
    take(quotas, 1, 90, 0.0)
    limit = 0
    take(quotas, 1, 500, 1.0)
    quotas.settle(1, 90, 90, 2.0)
    quotas.settle(1, 500, 500, 2.0)
    limit = 100
    take(quotas, 1, 100, 3.0)
    refused(quotas, 1, 1, 3.0)
