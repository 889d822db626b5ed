"""How many prompt tokens a step beside answers may take, from how long such steps took. Pure: times are passed in.

What a prompt token costs depends on the machine, its other load, the model, how many answers run beside it and how
much context it looks back on (SmolLM2 135M on two cores: 5 ms at the beginning, 12 ms after 3,200 tokens). So no
model of the cost is assumed. Seconds per prompt token of a whole step are tracked, apart for each doubling of the
context, and the budget is what fits the target at that cost. With a cost of a + b·n seconds the estimate meets the
target from either side without overshooting.

One outlier counts for at most a halving, and is forgotten after two or three steps. A step with much fewer tokens
than allowed, such as the end of a prompt, says little about a full one and is learnt from only if it was too slow.

Steps without answers in them are none of its business: they take a full batch always, because what is in a batch
changes the last bits of its results, and a prompt on an idle engine is to give the same answer every time.
"""

from __future__ import annotations

__all__ = ["FEWEST", "Pace"]

FEWEST = 4
"""Tokens that a step takes even where that is too slow: a prompt has to get done."""
FIRST = 8
"""Tokens of the first step, before anything is known."""
_AIM = 0.95
"""Part of the target that is aimed at: what is measured scatters around it."""
_SLOWER, _FASTER = 2.7, 0.5
"""At most this much of a change is believed at once."""
_TICK = 1e-6
_BUCKET = 512  # tokens of context


class Pace:
    """Keeps steps at `target` seconds while answers run. At most `most` tokens."""

    def __init__(self, target: float, most: int) -> None:
        self._aim = _AIM * target
        self._most = most
        self._costs: dict[int, float] = {}  # seconds per prompt token, by level of context

    def __repr__(self) -> str:
        return f"<Pace of {self._aim * 1000:.0f} ms: {self.budget(0)} prompt tokens a step>"

    def budget(self, depth: int) -> int:
        """Prompt tokens for a step beside answers, for prompts of which `depth` tokens are computed."""
        cost = self._cost(_level(depth))
        wanted = FIRST if cost is None else max(round(min(self._aim / cost, self._most)), FEWEST)
        return min(wanted, self._most)

    def measured(self, prompt: int, depth: int, seconds: float) -> None:
        """A step beside answers took `seconds` for that many prompt tokens. Without any there is nothing to learn."""
        if prompt <= 0:
            return
        level, observed = _level(depth), max(seconds, _TICK) / prompt
        known = self._cost(level)
        if known is None:
            self._costs[level] = observed
        elif 2 * prompt >= self.budget(depth) or seconds > self._aim:
            ratio = min(max(observed / known, _FASTER), _SLOWER)
            self._costs[level] = known * ratio ** (0.7 if ratio > 1 else 0.5)  # late is worse than early

    def _cost(self, level: int) -> float | None:
        """The cost there, else the nearest known at less context, else at more."""
        if level in self._costs:
            return self._costs[level]
        nearest = min(self._costs, key=lambda other: (other > level, abs(other - level)), default=None)
        return None if nearest is None else self._costs[nearest]


def _level(depth: int) -> int:
    return (depth // _BUCKET).bit_length()
