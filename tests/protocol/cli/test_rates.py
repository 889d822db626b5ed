"""Speed from two looks at the daemon's counters."""

from __future__ import annotations

import pytest

from vestal import messages as m
from vestal.cli.rates import Look, Pace, Rates, samples

METRICS = """\
# HELP vestal_tokens_total Tokens by kind: input, cached, output.
# TYPE vestal_tokens_total counter
vestal_tokens_total{{backend="chat",kind="input"}} 900.0
vestal_tokens_total{{backend="chat",kind="output"}} {ended}
vestal_tokens_created{{backend="chat",kind="output"}} 1.7e+09
vestal_first_token_seconds_sum{{backend="chat"}} {seconds}
vestal_first_token_seconds_count{{backend="chat"}} {times}
vestal_first_token_seconds_bucket{{backend="chat",le="+Inf"}} {times}
vestal_token_gap_seconds_sum{{backend="chat"}} {seconds}
vestal_token_gap_seconds_count{{backend="chat"}} {times}
nonsense
vestal_odd{{backend="quo\\"te"}} NaNcy
"""


def entry(tokens: int, backend: str = "chat") -> m.QueueEntry:
    return m.QueueEntry(
        request=1, state="running", backend=backend, uid=0, pid=1, client="t", age_ms=1, priority="normal",
        output_tokens=tokens,
    )  # fmt: skip


def look(at: float, ended: float, *running: int, seconds: float = 0.0, times: float = 0.0) -> Look:
    return Look.of(at, METRICS.format(ended=ended, seconds=seconds, times=times), map(entry, running))


def test_tokens_are_counted_while_they_come_and_not_again_when_the_request_ends() -> None:
    rates = Rates()
    rates.add(look(0.0, 100, 10))
    assert rates.pace() == Pace()
    rates.add(look(1.0, 100, 30))
    assert rates.pace().tokens == 20.0
    rates.add(look(2.0, 150, 0))  # the request has ended with 50, another has begun
    assert rates.pace().tokens == 20.0
    assert rates.pace("chat").tokens == 20.0
    assert rates.pace("other").tokens == 0.0


def test_a_mean_is_of_what_was_observed_between_the_looks() -> None:
    rates = Rates()
    rates.add(look(0.0, 0, seconds=5.0, times=10))
    rates.add(look(1.0, 0, seconds=5.0, times=10))
    assert rates.pace().first_token is None
    rates.add(look(2.0, 0, seconds=6.0, times=14))
    assert rates.pace().first_token == pytest.approx(0.25)
    assert rates.pace("chat").gap == pytest.approx(0.25)
    assert rates.pace("other").gap is None


def test_a_rate_looks_back_five_seconds_and_no_longer() -> None:
    rates = Rates()
    for second in range(10):
        rates.add(look(float(second), 0, 100))
    rates.add(look(10.0, 0, 200))
    assert rates.pace().tokens == 20.0
    for second in range(11, 16):
        rates.add(look(float(second), 0, 200))
    assert rates.pace().tokens == 0.0


def test_another_daemon_counts_from_nought() -> None:
    rates = Rates()
    rates.add(look(0.0, 1000))
    rates.clear()
    rates.add(look(1.0, 0))
    assert rates.pace() == Pace()
    rates.add(look(2.0, 5))
    assert rates.pace().tokens == 5.0


def test_lines_that_are_no_samples_are_passed_over() -> None:
    told = list(samples(METRICS.format(ended=1, seconds=0, times=0)))
    assert ("vestal_tokens_total", {"backend": "chat", "kind": "output"}, 1.0) in told
    assert not [name for name, _, _ in told if name in ("nonsense", "vestal_odd")]
