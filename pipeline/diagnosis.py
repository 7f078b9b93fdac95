"""How far a threshold can be trusted: its bootstrap interval, and what the scores vary with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.threshold import rank

REPLICATES = 1000
_CELLS = 4_000_000  # counts held at once while bootstrapping: bounds memory at 32 MB


def threshold_interval(
    scores: NDArray[np.float32], groups: NDArray[np.int64], percentile: float, *, seed: int
) -> tuple[float, float]:
    """95 % bootstrap interval of a percentile, prompts resampled whole.

    Scores of one prompt are not independent, so prompts (`groups`, [n] numbers from 0) are what
    is drawn. Every replicate's threshold is an exact order statistic, and so are the ends.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(scores, kind="stable")
    ranked, owner = scores[order], groups[order]
    count = int(groups.max()) + 1
    share = np.full(count, 1 / count)
    found: list[np.ndarray] = []
    step = max(_CELLS // len(scores), 1)
    for start in range(0, REPLICATES, step):
        drawn = generator.multinomial(count, share, size=min(step, REPLICATES - start))
        until = np.cumsum(drawn[:, owner], axis=1)
        wanted = np.array([rank(int(total), percentile) for total in until[:, -1]])
        found.append(ranked[(until >= wanted[:, None]).argmax(axis=1)])
    thresholds = np.sort(np.concatenate(found))
    low, high = (thresholds[rank(REPLICATES, end) - 1] for end in (2.5, 97.5))
    return float(low), float(high)


def between_group_share(scores: NDArray[np.float32], groups: NDArray[np.int64]) -> float | None:
    """Share of the score variance that lies between prompts; None where it cannot be told.

    The one-way analysis of variance estimate for unequal group sizes (Searle, Casella and
    McCulloch, Variance Components, 1992): var_between = (MSB - MSW) / n0, not below 0. Needs two
    prompts and a prompt with two images; None also if all scores are equal.
    """
    sizes = np.bincount(groups)
    sizes = sizes[sizes > 0]
    rows, count = len(scores), len(sizes)
    if count < 2 or rows == count:
        return None
    values = scores.astype(np.float64) - scores.mean(dtype=np.float64)
    _, numbers = np.unique(groups, return_inverse=True)
    means = np.bincount(numbers, values) / sizes
    between = float((sizes * means**2).sum()) / (count - 1)
    within = float(((values - means[numbers]) ** 2).sum()) / (rows - count)
    typical_size = (rows - float((sizes**2).sum()) / rows) / (count - 1)
    variance_between = max((between - within) / typical_size, 0.0)
    total = variance_between + within
    return variance_between / total if total > 0 else None
