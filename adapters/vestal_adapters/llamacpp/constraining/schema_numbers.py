"""Numbers between two bounds, as GBNF. Pure.

Exact for integers. For numbers the bounds must be whole and below 10^9, and what is written has at most six
digits behind the point, so that it is at most fifteen in all: no reader that uses doubles can round it across a
bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor

__all__ = ["MAX_BOUND", "BoundError", "Bounds", "bounds_of", "integers", "numbers"]

MAX_BOUND = 10**9
MAX_INTEGER = 10**18 - 1


class BoundError(ValueError):
    """`keyword` is a bound that cannot be enforced."""

    def __init__(self, keyword: str, reason: str) -> None:
        super().__init__(reason)
        self.keyword = keyword


@dataclass(frozen=True, slots=True)
class Bounds:
    """`None` is no bound; `low_open` and `high_open` say that the bound itself is outside."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False


def bounds_of(schema: Mapping[str, object]) -> Bounds:
    """What the four keywords say together."""
    low, low_open = _tighter(_number(schema, "minimum"), _number(schema, "exclusiveMinimum"), max)
    high, high_open = _tighter(_number(schema, "maximum"), _number(schema, "exclusiveMaximum"), min)
    return Bounds(low, high, low_open, high_open)


def integers(bounds: Bounds) -> str | None:
    """A GBNF alternative for the integers within bounds; `None` if there is none. At least one bound is given."""
    low, high = _whole(bounds)
    parts = []
    if low < 0:
        parts.append(f'"-" ({_digits(max(1, -high) if high < 0 else 1, -low)})')
    if high >= 0 and low <= high:
        parts.append(_digits(max(low, 0), high))
    return " | ".join(parts) if low <= high else None


def numbers(bounds: Bounds) -> str | None:
    """The same for numbers; `BoundError` where a bound is not whole or too large."""
    low, high = _limit(bounds.low, -MAX_BOUND, "minimum"), _limit(bounds.high, MAX_BOUND, "maximum")
    if low > high or (low == high and (bounds.low_open or bounds.high_open)):
        return None
    parts = []
    if low < 0:
        near, near_open = (-high, bounds.high_open) if high < 0 else (0, high == 0 and bounds.high_open)
        parts += [f'"-" ({part})' for part in _magnitudes(near, -low, near_open, bounds.low_open)]
    if high > 0 or (high == 0 and not bounds.high_open):
        parts += _magnitudes(max(low, 0), high, bounds.low_open and low >= 0, bounds.high_open)
    return " | ".join(parts)


def _magnitudes(low: int, high: int, low_open: bool, high_open: bool) -> list[str]:
    """The numbers from `low` to `high`, neither negative, without their sign."""
    parts = []
    first = low
    if low_open and low < high:
        parts.append(f'"{low}." [0-9]{{0,5}} [1-9]')
        first = low + 1
    if first < high:
        parts.append(f'({_digits(first, high - 1)}) ("." [0-9]{{1,6}})?')
    if not high_open and (low < high or not low_open):
        parts.append(f'"{high}" (".0")?')
    return parts


def _digits(low: int, high: int) -> str:
    """The integers from `low` to `high`, neither negative, as alternatives of digits."""
    parts: list[str] = []
    start = low
    while start <= high:
        end = min(high, 10 ** len(str(start)) - 1)  # of the same length
        parts += _same_length(str(start), str(end))
        start = end + 1
    return " | ".join(parts)


def _same_length(low: str, high: str) -> list[str]:
    if not low:
        return ['""']
    rest = len(low) - 1
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return [f"[{low[0]}-{high[0]}]" + (f" [0-9]{{{rest}}}" if rest else "")]
    if low[0] == high[0]:
        return [f'"{low[0]}" ({" | ".join(_same_length(low[1:], high[1:]))})']
    parts = [f'"{low[0]}" ({" | ".join(_same_length(low[1:], "9" * rest))})']
    if int(low[0]) + 1 < int(high[0]):
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{rest}}}")
    return [*parts, f'"{high[0]}" ({" | ".join(_same_length("0" * rest, high[1:]))})']


def _whole(bounds: Bounds) -> tuple[int, int]:
    low = -MAX_INTEGER if bounds.low is None else ceil(bounds.low)
    high = MAX_INTEGER if bounds.high is None else floor(bounds.high)
    if bounds.low_open and low == bounds.low:
        low += 1
    if bounds.high_open and high == bounds.high:
        high -= 1
    for keyword, value in (("minimum", low), ("maximum", high)):
        if abs(value) > MAX_INTEGER:
            raise BoundError(keyword, "integers here have at most 18 digits")
    return low, high


def _limit(value: float | None, otherwise: int, keyword: str) -> int:
    if value is None:
        return otherwise
    if value != int(value) or abs(value) > MAX_BOUND:
        raise BoundError(keyword, "only whole bounds of numbers, at most 10^9, can be enforced")
    return int(value)


def _number(schema: Mapping[str, object], keyword: str) -> float | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BoundError(keyword, "expected a number")
    return value


def _tighter(closed: float | None, opened: float | None, pick: object) -> tuple[float | None, bool]:
    if opened is None:
        return closed, False
    if closed is None:
        return opened, True
    inside = opened >= closed if pick is max else opened <= closed
    return (opened, True) if inside else (closed, False)
