"""Line charts as inline SVG whose colors are those of the page around it, in its light and its dark form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 440, 196
LEFT, RIGHT, TOP, BOTTOM = 52, 136, 10, 30
"""Margins, in pixels; what the lines are called stands in the right one."""
POINTS = 300
"""Points of a drawn line: of more, means are drawn, over a band from the lowest to the highest."""
LABEL_HEIGHT = 14

STYLE = """
svg.chart { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
.chart text { fill: var(--quiet); }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .reference { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 4 3; }
.chart .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.chart .band { opacity: .18; }
""" + "\n".join(
    f".chart .line.c{n} {{ stroke: var(--c{n}); }} .chart .band.c{n} {{ fill: var(--c{n}); }} "
    f".chart text.c{n} {{ fill: var(--c{n}); }}"
    for n in range(3)
)
"""Style sheet of the charts; the page defines --quiet and --rule (grays) and --c0 to --c2 (lines)."""


class Series(NamedTuple):
    """One line: what is written at its end, and its points."""

    label: str
    points: list[tuple[float, float]]
    """Epoch and value, ascending by epoch; the line has a gap where the value is not finite."""


class Point(NamedTuple):
    """A drawn point: mean and range of the values that it stands for."""

    x: float
    mean: float
    low: float
    high: float


def line_chart(
    title: str, series: Sequence[Series], reference: tuple[str, float] | None = None, from_zero: bool = False
) -> str:
    """Draw up to three lines over one axis, each named at its end; `reference` is a named horizontal line,
    `from_zero` lets the axis begin at 0.

    Returns an `<svg>` element, or the empty string where no value is finite.
    """
    drawn = [(one.label, thinned(one.points)) for one in series]
    finite = [point for _, points in drawn for point in points if math.isfinite(point.mean)]
    if not finite:
        return ""
    levels = [0.0] * from_zero + ([reference[1]] if reference else [])
    x_low, x_high = 0.0, max(p.x for p in finite)
    y_ticks = ticks(min([p.low for p in finite] + levels), max([p.high for p in finite] + levels))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low or 1) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y)}" y2="{down(y)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(y) + 4}" text-anchor="end">{number(y)}</text>')
    for x in ticks(x_low, x_high):
        if x <= x_high:
            parts.append(f'<text x="{across(x)}" y="{HEIGHT - 8}" text-anchor="middle">{number(x)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT + 20}" y="{HEIGHT - 8}">epoch</text>')

    labels: list[tuple[float, str, str]] = []  # height, class, text
    if reference:
        level = down(reference[1])
        parts.append(f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>')
        labels.append((level, "", reference[0]))
    for index, (label, points) in enumerate(drawn):
        for run in unbroken(points):
            if any(p.low < p.high for p in run):
                edge = [(p.x, p.high) for p in run] + [(p.x, p.low) for p in reversed(run)]
                corners = " ".join(f"{across(x)},{down(y)}" for x, y in edge)
                parts.append(f'<polygon class="band c{index}" points="{corners}"/>')
            # A line of one point is drawn as a dot, by its round cap.
            path = " ".join(f"{across(p.x)},{down(p.mean)}" for p in (run if len(run) > 1 else run * 2))
            parts.append(f'<polyline class="line c{index}" points="{path}"/>')
        ends = [p for p in points if math.isfinite(p.mean)]
        if ends:
            labels.append((down(ends[-1].mean), f"c{index}", f"{label} {number(ends[-1].mean)}".strip()))
    for height, kind, text in spread(labels):
        parts.append(f'<text class="{kind}" x="{WIDTH - RIGHT + 8}" y="{height + 4:.1f}">{escape(text)}</text>')
    body = "\n".join(parts)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">\n{body}\n</svg>'


def thinned(points: Sequence[tuple[float, float]]) -> list[Point]:
    """At most about POINTS points, each for as many neighbors; not finite where one of these is not."""
    each = math.ceil(len(points) / POINTS)
    groups = [points[start : start + each] for start in range(0, len(points), each or 1)]
    return [
        Point(group[-1][0], sum(ys) / len(ys), min(ys), max(ys)) for group in groups for ys in [[y for _, y in group]]
    ]


def unbroken(points: Sequence[Point]) -> list[list[Point]]:
    """The stretches of points whose values are finite."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point.mean):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round values at even distances, from at most `low` to at least `high`."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def spread(labels: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Move labels (height, class, text) down, and all up again where they leave the chart, until none overlap."""
    placed: list[tuple[float, str, str]] = []
    for height, kind, text in sorted(labels):
        placed.append((max(height, placed[-1][0] + LABEL_HEIGHT) if placed else height, kind, text))
    over = max(placed[-1][0] - (HEIGHT - BOTTOM), 0.0)
    return [(height - over, kind, text) for height, kind, text in placed]


def number(value: float) -> str:
    """A value in few characters: 0.1, 12.5, 3,000, 5e-05."""
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.2g}"
