"""docs/admission.svg and the numbers of docs/admission.md, from workloads on a clock of their own: `make plots`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from statistics import median, quantiles

from benchmarks.plot import Panel, Series, together
from benchmarks.workload import Asked, Outcome, play
from vestal.values import Priority

__all__ = ["PICTURE", "classes", "eta_errors", "picture", "shares"]

PICTURE = Path(__file__).parents[1] / "docs" / "admission.svg"
_READS, _MAKES = 1000.0, 50.0  # tokens a second in one slot


def shares() -> list[Outcome]:
    """Two callers, always busy: one asks for 25 tokens at a time and is there from the start, the other comes after
    half a minute and asks for 400. Of the guesses on entry one is four times too high, the other as much too low."""
    small = [Asked(0.0, 1, read=5, made=20, guess=80) for _ in range(700)]
    large = [Asked(30.0, 2, read=80, made=320, guess=80) for _ in range(30)]
    return play([*small, *large], slots=2, reads=_READS, makes=_MAKES)


def classes() -> list[Outcome]:
    """One caller a class, each with more than can be served: interactive from 20 s on, normal from 10 s, batch from
    the start."""
    begins: tuple[tuple[Priority, float, int], ...] = (
        ("interactive", 20.0, 100),
        ("normal", 10.0, 40),
        ("batch", 0, 60),
    )
    asked = [
        Asked(begin, uid, read=50, made=50, priority=priority)
        for uid, (priority, begin, many) in enumerate(begins)
        for _ in range(many)
    ]
    return play(asked, slots=2, reads=_READS, makes=_MAKES)


def eta_errors(seed: int = 1, load: float = 0.9, spread: float = 0.7) -> tuple[list[float], list[float]]:
    """Seconds that requests waited, and by how much what they were told on entry was wrong.

    Eight callers, four slots, requests that come by chance at `load` of what can be served; answers of 150 tokens
    in the median, with a log-normal `spread` that nobody can know on entry.
    """
    random, at, asked = Random(seed), 0.0, []
    for _ in range(3000):
        made = min(2000.0, 150 * 2.718281828 ** random.gauss(0, spread))
        read = random.uniform(50, 1500)
        asked.append(Asked(at, random.randrange(8), read, made))
        mean = 775 / _READS + 150 * 2.718281828 ** (spread * spread / 2) / _MAKES
        at += random.expovariate(4 * load / mean)
    told = [outcome for outcome in play(asked, slots=4, reads=_READS, makes=_MAKES) if outcome.foretold is not None]
    waits = [outcome.started - outcome.asked.at for outcome in told]
    return waits, [outcome.started - (outcome.foretold or 0.0) for outcome in told]


def picture() -> str:
    """The SVG."""
    small_and_large = _sums(shares(), lambda asked: asked.uid, until=90.0)
    by_class = _sums(classes(), lambda asked: asked.priority, until=100.0)
    names = {"interactive": "interactive, from 20 s", "normal": "normal, from 10 s", "batch": "batch, from the start"}
    return together(
        "Who got how many tokens",
        [
            Panel(
                "Two callers: tokens served since both are there",
                "seconds",
                [
                    Series("asks for 25 at a time, from the start", _since(small_and_large[1], 30.0)),
                    Series("asks for 400 at a time, from 30 s on", _since(small_and_large[2], 30.0)),
                ],
            ),
            Panel("Three classes: tokens served", "seconds", [Series(names[name], by_class[name]) for name in names]),
        ],
    )


def _sums(
    outcomes: Iterable[Outcome], key: Callable[[Asked], int | str], until: float
) -> dict[int | str, list[tuple[float, float]]]:
    """Tokens of each key's requests that have ended, second by second."""
    sums: defaultdict[int | str, list[tuple[float, float]]] = defaultdict(list)
    ended = sorted(outcomes, key=lambda outcome: outcome.ended)
    for name in {key(outcome.asked) for outcome in ended}:
        mine = [outcome for outcome in ended if key(outcome.asked) == name]
        for second in range(int(until) + 1):
            served = sum(o.asked.read + o.asked.made for o in mine if o.ended <= second)
            sums[name].append((float(second), served))
    return dict(sums)


def _since(points: Sequence[tuple[float, float]], begin: float) -> list[tuple[float, float]]:
    base = dict(points)[begin]
    return [(x, max(0.0, y - base)) for x, y in points]


def _report() -> str:
    """The numbers of the document, as JSON."""
    numbers = {}
    for name, spread in (("answers alike", 0.2), ("answers that differ", 0.7)):
        waits, errors = eta_errors(spread=spread)
        sizes = [abs(error) for error in errors]
        numbers[name] = {
            "requests that waited": len(waits),
            "median wait, s": round(median(waits), 1),
            "median error, s": round(median(sizes), 1),
            "nine in ten within, s": round(quantiles(sizes, n=10)[-1], 1),
            "mean of signed error, s": round(sum(errors) / len(errors), 1),
        }
    return json.dumps(numbers, indent=2)


def main() -> None:
    PICTURE.write_text(picture())
    print(f"wrote {PICTURE.relative_to(PICTURE.parents[1])}\n{_report()}")


if __name__ == "__main__":
    main()
