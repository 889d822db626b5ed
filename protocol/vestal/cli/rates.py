"""How fast the daemon is: what lies between two looks at its counters. Pure; times are passed in.

Output tokens are counted by the daemon when a request ends, and by the queue while it runs; their sum grows evenly.
Of a histogram the mean between two looks is taken. Nothing that was not observed in between is made up: it is None.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from vestal import messages as m

__all__ = ["Look", "Pace", "Rates", "samples"]

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_OUTPUT = "vestal_tokens_total"
_FIRST = "vestal_first_token_seconds"
_GAP = "vestal_token_gap_seconds"
_WINDOW = 5.0  # seconds that a rate looks back


class Pace(Struct, frozen=True):
    """What one backend, or all of them, did lately: tokens a second, and mean times in seconds."""

    tokens: float | None = None
    first_token: float | None = None
    gap: float | None = None


class Look(Struct, frozen=True):
    """The counters at one moment, by backend. A histogram is its sum and its count."""

    at: float
    tokens: Mapping[str, float]
    first_token: Mapping[str, tuple[float, float]]
    gap: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, at: float, metrics: str, queue: Iterable[m.QueueEntry]) -> Look:
        """From what `metrics` and `queue` answered at about the same moment."""
        tokens: dict[str, float] = {}
        times: dict[str, dict[str, tuple[float, float]]] = {_FIRST: {}, _GAP: {}}
        for name, labels, value in samples(metrics):
            backend = labels.get("backend", "")
            if name == _OUTPUT and labels.get("kind") == "output":
                tokens[backend] = tokens.get(backend, 0.0) + value
            base, _, part = name.rpartition("_")
            if base in times and part in ("sum", "count"):
                total, count = times[base].get(backend, (0.0, 0.0))
                times[base][backend] = (total + value, count) if part == "sum" else (total, count + value)
        for entry in queue:
            tokens[entry.backend] = tokens.get(entry.backend, 0.0) + entry.output_tokens
        return cls(at, tokens, times[_FIRST], times[_GAP])


class Rates:
    """The looks of the last seconds, and what they amount to."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()

    def add(self, look: Look) -> None:
        """The latest look."""
        self._looks.append(look)
        while len(self._looks) > 2 and self._looks[1].at <= look.at - _WINDOW:
            self._looks.popleft()

    def clear(self) -> None:
        """Begin anew: another daemon counts from nought."""
        self._looks.clear()

    def pace(self, backend: str | None = None) -> Pace:
        """Of one backend, or of all together."""
        if len(self._looks) < 2 or (seconds := self._looks[-1].at - self._looks[0].at) <= 0:
            return Pace()
        first, last = self._looks[0], self._looks[-1]
        tokens = _of(last.tokens, backend) - _of(first.tokens, backend)
        return Pace(
            max(tokens, 0.0) / seconds,
            _mean(first.first_token, last.first_token, backend),
            _mean(first.gap, last.gap, backend),
        )

    def __repr__(self) -> str:
        return f"<Rates looks={len(self._looks)} {self.pace()}>"


def _of(values: Mapping[str, float], backend: str | None) -> float:
    return sum(values.values()) if backend is None else values.get(backend, 0.0)


def _mean(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]], backend: str | None
) -> float | None:
    names = after if backend is None else (backend,)
    total = count = 0.0
    for name in names:
        now, then = after.get(name, (0.0, 0.0)), before.get(name, (0.0, 0.0))
        total += now[0] - then[0]
        count += now[1] - then[1]
    return total / count if count > 0 else None


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each line of Prometheus' text format; what is no sample is passed over."""
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        yield match[1], dict(_LABEL.findall(match[2] or "")), value
