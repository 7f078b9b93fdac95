"""The report's charts: arrays in, themed SVG text out, the same bytes every time.

Charts are drawn by matplotlib in the colours of ``LIGHT``. Each colour stands for a role, and
``to_svg`` replaces it by a CSS variable of that role, so one drawing serves the light and the
dark theme, both inside the page (which sets the variables) and as a file (``standalone``).
Panels are small on purpose: at 330 pixels a chart keeps readable text on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from tgo.pipeline.templates.colours import DARK, LIGHT

PANEL = (3.3, 2.2)  # inches at 100 pixels an inch
WIDE = (4.4, 2.7)
MATRIX = (4.4, 2.7)


class ForestRow(NamedTuple):
    """A line of a forest plot: a change with its interval, and which way it went."""

    title: str
    value: float
    low: float
    high: float
    way: str


_STEPS = (1, 2, 2.5, 5, 10)  # ticks at round numbers
STYLE = {
    "svg.hashsalt": "tgo",  # ids from content, not from chance
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be read aloud
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout on every machine
    "font.size": 8.2,
    "figure.dpi": 100,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["rule"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def distribution(
    scores: ArrayLike,
    labels: ArrayLike,
    threshold: float,
    interval: tuple[float, float],
    unit: str,
) -> str:
    """Histogram of the feedback scores, with the threshold and its interval ``(low, high)``.

    It is split by label: scores ``[N]``, labels ``[N]`` (1, 0; -1 is left out).
    """
    values, marks = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    edges = bin_edges(values[marks >= 0], through=threshold)
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(WIDE)
        axes.hist(
            [values[marks == 0], values[marks == 1]],
            edges.tolist(),
            stacked=True,  # with thresholds per prompt the classes overlap
            color=[LIGHT["below"], LIGHT["tuned"]],
            alpha=0.75,
            edgecolor=LIGHT["surface"],
        )
        axes.axvspan(*interval, color=LIGHT["ink"], alpha=0.16, linewidth=0)
        axes.axvline(threshold, color=LIGHT["ink"], linewidth=1.2)
        _label_sides(axes, threshold, int((marks == 0).sum()), int((marks == 1).sum()))
        axes.set_xlabel(unit)
        axes.set_ylabel("images")
        return to_svg(
            figure,
            f"Histogram of {int((marks >= 0).sum())} scores. {int((marks == 1).sum())} lie on the "
            f"positive side of the threshold {threshold:.3f}, {int((marks == 0).sum())} on the "
            "negative side.",
        )


def forest(rows: Sequence[ForestRow], unit: str, ends: tuple[float, float]) -> str:
    """Changes with their intervals, one line each, on an axis from ``ends[0]`` to ``ends[1]``.

    A rise is a filled triangle that points up, a fall one that points down, the rest hollow.
    """
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure, axes = panel((PANEL[0], 0.62 + 0.26 * len(rows)))
        axes.axvline(0, color=LIGHT["muted"], linewidth=0.9)
        for place, row in enumerate(rows):
            colour = LIGHT[{"up": "tuned", "down": "below", "flat": "base"}[row.way]]
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=1.8)
            face = LIGHT["surface"] if row.way == "flat" else colour
            marker = {"up": "^", "down": "v", "flat": "o"}[row.way]
            axes.plot(row.value, place, marker, color=colour, markerfacecolor=face, markersize=5.5)
        axes.set_yticks(range(len(rows)), [row.title for row in rows], color=LIGHT["ink"])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        margin = 0.04 * (ends[1] - ends[0]) or 1.0
        axes.set_xlim(ends[0] - margin, ends[1] + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
        axes.set_xlabel(unit)
        told = "; ".join(
            f"{row.title} {row.value:+.2f}, {row.low:+.2f} to {row.high:+.2f}" for row in rows
        )
        return to_svg(figure, f"Changes with 95 % intervals: {told}.")


def differences(changes: ArrayLike, unit: str) -> str:
    """Histogram of what tuning changed in each pair ``[N]``: fallen, risen, and their mean."""
    values = np.asarray(changes, dtype=np.float64)
    edges = bin_edges(values, through=0.0)
    up, down = float((values > 0).mean()), float((values < 0).mean())
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(PANEL)
        axes.hist(
            [values[values < 0], values[values >= 0]],
            edges.tolist(),
            stacked=True,
            color=[LIGHT["below"], LIGHT["tuned"]],
            alpha=0.75,
            edgecolor=LIGHT["surface"],
        )
        axes.axvline(values.mean(), color=LIGHT["ink"], linewidth=1.2, linestyle="--")
        axes.margins(y=0)
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.24)
        for place, align, text, role in (
            (0.0, "left", f"{down:.0%} fell", "below"),
            (1.0, "right", f"{up:.0%} rose", "tuned"),
        ):
            axes.annotate(
                text,
                (place, 0.94),
                xycoords="axes fraction",
                ha=align,
                va="center",
                color=LIGHT[role],
            )
        axes.set_xlabel(f"change, {unit}")
        axes.set_ylabel("pairs")
        return to_svg(
            figure,
            f"Histogram of the changes in {values.size} pairs: {up:.0%} rose, {down:.0%} fell, "
            f"mean {values.mean():+.3g}.",
        )


def curves(
    steps: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    *,
    name: str,
    level: float | None = None,
    band: tuple[float, float] | None = None,
) -> str:
    """Training curves ``{label: values [L]}`` over the steps ``[L]``, at most two.

    ``level`` draws a reference line (chance, zero), ``band`` shades healthy values where the curve
    has an edge of them in view.
    """
    roles = ["tuned", "below"]
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(PANEL)
        if level is not None:
            axes.axhline(level, color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (2, 2)))
        last = [values[-1] for values in lines.values()]
        for role, (label, values) in zip(roles, lines.items(), strict=False):
            marker = "o" if len(steps) < 3 else None  # a short run still shows its points
            style = "-" if role == "tuned" else "--"
            axes.plot(steps, values, color=LIGHT[role], linestyle=style, marker=marker)
            if len(lines) > 1:
                axes.annotate(
                    label,
                    (steps[-1], values[-1]),
                    xytext=(5, 0),
                    textcoords="offset points",
                    color=LIGHT[role],
                    va="bottom" if values[-1] == max(last) else "top",
                )
        axes.set_xlabel("step")
        axes.margins(x=0.02, y=0.14)
        if band is not None:
            axes.autoscale_view()
            low, high = axes.get_ylim()
            edges = max(band[0], low), min(band[1], high)
            if edges[0] < edges[1]:
                axes.axhspan(*edges, color=LIGHT["tuned"], alpha=0.07, linewidth=0)
            axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=True))
        ends = "; ".join(
            f"{label} from {values[0]:.3g} to {values[-1]:.3g}" for label, values in lines.items()
        )
        return to_svg(figure, f"{name} over {steps[-1]} steps: {ends}.")


def correlation(matrix: ArrayLike, names: Sequence[str]) -> str:
    """Lower triangle of a correlation matrix ``[K, K]``, with names on the diagonal.

    The number is printed in every cell: colour (sign) and strength (size of r) only support it.
    """
    values, count = np.asarray(matrix, dtype=np.float64), len(names)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = panel(MATRIX)
        axes.set(xlim=(0, count), ylim=(count, 0))
        axes.axis("off")
        for row in range(count):
            axes.text(row + 0.5, row + 0.5, names[row], ha="center", va="center", size=8.2)
            for column in range(row):
                _cell(axes, row, column, values[row, column])
        pairs = ", ".join(
            f"{names[row]} and {names[column]} {values[row, column]:.2f}"
            for row in range(count)
            for column in range(row)
        )
        return to_svg(figure, f"Correlations: {pairs}.")


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element; ``description`` is what a screen reader says.

    Its colours are CSS variables, and its text takes the surrounding font.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # would repeat from chart to chart in one page
    svg = svg.replace(f" font-family: '{STYLE['font.family']}';", "")
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    for role, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{role})")
    head, body = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return f'{head} stroke-linejoin="round" role="img" aria-label="{escape(description)}">{body}\n'


def standalone(svg: str) -> str:
    """The same chart as a file of its own, which follows the viewer's light or dark theme."""
    light, dark = (
        "".join(f"--{role}:{colour};" for role, colour in theme.items()) for theme in (LIGHT, DARK)
    )
    style = (
        f"<style>svg{{{light}background:var(--surface);"
        "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
        f"@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    )
    head, body = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>{style}{body}'


def panel(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """An empty chart of `size` inches, with ticks at round numbers; use it inside `STYLE`."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    return figure, axes


def bin_edges(values: np.ndarray, through: float | None = None) -> np.ndarray:
    """Bin edges over the values; one of them falls on ``through``."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = int(np.clip(np.sqrt(values.size), 8, 40))
    width = (high - low) / bins
    if through is not None:
        high = max(high, through)
        low = through - np.ceil(max(through - low, 0) / width) * width
        bins = int(np.ceil((high - low) / width))
    return low + width * np.arange(bins + 1)


def _label_sides(axes: Axes, threshold: float, negative: int, positive: int) -> None:
    axes.margins(y=0)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.24)
    for count, text, align, shift, role in (
        (negative, "label 0", "right", -6, "below"),
        (positive, "label 1", "left", 6, "tuned"),
    ):
        axes.annotate(
            f"{text} · {count:,}",
            (threshold, top * 1.12),
            xytext=(shift, 0),
            textcoords="offset points",
            ha=align,
            va="center",
            color=LIGHT[role],
        )


def _cell(axes: Axes, row: int, column: int, value: float) -> None:
    role = "tuned" if value >= 0 else "below"
    axes.fill(
        [column + 0.03, column + 0.97, column + 0.97, column + 0.03],
        [row + 0.03, row + 0.03, row + 0.97, row + 0.97],
        color=LIGHT[role],
        alpha=0.06 + 0.5 * min(abs(value), 1.0) if np.isfinite(value) else 0.0,
        linewidth=0,
    )
    text = f"{value:+.2f}".replace("-", "−") if np.isfinite(value) else "n/a"
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=9)
