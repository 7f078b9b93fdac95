"""How far a threshold can be trusted: its bootstrap interval, and what the scores vary with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import acos, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.labelling.estimators import gathered
from tgo.pipeline.labelling.rule import labels
from tgo.pipeline.labelling.stats import mixtures
from tgo.pipeline.labelling.stats.quantiles import percentiles, rank
from tgo.pipeline.labelling.thresholds import shrunken

REPLICATES = 1000
_REPLICATES_OF_FITS = 200  # a mixture is fitted anew for every replicate
_RESAMPLES = 50
_CELLS = 4_000_000  # counts held at once while bootstrapping: bounds memory at 32 MB

Scores = NDArray[np.float32]
Groups = NDArray[np.int64]


def threshold_interval(
    scores: Scores, groups: Groups, rule: Label, *, seed: int, rows: int | None = None
) -> tuple[float, float]:
    """95 % bootstrap interval of the global threshold, prompts resampled whole.

    Scores of one prompt are not independent, so prompts (`groups`, [n] numbers from 0) are what
    is drawn; the ends are order statistics of the replicates. Where the scores are a sample of
    `rows` rows, deviations from the sample's own threshold are scaled by sqrt(n / rows) and set
    around it: intervals shrink with the root of the number of prompts.
    """
    if rule.estimator == "fixed":
        assert rule.value is not None
        return float(np.float32(rule.value)), float(np.float32(rule.value))
    order = np.argsort(scores, kind="stable")
    statistic = _statistic(scores[order], rule)
    owner = groups[order]
    count = int(groups.max()) + 1
    replicates = _REPLICATES_OF_FITS if rule.estimator == "mixture" else REPLICATES
    generator = np.random.default_rng(seed)
    share = np.full(count, 1 / count)
    found: list[NDArray[np.float64]] = []
    step = max(_CELLS // len(scores), 1)
    for start in range(0, replicates, step):
        times = generator.multinomial(count, share, size=min(step, replicates - start))
        found.append(statistic(times.astype(np.int32)[:, owner]))  # int32: half the memory to move
    thresholds = np.sort(np.concatenate(found))
    low, high = (float(thresholds[rank(replicates, end) - 1]) for end in (2.5, 97.5))
    if rows is None or rows <= len(scores):
        return float(np.float32(low)), float(np.float32(high))
    here = float(statistic(np.ones((1, len(scores)), np.int32))[0])
    scale = sqrt(len(scores) / rows)
    return tuple(float(np.float32(here + scale * (end - here))) for end in (low, high))  # type: ignore[return-value]


def between_group_share(scores: Scores, groups: Groups) -> float | None:
    """Share of the score variance that lies between groups; None where it cannot be estimated.

    The one-way analysis of variance estimate for unequal group sizes (Searle, Casella and
    McCulloch, Variance Components, 1992): var_between = (MSB - MSW) / n0, not below 0. Needs two
    groups and a group with two rows; None also if all scores are equal.
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


def disagreement(scores: Scores, groups: Groups, overall: float, rule: Label) -> float | None:
    """Share of rows that `rule`, applied per prompt, labels differently from `overall`.

    Prompts with one row are left out; None if there is no other.
    """
    several = np.bincount(groups)[groups] > 1
    if not several.any():
        return None
    scores, groups = scores[several], np.unique(groups[several], return_inverse=True)[1]
    own = gathered(scores, groups, int(groups.max()) + 1, rule).values[0][groups]
    everywhere = np.ones(len(scores), bool)
    differs = labels(scores, everywhere, own, rule.ties) != labels(
        scores, everywhere, overall, rule.ties
    )
    return float(differs.mean())


def resampled_flips(
    scores: Scores, groups: Groups, overall: Scores, rule: Label, *, seed: int
) -> float | None:
    """Share of labels that flip when every prompt's threshold comes from resampled images of it.

    The bootstrap for thresholds per prompt: images are drawn with replacement within prompts
    that have several; mean over redraws. None if no prompt has.
    """
    sizes = np.bincount(groups)
    if not (sizes > 1).any():
        return None
    order = np.argsort(groups, kind="stable")
    scores, groups = scores[order], groups[order]
    first = (np.cumsum(sizes) - sizes)[groups]
    everywhere = np.ones(len(scores), bool)

    def labelled(resampled: Scores) -> NDArray[np.int8]:
        own = shrunken(gathered(resampled, groups, len(sizes), rule), overall, rule.shrinkage)
        return labels(scores, everywhere, own[0][groups], rule.ties)

    generator, now = np.random.default_rng(seed), labelled(scores)
    flips = [
        labelled(scores[first + (generator.random(len(scores)) * sizes[groups]).astype(np.int64)])
        != now
        for _ in range(_RESAMPLES)
    ]
    return float(np.mean(flips))


