"""Line charts as inline SVG, drawn by matplotlib in the colors of the page around it, light or dark."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # building its cache is no news of a run

SIZE = (4.4, 1.96)
"""Width and height of a chart, in inches of 72 units of its SVG."""
AXES = (0.12, 0.17, 0.5, 0.74)
"""Left, bottom, width and height of the axes, as shares of the chart; to their right stand the names of the lines."""
POINTS = 300
"""Points of a drawn line. A longer one is drawn as means, over a band from the lowest to the highest value."""
COLORS = {"#000001": "--quiet", "#000002": "--rule", "#000003": "--c0", "#000004": "--c1", "#000005": "--c2"}
"""What a color that matplotlib draws becomes: a variable of the page's style sheet. Text and reference lines, grid, and
up to three lines."""
TEXT, GRID, *LINES = COLORS
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.useoffset": False,
    "path.simplify_threshold": 0.5,
    "text.parse_math": False,
}
STYLE = """
svg.chart { width: 100%; height: auto; display: block; }
.chart text { font-family: system-ui, sans-serif !important; }
"""
"""Style sheet of the charts, for the page, which defines the variables of COLORS too."""


class Series(NamedTuple):
    """One line of a chart."""

    label: str
    points: Sequence[tuple[float, float]]
    """Epoch and value, ascending by epoch; the line has a gap where the value is not finite."""


def line_chart(
    title: str, series: Sequence[Series], reference: tuple[str, float] | None = None, from_zero: bool = False
) -> str:
    """Draw up to three lines over one axis, each named with its last value; `reference` is a named horizontal line,
    `from_zero` lets the axis begin at 0.

    Returns an `<svg>` element, or "" if no value is finite.
    """
    import matplotlib
    from matplotlib.figure import Figure  # takes a second: only a process that draws imports it

    drawn = [(one.label, thinned(one.points)) for one in series]
    drawn = [(label, points) for label, points in drawn if np.isfinite(points[:, 1]).any()]
    if not drawn:
        return ""
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": title}):
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes(AXES)
        for color, (label, points) in zip(LINES, drawn, strict=False):
            epochs, means, low, high = points.T
            name = f"{label} {number(means[np.isfinite(means)][-1])}".strip()
            axes.plot(epochs, means, color=color, linewidth=1.3, label=name)
            if (high > low).any():
                axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
            finite = np.pad(np.isfinite(means), 1)
            alone = finite[1:-1] & ~finite[:-2] & ~finite[2:]
            axes.plot(epochs[alone], means[alone], ".", color=color, markersize=3, clip_on=False)
        if reference:
            axes.axhline(reference[1], color=TEXT, linewidth=0.7, linestyle="--", label=reference[0])
        axes.set_xlim(0, max(points[-1, 0] for _, points in drawn) or 1)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        axes.tick_params(colors=TEXT, length=0)
        axes.locator_params(nbins=5)
        axes.spines[:].set_visible(False)
        axes.yaxis.get_offset_text().set_color(TEXT)
        axes.legend(
            loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, labelcolor="linecolor", handlelength=1
        )
        figure.text(AXES[0] + AXES[2] + 0.05, 0.08, "epoch", color=TEXT)
        svg = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    return inline(svg.getvalue(), title)


def inline(svg: str, title: str) -> str:
    """Turn an SVG file of matplotlib's into an inline element: the page's colors, no style sheet, ids of its own."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-z0-9.]+_\d+"', "", svg)
    for color, variable in COLORS.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{escape(title)}"', 1)


def thinned(points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Epoch, mean, lowest and highest value [n, 4] of at most POINTS groups of neighbors, NaN for a group with a value
    that is not finite."""
    epochs, values = np.asarray(points, np.float64).reshape(-1, 2).T
    values = np.where(np.isfinite(values), values, np.nan)
    each = max(math.ceil(len(values) / POINTS), 1)
    starts = np.arange(0, len(values), each)
    ends = np.minimum(starts + each, len(values))
    sums, low, high = (operation.reduceat(values, starts) for operation in (np.add, np.minimum, np.maximum))
    return np.stack([epochs[ends - 1], sums / (ends - starts), low, high], axis=1)


def number(value: float) -> str:
    """A value in few characters: 0.1, 12.5, 3,000, 5e-05."""
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"
