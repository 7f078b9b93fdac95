"""The score distribution with the threshold in it, as the CSV file that DVC plots.

Drawn by `.dvc/plots/score_distribution.json`.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import replacing

BINS = 60
FIELDS = ("score", "from", "to", "count", "label", "threshold")


def write(
    path: Path, scores: NDArray[np.float32], labels: NDArray[np.int8], threshold: float
) -> None:
    """Write one line a bin and label: bin centre, its edges, the count; scores and labels [n].

    The threshold is the edge between two bins, so a bin has one label (but for ties).
    """
    edges = bin_edges(scores, threshold)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for value, name in ((0, "negative"), (1, "positive")):
        counts, _ = np.histogram(scores[labels == value].astype(np.float64), edges)
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
            if count:
                places = (f"{place:.12g}" for place in ((low + high) / 2, low, high))
                writer.writerow([*places, count, name, f"{threshold:.12g}"])
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def bin_edges(scores: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """About `BINS` equal bins over all scores, with an edge at the threshold; float64."""
    low, high = float(scores.min()), float(scores.max())
    width = (high - low) / BINS
    if threshold + width == threshold:  # all equal, or further apart than float64 can count
        width = max(abs(threshold), 1.0) / BINS
    # one bin more than needed on either side: a rounded outer edge must lose no score
    below, above = (math.ceil(way / width) + 1 for way in (threshold - low, high - threshold))
    return threshold + width * np.arange(-below, above + 1, dtype=np.float64)
