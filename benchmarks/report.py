"""A benchmark's outcome: a figure, what it is compared with, and their ratio, pair by pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Row", "table"]


@dataclass(frozen=True)
class Row:
    """Medians over the rounds; `ratio` is the median of the pairs' ratios, with the lowest and highest."""

    name: str
    unit: str
    ours: float
    theirs: float
    against: str
    ratio: float
    low: float
    high: float
    target: str

    @classmethod
    def of(cls, name: str, unit: str, pairs: Sequence[tuple[float, float]], against: str, *, target: str = "") -> Row:
        """From (ours, theirs) of each round."""
        ratios = [ours / theirs for ours, theirs in pairs]
        return cls(
            name,
            unit,
            median(ours for ours, _ in pairs),
            median(theirs for _, theirs in pairs),
            against,
            median(ratios),
            min(ratios),
            max(ratios),
            target,
        )


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| what | ours | compared with | ratio (lowest to highest) | target |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | {_number(r.ours)} {r.unit} | {r.against}: {_number(r.theirs)} "
        f"| {r.ratio:.2f} ({r.low:.2f} to {r.high:.2f}) | {r.target} |"
        for r in rows
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
