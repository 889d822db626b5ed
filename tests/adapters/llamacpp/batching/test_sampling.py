"""Options to sampling stages."""

from __future__ import annotations

from typing import Any

import pytest

from vestal.values import GenerateOptions
from vestal_adapters.llamacpp.batching.sampling import (
    Draw,
    Greedy,
    MinP,
    Penalties,
    Stage,
    Temperature,
    TopK,
    TopP,
    random_seed,
    stages,
)


def chain(**options: Any) -> list[Stage]:
    return stages(GenerateOptions(**options))


def test_what_is_left_open_is_llama_cpps_default() -> None:
    assert chain(seed=1) == [TopK(40), TopP(0.95), MinP(0.05), Temperature(0.8), Draw(1)]


def test_what_is_given_is_taken() -> None:
    assert chain(seed=0, top_k=3, top_p=0.5, min_p=0.25, temperature=1.5) == [
        TopK(3), TopP(0.5), MinP(0.25), Temperature(1.5), Draw(0),
    ]  # fmt: skip


def test_temperature_zero_is_greedy_whatever_else_is_asked() -> None:
    assert chain(temperature=0, seed=5, top_k=3) == [Greedy()]


@pytest.mark.parametrize(
    ("options", "stage"),
    [
        ({"repeat_penalty": 1.3}, Penalties(1.3, 0.0, 0.0, 64)),
        ({"frequency_penalty": 0.5}, Penalties(1.0, 0.5, 0.0, 64)),
        ({"presence_penalty": -1.0}, Penalties(1.0, 0.0, -1.0, 64)),
    ],
)
def test_penalties_come_first_even_when_greedy(options: dict[str, float], stage: Penalties) -> None:
    assert chain(**options, temperature=0) == [stage, Greedy()]
    assert chain(**options)[0] == stage


def test_penalties_that_are_off_are_left_out() -> None:
    assert chain(repeat_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0, temperature=0) == [Greedy()]


def test_filters_that_are_off_are_left_out() -> None:
    assert chain(top_k=0, top_p=1.0, min_p=0.0, temperature=1.0, seed=2) == [Temperature(1.0), Draw(2)]


def test_without_a_seed_each_request_has_its_own() -> None:
    seeds = {stage.seed for _ in range(8) for stage in chain() if isinstance(stage, Draw)}
    assert len(seeds) > 1


def test_a_random_seed_is_never_the_one_that_llama_cpp_keeps_for_itself() -> None:
    assert all(0 <= random_seed() < 2**32 - 1 for _ in range(100))
