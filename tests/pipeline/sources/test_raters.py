"""Ratings of many raters: what comes out of each way of joining them, and who is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import raters, ratings
from tgo.pipeline.sources.aggregates import Aggregate
from tgo.pipeline.sources.image_table import Source
from tgo.pipeline.sources.rating_rows import Rating

HERE = Path("x.png")
PUBLISHED = """
A: . . . . . 3 4 1 2 1 1 3 3 . 3
B: 1 . 2 1 3 3 4 3 . . . . . . .
C: . . 2 1 3 4 4 . 2 1 1 3 3 . 4
"""  # Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C's example


def stars(
    seed: int, *, images: int = 150, people: int = 12, each: int = 60, random: int = 0
) -> tuple[list[Rating], np.ndarray]:
    """Stars of raters who differ in strictness and range, `random` of them guessing; the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=images)
    found = []
    for person in range(people):
        strict, stretch = rng.normal(0, 0.9), rng.uniform(0.5, 1.5)
        for image in rng.choice(images, each, replace=False):
            felt = 3 + strict + stretch * (truth[image] + rng.normal(0, 0.5))
            value = rng.integers(1, 6) if person < random else np.clip(round(felt), 1, 5)
            found.append(
                Rating(f"i{image}", f"prompt {image // 2}", float(value), HERE, rater=f"r{person}")
            )
    return found, truth


def agrees(found: list[Rating], truth: np.ndarray, how: Aggregate) -> float:
    """Rank correlation of the joined ratings with the truth."""
    table, value, _ = raters.aggregate(found, how)
    mine = [truth[int(key[1:])] for _, key in table.items]
    return float(spearmanr(value, mine).statistic)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.floats(-10, 10, width=16), st.integers(1, 3)), min_size=1
    )
)
def test_mean_and_its_error(rows: list[tuple[int, float, int]]) -> None:
    found = [Rating(str(item), "p", value, HERE, times) for item, value, times in rows]
    table, mean, error = raters.aggregate(found, Aggregate.mean)
    spread, spare = 0.0, len(rows) - len(table.items)
    for number, (_, key) in enumerate(table.items):
        own = np.array([v for i, v, n in rows if str(i) == key for _ in range(n)])
        assert mean[number] == pytest.approx(own.mean(), abs=1e-9)
        spread += ((own - own.mean()) ** 2).sum()
    if spare == 0:
        assert np.isnan(error).all()
    else:
        count = np.array([sum(n for i, _, n in rows if str(i) == key) for _, key in table.items])
        assert error == pytest.approx(np.sqrt(spread / spare / count), abs=1e-9)


def test_clicks_per_view_have_binomial_errors(tmp_path: Path) -> None:
    """Over many images shown equally often, the rate lies within 1.96 errors of the true one."""
    rng = np.random.default_rng(0)
    chance, views = rng.uniform(0.02, 0.5, 2000), 50
    lines = [f"{n}.png,p,{clicks},{views}" for n, clicks in enumerate(rng.binomial(views, chance))]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["file_name,prompt,clicks,views", *lines]))
    found = ratings.read(Source(str(path), columns={"views": "views"}))
    assert found.unit == "clicks per views"
    rate = np.array([image.rating for image in found.images])
    error = np.array([image.error for image in found.images], float)
    assert {image.n_ratings for image in found.images} == {views}
    assert np.mean(np.abs(rate - chance) < 1.96 * error) == pytest.approx(0.95, abs=0.03)
    path.write_text("file_name,prompt,clicks,views\na.png,p,6,5\n")
    with pytest.raises(InputError, match="6 clicks of 5 views"):
        ratings.read(Source(str(path), columns={"views": "views"}))


def test_standardised_ratings_rank_images_better_than_their_mean() -> None:
    both = [(agrees(*stars(s), Aggregate.standardised), agrees(*stars(s), Aggregate.mean))
            for s in range(8)]  # fmt: skip
    assert all(better > mean for better, mean in both)


def test_dawid_skene_ranks_better_than_the_mean_where_some_guess() -> None:
    def likes(seed: int) -> tuple[list[Rating], np.ndarray]:
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 100).astype(float)
        rows = []
        for person in range(9):
            right = 0.85 if person < 5 else 0.5
            for image in range(100):
                value = truth[image] if rng.random() < right else 1 - truth[image]
                rows.append(Rating(f"i{image}", "p", value, HERE, rater=f"r{person}"))
        return rows, truth

    both = [(agrees(*likes(s), Aggregate.dawid_skene), agrees(*likes(s), Aggregate.mean))
            for s in range(4)]  # fmt: skip
    assert all(better > mean for better, mean in both)


def test_ratings_of_one_scale_stay_on_it() -> None:
    found, _ = stars(0)
    for how in (Aggregate.standardised, Aggregate.dawid_skene):
        _, value, error = raters.aggregate(found, how)
        assert 0 < value.min() < 2.5
        assert 3.5 < value.max() < 6
        assert (error >= 0).all()


