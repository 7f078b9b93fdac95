"""Ratings of many raters: one number an image with its error, and how far the raters agree."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.aggregates import Aggregate
from tgo.pipeline.sources.rating_rows import RATERS, Rating

Floats = NDArray[np.float64]
FEW = 5.0
"""Ratings of a rater that count as much as all raters' mean and spread do."""
CLASSES = 10
"""Different ratings up to which they are classes."""
ENOUGH = 20
"""Images that a rater must share with others before anything is said of the rater."""
LITTLE = 0.5
"""Rank correlation with the others that a rater who answers at random stays below."""
PRIOR = 0.1
"""Of Bradley-Terry: a tenth of a won and a lost comparison between any two images of a prompt."""


@dataclass(frozen=True)
class Agreement:
    """How far the raters of a source agree.

    Attributes:
        raters: How many there are.
        alpha: Krippendorff's alpha, ordinal: 1 where they agree, 0 as by chance; None where no
            image has ratings of two raters.
        random: Raters whose ratings have nothing to do with those of the others, with their rank
            correlation to the others' mean.
    """

    raters: int
    alpha: float | None
    random: dict[str, float]


@dataclass(frozen=True)
class Table:
    """N ratings as arrays ``[N]``; items and raters by number."""

    items: Sequence[tuple[str, str]]
    """Prompt and key of each image."""
    raters: Sequence[str]
    item: NDArray[np.int64]
    rater: NDArray[np.int64]
    value: Floats
    times: Floats
    are_rates: bool
    """Whether values are shares of `times` views."""

    def sums(self, values: Floats) -> Floats:
        """Sums over each image's ratings, each as often as it counts ``[items]``."""
        return np.bincount(self.item, values * self.times, len(self.items)).astype(float)


def table(ratings: Sequence[Rating]) -> Table:
    """Ratings as arrays; images and raters in the order in which they first come."""
    items = list(dict.fromkeys((rating.prompt, rating.key) for rating in ratings))
    raters = list(dict.fromkeys(rating.rater for rating in ratings))
    item_number = {item: number for number, item in enumerate(items)}
    rater_number = {rater: number for number, rater in enumerate(raters)}
    return Table(
        items,
        raters,
        np.array([item_number[rating.prompt, rating.key] for rating in ratings]),
        np.array([rater_number[rating.rater] for rating in ratings]),
        np.array([rating.value for rating in ratings], float),
        np.array([rating.times for rating in ratings], float),
        any(rating.is_rate for rating in ratings),
    )


def aggregate(ratings: Sequence[Rating], how: Aggregate) -> tuple[Table, Floats, Floats]:
    """One number an image.

    Args:
        ratings: All of them.
        how: See `Aggregate`.

    Returns:
        The images, their numbers and the numbers' standard errors ``[items]``; an error is NaN
        where nothing tells it (no image has two ratings).

    Raises:
        InputError: the ratings are not of the kind that `how` needs.
    """
    found = table(ratings)
    if how is Aggregate.bradley_terry:
        return found, *_bradley_terry(found, ratings)
    if how is Aggregate.dawid_skene:
        return found, *_dawid_skene(found)
    if how is Aggregate.standardised:
        _require_raters(found, how)
        return found, *_standardised(found)
    return found, *_mean(found, found.value)


def _mean(found: Table, values: Floats) -> tuple[Floats, Floats]:
    """Means and their errors, from the spread within images, taken as equal for all.

    A row that stands for several ratings is one observation of their mean. The error of a rate is
    the binomial one, with half a click and half a view without one added, so that it is never 0.
    """
    count = found.sums(np.ones_like(values))
    mean = found.sums(values) / count
    if found.are_rates:
        share = (mean * count + 0.5) / (count + 1)
        return mean, np.sqrt(share * (1 - share) / count)
    spare = len(values) - len(count)
    if not spare:
        return mean, np.full(len(mean), np.nan)
    within = float((found.times * (values - mean[found.item]) ** 2).sum() / spare)
    return mean, np.sqrt(within / count)


def _standardised(found: Table) -> tuple[Floats, Floats]:
    overall, spread = found.value.mean(), found.value.std()
    if not spread:
        return _mean(found, found.value)
    count = np.bincount(found.rater)
    own = (np.bincount(found.rater, found.value) + FEW * overall) / (count + FEW)
    deviation = (found.value - own[found.rater]) ** 2
    variance = (np.bincount(found.rater, deviation) + FEW * spread**2) / (count + FEW)
    values = (found.value - own[found.rater]) / np.sqrt(variance)[found.rater]
    mean, error = _mean(found, values)
    return overall + spread * mean, spread * error


