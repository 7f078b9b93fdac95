"""The histogram of one reward model's scores, in the report's style."""

from __future__ import annotations

import matplotlib
import numpy as np
from numpy.typing import ArrayLike

from tgo.pipeline.page.plots import LIGHT, STYLE, WIDE, bin_edges, panel, to_svg


def histogram(scores: ArrayLike, unit: str, median: float) -> str:
    """Scores ``[N]``, N > 0, with their median; themed SVG text."""
    values = np.asarray(scores, dtype=np.float64)
    edges = bin_edges(values)
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(WIDE)
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts, edges, fill=True, color=LIGHT["tuned"], alpha=0.5, linewidth=0)
        axes.stairs(counts, edges, color=LIGHT["tuned"], linewidth=1.2)
        axes.axvline(median, color=LIGHT["ink"], linewidth=1.2)
        axes.margins(y=0)
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.22)
        right = median > (edges[0] + edges[-1]) / 2
        axes.annotate(
            "median",
            (median, top * 1.11),
            xytext=(-5 if right else 5, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            color=LIGHT["ink"],
        )
        axes.set_xlabel(unit)
        axes.set_ylabel("images")
        return to_svg(
            figure,
            f"Histogram of {values.size} scores from {values.min():.3g} to {values.max():.3g}, "
            f"median {median:.3g}.",
        )
