"""The score distribution with the threshold in it, as the CSV file that DVC plots.

Drawn by `.dvc/plots/score_distribution.json`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.storage.atomic import replacing

BINS = 60
FIELDS = ("score", "from", "to", "count", "label", "threshold")


Chunk = tuple[NDArray[np.float32], NDArray[np.int8]]


def write(path: Path, chunks: Callable[[], Iterable[Chunk]], threshold: float) -> None:
    """Write one line a bin and label: bin centre, its edges, the count.

    `chunks` gives the same scores and labels (1 or 0), [n] each, every time it is called. A
    global threshold is the edge between two bins, so a bin has one label (but for ties); with a
    threshold per group the two classes overlap.
    """
    ends = [(float(scores.min()), float(scores.max())) for scores, _ in chunks() if len(scores)]
    edges = bin_edges(min(low for low, _ in ends), max(high for _, high in ends), threshold)
    counts = np.zeros((2, len(edges) - 1), np.int64)
    for scores, labels in chunks():
        for value in (0, 1):
            chosen = scores[labels == value].astype(np.float64)
            counts[value] += np.histogram(chosen, edges)[0]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for value, name in ((0, "negative"), (1, "positive")):
        for low, high, count in zip(edges[:-1], edges[1:], counts[value], strict=True):
            if count:
                places = (f"{place:.12g}" for place in ((low + high) / 2, low, high))
                writer.writerow([*places, count, name, f"{threshold:.12g}"])
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def bin_edges(low: float, high: float, threshold: float) -> NDArray[np.float64]:
    """Edges, float64, of about `BINS` equal bins, one of them at the threshold.

    They reach from the lowest to the highest score, or to the threshold where that lies outside.
    """
    low, high = min(low, threshold), max(high, threshold)
    width = (high - low) / BINS
    if threshold + width == threshold:  # all equal, or further apart than float64 can count
        width = max(abs(threshold), 1.0) / BINS
    # one bin more than needed on either side: a rounded outer edge must lose no score
    below, above = (math.ceil(way / width) + 1 for way in (threshold - low, high - threshold))
    return threshold + width * np.arange(-below, above + 1, dtype=np.float64)