def _dawid_skene(found: Table) -> tuple[Floats, Floats]:
    from crowdkit.aggregation import DawidSkene
    from pandas import DataFrame

    _require_raters(found, Aggregate.dawid_skene)
    classes = np.unique(found.value)
    if len(classes) > CLASSES:
        raise InputError(
            f"--aggregate dawid-skene: is for ratings of at most {CLASSES} values, and there are "
            f"{len(classes)}; take standardised"
        )
    rows = {"task": found.item, "worker": found.rater, "label": found.value}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about its own future
        chances = DawidSkene(n_iter=100).fit_predict_proba(DataFrame(rows))
    table_ = chances.reindex(index=range(len(found.items)), columns=classes, fill_value=0.0)
    share = table_.to_numpy(dtype=float)
    share = share / share.sum(axis=1, keepdims=True)
    mean = share @ classes
    return mean, np.sqrt(np.maximum(share @ classes**2 - mean**2, 0))


def _bradley_terry(found: Table, ratings: Sequence[Rating]) -> tuple[Floats, Floats]:
    """Log strengths, of mean 0 within a prompt; errors by the curvature of the likelihood."""
    import choix

    if not all(rating.against for rating in ratings):
        raise InputError(
            "--aggregate bradley-terry: is for comparisons of two images; take mean, standardised "
            "or dawid-skene for ratings"
        )
    number = {item: index for index, item in enumerate(found.items)}
    of_prompt: dict[str, list[int]] = {}
    for index, (prompt, _) in enumerate(found.items):
        of_prompt.setdefault(prompt, []).append(index)
    place = {index: k for own in of_prompt.values() for k, index in enumerate(own)}
    won = {prompt: np.full((len(own), len(own)), PRIOR) for prompt, own in of_prompt.items()}
    for rating in ratings:
        one, other = (place[number[rating.prompt, key]] for key in (rating.key, rating.against))
        won[rating.prompt][one, other] += rating.value * rating.times
    strength, error = np.empty(len(found.items)), np.empty(len(found.items))
    for prompt, own in of_prompt.items():
        np.fill_diagonal(won[prompt], 0)
        strength[own] = choix.ilsr_pairwise_dense(won[prompt])
        error[own] = _errors(strength[own], won[prompt])
    return strength, error


def _errors(strength: Floats, won: Floats) -> Floats:
    """Standard errors of log strengths, from the information matrix."""
    chance = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
    information = -(won + won.T) * chance * (1 - chance)
    np.fill_diagonal(information, -information.sum(axis=1))
    return np.sqrt(np.diag(np.linalg.pinv(information)))


def _require_raters(found: Table, how: Aggregate) -> None:
    if len(found.raters) < 2:
        raise InputError(
            f"--aggregate {how}: needs a column of raters ({', '.join(RATERS[:4])}, ...) with two "
            "names or more; take mean"
        )


def agreement(found: Table) -> Agreement | None:
    """How far raters agree; None where the source names fewer than two.

    Args:
        found: The ratings.

    Returns:
        Alpha, and who answers at random.
    """
    if len(found.raters) < 2:
        return None
    level: Literal["ordinal"] = "ordinal"
    told = zip(found.rater.tolist(), found.item.tolist(), found.value.tolist(), strict=True)
    return Agreement(len(found.raters), alpha(told, level), dict(_random(found)))


def alpha(
    answers: Iterable[tuple[object, object, float]],
    level: Literal["nominal", "ordinal", "interval"] = "ordinal",
) -> float | None:
    """Krippendorff's alpha: 1 where raters agree, 0 where they agree as by chance.

    Args:
        answers: Rater, item and value of each answer.
        level: What a difference of values means.

    Returns:
        Alpha; None while no item has answers of two raters, or all answers are the same.
    """
    from krippendorff import alpha as krippendorff

    by_item: dict[object, dict[object, float]] = {}
    for rater, item, number in answers:
        by_item.setdefault(item, {})[rater] = number
    shared = [of_item for of_item in by_item.values() if len(of_item) > 1]
    if len({number for of_item in shared for number in of_item.values()}) < 2:
        return None
    raters = list(dict.fromkeys(rater for of_item in shared for rater in of_item))
    values = [[of_item.get(rater, np.nan) for of_item in shared] for rater in raters]
    with warnings.catch_warnings():  # a rater without shared items is no fault
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(krippendorff(reliability_data=values, level_of_measurement=level))


def _random(found: Table) -> Iterable[tuple[str, float]]:
    """Raters whose correlation with the others may be 0 and is surely little.

    By the 95 % interval of Spearman's rank correlation (Fisher's transform) between a rater's
    ratings and the mean of the others' on the same images.
    """
    from scipy.stats import spearmanr

    total = found.sums(found.value)
    count = found.sums(np.ones_like(found.value))
    for number, name in enumerate(found.raters):
        mine = found.rater == number
        item, weight = found.item[mine], found.times[mine]
        others = count[item] - weight
        shared = others > 0
        if shared.sum() < ENOUGH:
            continue
        value = found.value[mine][shared]
        rest = ((total[item] - weight * found.value[mine])[shared]) / others[shared]
        if np.ptp(value) == 0 or np.ptp(rest) == 0:
            yield name, 0.0
            continue
        correlation = float(spearmanr(value, rest).statistic)
        half = 1.96 / np.sqrt(len(value) - 3)
        low, high = np.tanh(
            np.arctanh(np.clip(correlation, -0.999, 0.999)) + np.array([-half, half])
        )
        if low <= 0 and high < LITTLE:
            yield name, correlation
