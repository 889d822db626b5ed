"""How fast a backend is and how much is asked of it, learned from the requests that have ended. Pure.

A `Pace` holds what one slot of a lane was measured to do: seconds per token read (until the first piece came out),
seconds per token made, and how many tokens answers have. Each is a ratio of sums in which a request counts a fifth
less with each that follows, so one odd request moves it little and a change of load is learned within ten.

An answer that was cut at its limit says only that it would have been longer: its tokens count, its end does not. That
is the maximum-likelihood mean of a memoryless length seen up to a limit.
"""

from __future__ import annotations

import math

from msgspec import Struct

__all__ = ["OUTPUT_GUESS", "Pace", "Spent"]

OUTPUT_GUESS = 256.0  # tokens of an answer, where nothing bounds it and none has been seen
_KEEP = 0.8  # what is left of a request's weight when the next one has ended


class Spent(Struct, frozen=True):
    """One finished request's time in its slot."""

    read: float  # tokens of the prompt that were not cached
    reading: float  # seconds from the start to the first token
    made: float  # tokens of output
    making: float  # seconds from the first token to the end
    own_end: bool = True  # whether it came to its own end, and not to a limit


class _Ratio:
    """Sums that fade; `value` is their quotient, None before anything was seen."""

    def __init__(self) -> None:
        self._over = self._under = 0.0

    def add(self, over: float, under: float) -> None:
        self._over = _KEEP * self._over + over
        self._under = _KEEP * self._under + under

    @property
    def value(self) -> float | None:
        return self._over / self._under if self._under else None


class Pace:
    """What a lane's requests have cost lately."""

    def __init__(self) -> None:
        self._reading = _Ratio()  # seconds a token
        self._making = _Ratio()  # seconds a token
        self._answer = _Ratio()  # tokens an answer that came to its own end
        self._holding = _Ratio()  # seconds a request

    def learn(self, held: float, spent: Spent | None) -> None:
        """A request has left the slot it `held` so many seconds; one that failed has spent nothing that teaches."""
        self._holding.add(held, 1.0)
        if spent is None:
            return
        if spent.read:
            self._reading.add(spent.reading, spent.read)
        if spent.made:
            self._answer.add(spent.made, float(spent.own_end))
            self._making.add(spent.making, spent.made)

    def expected_output(self, most: int | None) -> float:
        """Tokens an answer of at most `most` is taken to have: the mean of a memoryless length, cut there."""
        usual = self._answer.value
        if usual is None:
            return OUTPUT_GUESS if most is None else float(most)
        return usual if most is None else usual * -math.expm1(-most / usual)

    @property
    def mean(self) -> float | None:
        """Seconds that a request holds its slot."""
        return self._holding.value

    def service(self, cost: float, output: float, requests: int = 1) -> float | None:
        """Seconds that requests of `cost` tokens together, `output` of them made, hold a slot one after another.

        None: nothing is known.
        """
        reading, making = self._reading.value, self._making.value
        if reading is None and making is None:
            return None if self.mean is None else requests * self.mean
        return (reading or 0.0) * (cost - output) + (making or 0.0) * output

    def __repr__(self) -> str:
        reading, making = self._reading.value, self._making.value
        return f"<Pace {_rate(reading)} tokens/s read, {_rate(making)} tokens/s made>"


def _rate(seconds: float | None) -> str:
    return "?" if not seconds else f"{1 / seconds:.0f}"
