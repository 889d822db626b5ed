"""A small line chart as SVG, so that a benchmark needs no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["Panel", "Series", "draw", "together"]

_WIDTH, _HEIGHT, _MARGIN = 640, 260, 60
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a")


@dataclass(frozen=True)
class Series:
    """A named line of (x, y); each has a panel and a scale of its own."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Several lines that share their scales."""

    name: str
    x_name: str
    lines: Sequence[Series]


def together(title: str, panels: Sequence[Panel]) -> str:
    """A chart as SVG text: one panel above the other, with the lines of each in one picture and named beside it."""
    body = "".join(_shared(index, panel) for index, panel in enumerate(panels))
    return _page(title, len(panels), body)


def draw(path: Path, title: str, x_name: str, series: Sequence[Series]) -> None:
    """Write the chart: one panel a series, one above the other, with the same x axis."""
    panels = "".join(_panel(index, line, x_name) for index, line in enumerate(series))
    path.write_text(_page(title, len(series), panels))


def _page(title: str, panels: int, body: str) -> str:
    height = _MARGIN + panels * _HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="{_MARGIN}" y="28" font-size="16">{escape(title)}</text>\n{body}</svg>\n'
    )


def _shared(index: int, panel: Panel) -> str:
    top = _MARGIN + index * _HEIGHT
    bottom, right = top + _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    highest_x = max(x for line in panel.lines for x, _ in line.points)
    highest_y = max(y for line in panel.lines for _, y in line.points)
    parts = [
        f'<text x="{_MARGIN}" y="{top}">{escape(panel.name)}</text>\n'
        f'<path d="M{_MARGIN},{top + 12}V{bottom}H{right}" fill="none" stroke="#888"/>\n'
        f'<text x="{_MARGIN - 6}" y="{top + 24}" text-anchor="end">{highest_y:,.0f}</text>\n'
        f'<text x="{right}" y="{bottom + 17}" text-anchor="end">{highest_x:g}</text>\n'
        f'<text x="{_MARGIN}" y="{bottom + 17}">0</text>\n'
        f'<text x="{right}" y="{bottom + 36}" text-anchor="end" fill="#555">{escape(panel.x_name)}</text>\n'
    ]
    for number, line in enumerate(panel.lines):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(
            f"{_MARGIN + x / highest_x * (right - _MARGIN):.1f},{bottom - y / highest_y * (bottom - top - 20):.1f}"
            for x, y in line.points
        )
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>\n'
            f'<text x="{_MARGIN + 10}" y="{top + 30 + 17 * number}" fill="{colour}">{escape(line.name)}</text>\n'
        )
    return "".join(parts)


def _panel(index: int, line: Series, x_name: str) -> str:
    top, colour = _MARGIN + index * _HEIGHT, _COLOURS[index % len(_COLOURS)]
    bottom, right = top + _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    highest_x = max(x for x, _ in line.points)
    highest_y = max(y for _, y in line.points) * 1.15

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _MARGIN + x / highest_x * (right - _MARGIN),
            bottom - y / highest_y * (bottom - top - 20),
        )

    places = [place(x, y) for x, y in line.points]
    marks = "".join(
        f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>'
        f'<text x="{px:.1f}" y="{py - 9:.1f}" text-anchor="middle">{y:.3g}</text>'
        f'<text x="{px:.1f}" y="{bottom + 17}" text-anchor="middle">{x:g}</text>\n'
        for (px, py), (x, y) in zip(places, line.points, strict=True)
    )
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    return (
        f'<text x="{_MARGIN}" y="{top + 4}" fill="{colour}">{escape(line.name)}</text>\n'
        f'<path d="M{_MARGIN},{top + 12}V{bottom}H{right}" fill="none" stroke="#888"/>\n'
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>\n{marks}'
        f'<text x="{right}" y="{bottom + 36}" text-anchor="end" fill="#555">{escape(x_name)}</text>\n'
    )