def comparisons(strength: np.ndarray, count: int, seed: int) -> list[Rating]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        one, two = rng.choice(len(strength), 2, replace=False)
        won = float(rng.random() < 1 / (1 + np.exp(strength[two] - strength[one])))
        for mine, other, value in ((one, two, won), (two, one, 1 - won)):
            found.append(Rating(f"i{mine}", "p", value, HERE, against=f"i{other}"))
    return found


def test_bradley_terry_finds_the_strengths_with_honest_errors() -> None:
    truth = np.linspace(-1.5, 1.5, 6)
    inside, widths = [], []
    for seed in range(20):
        table, value, error = raters.aggregate(
            comparisons(truth, 300, seed), Aggregate.bradley_terry
        )
        own = np.array([truth[int(key[1:])] for _, key in table.items])
        inside += (np.abs(value - own) < 1.96 * error).tolist()
        widths.append(error.mean())
    assert 0.88 < np.mean(inside) <= 1  # of 95 % intervals
    _, _, fewer = raters.aggregate(comparisons(truth, 75, 0), Aggregate.bradley_terry)
    assert fewer.mean() / np.mean(widths) == pytest.approx(2, rel=0.25)  # a quarter of them


def test_ties_and_one_sided_comparisons_have_finite_strengths() -> None:
    rows = [("a", "b", 1.0), ("b", "a", 0.0), ("b", "c", 0.5), ("c", "b", 0.5)]
    found = [Rating(one, "p", value, HERE, against=other) for one, other, value in rows]
    table, value, error = raters.aggregate(found, Aggregate.bradley_terry)
    by_key = {key: float(number) for (_, key), number in zip(table.items, value, strict=True)}
    assert by_key["a"] > by_key["b"]
    assert by_key["b"] == pytest.approx(by_key["c"], abs=0.5)
    assert np.isfinite(error).all()


def test_alpha_is_krippendorffs() -> None:
    told = []
    for line in PUBLISHED.strip().splitlines():
        rater, _, values = line.partition(":")
        told += [(rater, n, float(v)) for n, v in enumerate(values.split()) if v != "."]
    assert raters.alpha(told, "nominal") == pytest.approx(0.691, abs=5e-4)
    assert raters.alpha(told, "interval") == pytest.approx(0.811, abs=5e-4)
    assert raters.alpha([("a", 1, 3.0), ("b", 2, 4.0)]) is None


def test_raters_who_guess_are_named_and_no_others() -> None:
    named: list[str] = []
    for seed in range(10):
        found, _ = stars(seed, random=2)
        told = raters.agreement(raters.table(found))
        assert told is not None
        named += told.random
    assert set(named) == {"r0", "r1"}
    assert len(named) >= 18  # one in forty seems to agree by luck
    always = [rating for rating in stars(9)[0] if rating.rater != "r3"]
    always += [Rating(f"i{n}", f"prompt {n // 2}", 4.0, HERE, rater="r3") for n in range(60)]
    told = raters.agreement(raters.table(always))
    assert told is not None
    assert told.random == {"r3": 0.0}


def test_strict_raters_are_not_named() -> None:
    for seed in range(6):
        told = raters.agreement(raters.table(stars(seed)[0]))
        assert told is not None
        assert told.random == {}


@pytest.mark.parametrize(
    ("text", "how", "reason"),
    [
        ("file_name,prompt,stars\na.png,p,5\n", "standardised", "needs a column of raters"),
        ("file_name,prompt,stars\na.png,p,5\n", "bradley-terry", "is for comparisons"),
        (
            "file_name,prompt,stars,rater\n"
            + "".join(f"a.png,p,{n}.5,r{n % 2}\n" for n in range(12)),
            "dawid-skene",
            "at most 10 values",
        ),
    ],
)
def test_what_a_way_of_joining_needs(tmp_path: Path, text: str, how: str, reason: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=reason):
        ratings.read(Source(str(tmp_path / "table.csv")), Aggregate(how))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("pairs.csv", "image_a,image_b,preferred,prompt,rater\na.png,b.png,a,p,x\n"),
        ("pairs.csv", "chosen,rejected,prompt,annotator\na.png,b.png,p,x\n"),
    ],
)
def test_comparisons_keep_their_rater_and_their_other_picture(
    tmp_path: Path, name: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(table)
    seen: list[Any] = []
    monkeypatch.setattr(raters, "agreement", lambda table: seen.append(list(table.raters)))
    found = ratings.read(Source(str(tmp_path / name)), Aggregate.bradley_terry)
    assert seen == [["x"]]
    assert found.unit == "log strength"
    values = {image.id: image.rating for image in found.images}
    assert values["a.png"] == -values["b.png"] > 0
