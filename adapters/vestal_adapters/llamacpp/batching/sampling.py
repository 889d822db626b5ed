"""From a request's options to the list of sampling stages, in llama.cpp's order. Pure: nothing native.

What a request leaves open is llama.cpp's own default, written here rather than inherited, so that an update
of the library cannot change answers unnoticed. llama.cpp's order is: penalties, top-k, top-p, min-p,
temperature, then the draw. At temperature 0 there is nothing to draw and the filters cannot change the
maximum, so penalties and argmax are all that is left.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

from vestal.values import GenerateOptions

__all__ = [
    "FREQUENCY_PENALTY",
    "MIN_P",
    "PENALTY_WINDOW",
    "PRESENCE_PENALTY",
    "REPEAT_PENALTY",
    "TEMPERATURE",
    "TOP_K",
    "TOP_P",
    "Draw",
    "Greedy",
    "MinP",
    "Penalties",
    "Stage",
    "Temperature",
    "TopK",
    "TopP",
    "random_seed",
    "stages",
]

_T = TypeVar("_T")

TEMPERATURE = 0.8
TOP_K = 40
TOP_P = 0.95
MIN_P = 0.05
REPEAT_PENALTY = 1.0
PRESENCE_PENALTY = 0.0
FREQUENCY_PENALTY = 0.0
PENALTY_WINDOW = 64
"""How many of the last tokens, the prompt's included, the three penalties look at."""


@dataclass(frozen=True, slots=True)
class Penalties:
    repeat: float
    frequency: float
    presence: float
    window: int = PENALTY_WINDOW


@dataclass(frozen=True, slots=True)
class TopK:
    k: int


@dataclass(frozen=True, slots=True)
class TopP:
    p: float


@dataclass(frozen=True, slots=True)
class MinP:
    p: float


@dataclass(frozen=True, slots=True)
class Temperature:
    t: float


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw from what is left; the same seed draws the same."""

    seed: int


@dataclass(frozen=True, slots=True)
class Greedy:
    """Take the likeliest."""


Stage = Penalties | TopK | TopP | MinP | Temperature | Draw | Greedy


def stages(options: GenerateOptions) -> list[Stage]:
    """The sampling stages of one request; the last one chooses the token."""
    chain = _penalties(options)
    temperature = _given(options.temperature, TEMPERATURE)
    if temperature == 0:
        return [*chain, Greedy()]
    return [*chain, *_filters(options), Temperature(temperature), Draw(_given(options.seed, random_seed()))]


def random_seed() -> int:
    """A seed nobody chose: 0 to 2**32 - 2, since llama.cpp keeps 2**32 - 1 for itself."""
    return int.from_bytes(os.urandom(8), "little") % (2**32 - 1)


def _penalties(options: GenerateOptions) -> list[Stage]:
    repeat = _given(options.repeat_penalty, REPEAT_PENALTY)
    frequency = _given(options.frequency_penalty, FREQUENCY_PENALTY)
    presence = _given(options.presence_penalty, PRESENCE_PENALTY)
    if (repeat, frequency, presence) == (1.0, 0.0, 0.0):
        return []
    return [Penalties(repeat, frequency, presence)]


def _filters(options: GenerateOptions) -> list[Stage]:
    """Those that are not off: top-k 0, top-p 1 and min-p 0 keep every candidate."""
    k, p, minimum = _given(options.top_k, TOP_K), _given(options.top_p, TOP_P), _given(options.min_p, MIN_P)
    filters: list[Stage] = []
    if k > 0:
        filters.append(TopK(k))
    if p < 1:
        filters.append(TopP(p))
    if minimum > 0:
        filters.append(MinP(minimum))
    return filters


def _given(value: _T | None, default: _T) -> _T:
    return default if value is None else value
