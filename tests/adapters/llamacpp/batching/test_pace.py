"""Prompt tokens per step, against simulated machines whose cost is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal_adapters.llamacpp.batching.pace import FEWEST, Pace

TARGET = 0.1
Cost = Callable[[int, int, int], float]
"""(prompt tokens, decoding, depth) to seconds."""


def machine(base: float, token: float, deep: float = 0.0) -> Cost:
    """Seconds for a step: `base`, `token` for each row, and `deep` more for each row at a depth of 1,000 tokens."""
    return lambda prompt, decoding, depth: base + (prompt + decoding) * (token + deep * depth / 1000)


def prefill(pace: Pace, cost: Cost, length: int, *, decoding: int = 1, start: int = 0) -> tuple[list[int], list[float]]:
    """A prompt from `start` to `length`; the tokens and seconds of each of its steps."""
    tokens, seconds, depth = list[int](), list[float](), start
    while depth < length:
        count = min(pace.budget(depth), length - depth)
        took = cost(count, decoding, depth)
        pace.measured(count, depth, took)
        tokens.append(count)
        seconds.append(took)
        depth += count
    return tokens, seconds


# What SmolLM2 135M takes on two cores: 6 ms a token at the beginning, 12 ms after 3,200.
SMOLLM2 = machine(0.007, 0.005, 0.002)


def test_a_long_prompt_beside_an_answer_keeps_its_steps_to_the_target() -> None:
    _, seconds = prefill(Pace(TARGET, 512), SMOLLM2, 3300)
    assert max(seconds) <= TARGET * 1.05


def test_and_does_not_waste_it() -> None:
    tokens, seconds = prefill(Pace(TARGET, 512), SMOLLM2, 3300)
    assert sum(seconds[3:-1]) / len(seconds[3:-1]) >= 0.75 * TARGET
    assert tokens[0] <= 8, "before anything is known, a step is small"


def test_a_fast_machine_is_given_full_batches_after_a_few_steps() -> None:
    tokens, _ = prefill(Pace(TARGET, 512), machine(0.002, 0.00002), 20_000)
    assert tokens[4:-1] == [512] * len(tokens[4:-1])


def test_a_machine_that_is_too_slow_for_any_tokens_still_gets_on() -> None:
    tokens, _ = prefill(Pace(TARGET, 512), machine(1.0, 0.1), 100)
    assert set(tokens[1:-1]) == {FEWEST}


def test_a_prompt_that_starts_deep_does_not_overrun_once_that_depth_is_known() -> None:
    pace = Pace(TARGET, 512)
    prefill(pace, SMOLLM2, 3300)
    prefill(pace, SMOLLM2, 200)
    _, seconds = prefill(pace, SMOLLM2, 3300, start=3000)
    assert max(seconds) <= TARGET * 1.1


def test_one_slow_step_costs_little_and_is_forgotten() -> None:
    pace = Pace(TARGET, 512)
    cost = machine(0.007, 0.005)
    before, _ = prefill(pace, cost, 400)
    pace.measured(before[-2], 400, 3.0)
    after, _ = prefill(pace, cost, 500, start=400)
    assert after[0] >= before[-2] / 2 - 1
    assert after[4] >= before[-2] * 0.85


def test_a_machine_that_becomes_slower_for_good_is_followed() -> None:
    pace = Pace(TARGET, 512)
    prefill(pace, machine(0.007, 0.002), 400)
    _, seconds = prefill(pace, machine(0.028, 0.008), 510, start=400)
    assert max(seconds[5:]) <= TARGET * 1.1


def test_the_end_of_a_prompt_teaches_nothing_about_full_steps() -> None:
    pace = Pace(TARGET, 512)
    cost = machine(0.03, 0.002)
    prefill(pace, cost, 500)
    before = pace.budget(0)
    for _ in range(20):
        pace.measured(1, 0, cost(1, 1, 0))
    assert pace.budget(0) == before


def test_a_step_without_prompts_is_not_learnt_from() -> None:
    pace = Pace(TARGET, 512)
    pace.measured(0, 0, 5.0)
    assert repr(pace) == repr(Pace(TARGET, 512))


def test_it_says_what_it_would_allow() -> None:
    assert repr(Pace(TARGET, 512)) == "<Pace of 95 ms: 8 prompt tokens a step>"


@given(
    st.floats(0.0, 0.03), st.floats(0.0005, 0.01), st.floats(0, 0.002), st.integers(0, 10_000), st.sampled_from([1, 4])
)
def test_on_any_steady_machine_with_noise_it_settles_and_does_not_swing(
    base: float, token: float, deep: float, seed: int, decoding: int
) -> None:
    noise = random.Random(seed)
    exact = machine(base, token, deep)
    pace = Pace(TARGET, 512)
    _, seconds = prefill(pace, lambda *step: exact(*step) * noise.uniform(0.9, 1.15), 2000, decoding=decoding)
    least = exact(FEWEST, decoding, 2000)
    assert max(seconds[5:-1], default=0) <= max(1.5 * TARGET, 1.2 * least)


@pytest.mark.parametrize("most", [1, 3, 16])
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 5000), st.floats(0, 100)), max_size=30))
def test_whatever_it_was_told_it_allows_something_within_bounds(most: int, told: list[tuple[int, int, float]]) -> None:
    pace = Pace(TARGET, most)
    for step in told:
        pace.measured(*step)
        assert 1 <= pace.budget(step[1]) <= most