def expected_errors(
    between: float, between_column: float, images: float, shrinkage: float = 0.0
) -> dict[str, tuple[float, float | None]]:
    """Per scope the expected share of labels that differ from those of the prompts' own baselines.

    The model: a score is its prompt's baseline plus normal noise, `between` of the variance lies
    between prompts, `between_column` of it between the values of the column, and a prompt has
    `images` images. With a threshold B mean_prompt + (1 - B) overall, the share is
    arccos(corr(score - threshold, score - baseline)) / pi; B = n / (n + k) is best at
    k = (1 - between) / between (the best linear predictor of the baseline). `prompt` is with
    k = `shrinkage`, `prompt, shrunken` with the best k.

    Args:
        between: share of the variance between prompts, 0 to 1.
        between_column: share of the variance between values of the column, at most `between`.
        images: images a prompt, at least 1.
        shrinkage: k of the scope `prompt`; 0 takes each prompt's own mean.

    Returns:
        Per scope (share, k to set as shrinkage or None).
    """
    within = 1 - between
    left = max(between - between_column, 0.0)
    best = within / between if between > 0 else None
    found: dict[str, tuple[float, float | None]] = {
        "global": (_error(between, within, images, 0.0), None),
        "column": (_error(left, within, images, 0.0), None),
        "prompt": (
            _error(between, within, images, images / (images + shrinkage)),
            shrinkage or None,
        ),
    }
    if best is not None:
        pull = images / (images + best)
        found["prompt, shrunken"] = (_error(between, within, images, pull), best)
    return found


def agreement(rewards: dict[str, Scores], percentile: float, ties: str) -> dict[str, float]:
    """Share of rows that two reward models label alike, each by its own percentile.

    Rows where either score is missing are left out. Keys are `one/other`.
    """
    labelled = {}
    for name, scores in rewards.items():
        finite = np.isfinite(scores)
        if finite.any():
            labelled[name] = labels(scores, finite, _percentile(scores[finite], percentile), ties)
    return {
        f"{one}/{other}": float((labelled[one] == labelled[other])[both].mean())
        for one, other in combinations(labelled, 2)
        if (both := (labelled[one] >= 0) & (labelled[other] >= 0)).any()
    }


def _percentile(scores: Scores, percentile: float) -> float:
    (found,), _, _ = percentiles(lambda: [scores], [percentile])
    return found


def _error(between: float, within: float, images: float, pull: float) -> float:
    if within == 0:
        return 0.5 if pull == 1 else 0.0  # every image of a prompt is alike: nothing to rank
    spread = (1 - pull) ** 2 * between + within * (1 + pull**2 / images - 2 * pull / images)
    along = within * (1 - pull / images)
    if spread <= 0:
        return 0.5
    return acos(min(along / sqrt(within * spread), 1.0)) / pi


def _statistic(scores: Scores, rule: Label) -> Callable[[NDArray[np.int32]], NDArray[np.float64]]:
    """Thresholds [B] of ascending scores [n] that are taken `times` [B, n] times."""
    doubles = scores.astype(np.float64)
    if rule.estimator == "percentile":
        return lambda times: _percentiles(doubles, times, rule.percentile or 0.0)
    if rule.estimator == "mean":
        return lambda times: times @ doubles / times.sum(axis=1)
    if rule.estimator == "oracle":
        assert rule.oracle_beta is not None
        beta, top = rule.oracle_beta, doubles[-1]
        terms = np.exp((doubles - top) / beta)
        return lambda times: top + beta * np.log(times @ terms / times.sum(axis=1))
    span = mixtures.Range(float(doubles[0]), float(doubles[-1]))
    bins = span.bins(scores)
    cut = mixtures.otsu if rule.estimator == "otsu" else mixtures.mixture

    def cuts(times: NDArray[np.int32]) -> NDArray[np.float64]:
        counted = (np.bincount(bins, row, mixtures.BINS).astype(np.int64) for row in times)
        return np.array([cut(counts, span) for counts in counted])

    return cuts


def _percentiles(
    scores: NDArray[np.float64], times: NDArray[np.int32], percentile: float
) -> NDArray[np.float64]:
    until = np.cumsum(times, axis=1, dtype=np.int32)
    wanted = np.array([rank(int(total), percentile) for total in until[:, -1]])
    found: NDArray[np.float64] = scores[(until >= wanted[:, None]).argmax(axis=1)]
    return found
