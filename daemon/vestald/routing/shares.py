"""How the texts of one request are divided among the backends that take part in it. Pure.

In proportion to what each computes in one go, by largest remainder (Hamilton's method of apportionment): nobody is
further than one text from the exact quota. A quota above a backend's limit is cut to it, and the others divide what
is left in the same way. Equal remainders go to the earlier one, so the same request is always divided the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

__all__ = ["Share", "Taker", "divide"]


class Taker(Struct, frozen=True):
    """One backend: `weight` in texts that it computes in one go, `limit` the most texts of one request."""

    weight: int
    limit: int | None = None


class Share(Struct, frozen=True):
    """Texts `start` to `stop` (not included) are for taker number `taker`."""

    taker: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start


def divide(count: int, takers: Sequence[Taker]) -> list[Share]:
    """The shares in the order of the texts, which is that of the takers; who would get no text has no share.

    Raises `ValueError` if `count` texts are more than all limits together allow.
    """
    given = _within_limits(count, takers)
    shares, start = [], 0
    for number, share in enumerate(given):
        if share:
            shares.append(Share(number, start, start + share))
            start += share
    return shares


def _within_limits(count: int, takers: Sequence[Taker]) -> list[int]:
    """Texts by taker. A limit that binds is a share; taking it out raises the quotas of the others, so look again."""
    given = [0] * len(takers)
    free, left = dict(enumerate(takers)), count
    while full := _over_limit(left, free):
        for number, limit in full.items():
            given[number] = limit
            left -= limit
            del free[number]
    if left and not free:
        raise ValueError(f"{count} texts are {left} more than {len(takers)} backends take together")
    for number, share in _by_remainder(left, {number: taker.weight for number, taker in free.items()}).items():
        given[number] = share
    return given


def _over_limit(count: int, takers: dict[int, Taker]) -> dict[int, int]:
    """The limits of those whose quota is beyond theirs."""
    total = sum(taker.weight for taker in takers.values())
    return {
        number: taker.limit
        for number, taker in takers.items()
        if taker.limit is not None and count * taker.weight > taker.limit * total
    }


def _by_remainder(count: int, weights: dict[int, int]) -> dict[int, int]:
    """Whole quotas, and one more for the largest remainders until all are given.

    As many have a remainder as get one more, at the least: no quota that is whole, such as a limit, is exceeded.
    """
    total = sum(weights.values())
    quotas = {number: divmod(count * weight, total) for number, weight in weights.items()}
    missing = count - sum(whole for whole, _ in quotas.values())
    ahead = sorted(quotas, key=lambda number: (-quotas[number][1], number))[:missing]
    return {number: whole + (number in ahead) for number, (whole, _) in quotas.items()}
