from __future__ import annotations

import numpy as np
import pytest

from tgo.pipeline.labelling.stats import mixtures
from tgo.pipeline.labelling.stats.mixtures import BINS, Range


def counted(scores: np.ndarray) -> tuple[np.ndarray, Range]:
    span = Range(float(scores.min()), float(scores.max()))
    return np.bincount(span.bins(scores), minlength=BINS), span


def two_heaps(share: float = 0.5, apart: float = 6.0, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    upper = generator.random(20_000) < share
    return (generator.normal(size=20_000) + apart * upper).astype(np.float32)


def test_otsu_maximises_the_variance_between_the_classes() -> None:
    scores = two_heaps(0.3, 4.0)
    found = mixtures.otsu(*counted(scores))

    def between(cut: float) -> float:
        low, high = scores[scores < cut], scores[scores >= cut]
        gap = low.mean(dtype=float) - high.mean(dtype=float)
        return len(low) * len(high) * float(gap**2)

    best = max(between(cut) for cut in np.quantile(scores, np.linspace(0.01, 0.99, 2000)))
    assert between(found) >= best * (1 - 1e-4)


def test_a_gap_is_cut_in_its_middle() -> None:
    scores = np.array([0.0] * 5 + [10.0] * 5, np.float32)
    assert mixtures.otsu(*counted(scores)) == pytest.approx(5, abs=0.01)


def test_the_mixture_finds_its_components_and_cuts_where_they_are_even() -> None:
    generator = np.random.default_rng(0)
    low, high = generator.normal(0, 1, 14_000), generator.normal(5, 2, 6_000)
    scores = np.concatenate([low, high]).astype(np.float32)
    found = mixtures.fit_mixture(*counted(scores))
    np.testing.assert_allclose(found.share, [0.7, 0.3], atol=0.02)
    np.testing.assert_allclose(found.mean, [0, 5], atol=0.1)
    np.testing.assert_allclose(found.std, [1, 2], atol=0.1)
    cut = mixtures.mixture(*counted(scores))

    def density(share: float, mean: float, std: float) -> float:
        return share / std * np.exp(-(((cut - mean) / std) ** 2) / 2)

    assert density(0.7, 0, 1) == pytest.approx(density(0.3, 5, 2), rel=0.15)


@pytest.mark.parametrize("cut", [mixtures.otsu, mixtures.mixture])
@pytest.mark.parametrize(("scale", "shift"), [(8.0, 0.0), (0.125, 4.0)])
def test_both_follow_shift_and_scale(cut: object, scale: float, shift: float) -> None:
    scores = two_heaps()
    moved = scores * np.float32(scale) + np.float32(shift)
    here, there = cut(*counted(scores)), cut(*counted(moved))  # type: ignore[operator]
    assert there == pytest.approx(here * scale + shift, abs=0.01 * scale)


def test_equal_scores_are_their_own_threshold() -> None:
    span = Range(2.5, 2.5)
    counts = np.bincount(span.bins(np.full(7, 2.5, np.float32)), minlength=BINS)
    assert mixtures.otsu(counts, span) == 2.5
    assert mixtures.mixture(counts, span) == 2.5
