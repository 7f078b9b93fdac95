"""The claims: plans that can run, gains and intervals that say what they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.changes import changed
from benchmarks.claims import exploration, plans, spending, stars
from benchmarks.claims.compare import best_of, compare, interval
from benchmarks.claims.page import page
from benchmarks.claims.run import Run, load, save
from benchmarks.claims.workers import best, result, start_settings
from tests.pipeline import finished_run
from tgo.data.world.scene import draw_scene
from tgo.pipeline.sources import raters
from tgo.pipeline.sources.aggregates import Aggregate
from tgo.pipeline.storage import shards

ROOT = Path(__file__).parents[2]
KEYS = ("pickscore", "share", "all_right")


def measured(prompts: int, images: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {key: rng.random((prompts, images), np.float32) for key in KEYS}


@pytest.mark.parametrize("plan", [exploration.explore, plans.claims])
def test_every_run_has_a_name_of_its_own_and_settings_that_are_accepted(
    plan: object, tmp_path: Path
) -> None:
    runs: list[Run] = plan()  # type: ignore[operator]
    assert len({run.name for run in runs}) == len(runs)
    names = {run.name for run in runs}
    shipped = {name: start_settings(tmp_path, name) for name in ("diffusion", "masked")}
    for run in runs:
        assert names >= set(run.best_of)
        if run.changes is not None and not run.best_of:
            changed(shipped[run.paradigm], run.changes)


def test_methods_have_equal_budgets() -> None:
    for paradigm in ("diffusion", "masked"):
        assert {len(plans.grid(name, paradigm)) for name in plans.methods(paradigm)} == {4}


def test_an_interval_covers_prompts_and_seeds_and_widens_with_comparisons() -> None:
    rng = np.random.default_rng(1)
    gains = 0.5 + rng.normal(size=(1, 400))
    one, many = interval(gains), interval(gains, comparisons=100)
    assert one["high"] - one["gain"] == pytest.approx(1.96 / 20, rel=0.1)
    assert many["corrected_low"] < one["low"] < one["gain"] == pytest.approx(gains.mean())
    apart = np.array([[0.0] * 400, [1.0] * 400])  # two seeds that disagree
    assert interval(apart)["high"] > 1.0


def test_worse_pairs_that_the_feedback_prefers_are_counted() -> None:
    base = {key: np.full((4, 1), 0.5, np.float32) for key in KEYS}
    base["pickscore"] = np.array([[0], [1], [0], [1]], np.float32)
    tuned = base | {
        "share": np.array([[0.4], [0.4], [0.6], [0.5]], np.float32),
        "pickscore": np.array([[1], [0], [1], [1]], np.float32),
    }
    found = compare(base, [tuned], "pickscore")
    assert found["truth"] == {"better": 0.25, "worse": 0.5, "worse_preferred": 0.5}
    assert found["pickscore"]["wins"] == 0.625


def test_best_of_takes_every_score_of_the_chosen_image() -> None:
    base = measured(5, 8)
    chosen = best_of(base, "pickscore")
    first = base["pickscore"][:, :4].argmax(axis=1)
    assert chosen["share"].shape == (5, 2)
    assert np.array_equal(chosen["share"][:, 0], base["share"][np.arange(5), first])


def test_settings_come_from_the_best_run_of_validation(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    base = Run("validation-diffusion-base", changes=None)
    gains = [(base, 0.0), (Run("weak"), 0.1), (Run("strong"), 0.3), (Run("lost"), 9.0)]
    before = measured(6, 2)
    for run, gain in gains:
        path = result(tmp_path, run)
        after = before | {"pickscore": before["pickscore"] + np.float32(gain)}
        save(path.with_suffix(".npz"), {"validation": after})
        facts = run.facts() | ({"collapsed": "it fell"} if run.name == "lost" else {})
        path.write_text(json.dumps(facts))
    chosen = best(tmp_path, base, ("weak", "strong", "lost"))
    assert chosen is not None
    assert chosen["name"] == "strong"
    assert set(load(tmp_path / "results" / "weak.npz")["validation"]) == set(KEYS)
    assert best(tmp_path, base, ("lost",)) is None


def test_the_committed_page_is_made_from_the_committed_numbers() -> None:
    found = json.loads((ROOT / "docs/claims.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs/claims.md").read_text(encoding="utf-8") == page(found)


@pytest.mark.parametrize("rule", get_args(spending.Rule))
def test_a_budget_is_spent_on_images_in_their_order(rule: spending.Rule) -> None:
    scores = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    chosen = spending.choose(scores, rule, budget=60)
    assert 57 <= chosen.sum() <= 60  # prompts that go on take two or three at once
    assert not (chosen[:, 1:] & ~chosen[:, :-1]).any()
    unseen = np.where(chosen, scores, np.float32(9))
    assert np.array_equal(spending.choose(unseen, rule, budget=60), chosen)


def test_images_that_are_not_chosen_fail_and_folders_join(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(30)]
    finished_run.write_scored(tmp_path / "one" / "scored", scenes, rng, 0.5, 2)
    paths = shards.shard_paths(tmp_path / "one" / "scored")
    spent = spending.write(tmp_path / "one" / "scored", "two", 20, tmp_path / "spent")
    states = [
        state
        for path in shards.shard_paths(spent)
        for state in shards.read_shard(path)["status"].to_pylist()
    ]
    assert states.count("ok") == 20
    (tmp_path / "one" / "embeddings").mkdir()
    for path in paths:
        (tmp_path / "one" / "embeddings" / f"{path.stem}.safetensors").write_text(path.name)
    joined = spending.join([tmp_path / "one", tmp_path / "one"], tmp_path / "joined")
    found = shards.shard_paths(joined / "scored")
    assert [path.read_bytes() for path in found] == 2 * [path.read_bytes() for path in paths]
    texts = [(joined / "embeddings" / f"{p.stem}.safetensors").read_text() for p in found]
    assert texts == 2 * [path.name for path in paths]


def test_stars_of_simulated_raters_become_the_feedback_of_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(30)]
    finished_run.write_scored(tmp_path / "scored", scenes, rng, 0.5, 2)
    stars.write(tmp_path / "scored", "standardised", 0, tmp_path / "starred")
    before = shards.shard_paths(tmp_path / "scored")
    after = shards.shard_paths(tmp_path / "starred")
    assert [path.name for path in after] == [path.name for path in before]
    table = shards.read_shard(after[0], ["rating", "rating_error", "status"]).to_pydict()
    assert set(table["status"]) == {"ok"}
    assert all(0 < stars < 6 for stars in table["rating"])
    ids, prompts, merits = stars.read_merits(tmp_path / "scored")
    liking = dict(zip(ids, stars.TASTE.utility(merits), strict=True))

    def agrees(careless: int) -> float:
        given = stars.rate(ids, prompts, merits, 0, careless)
        found, value, _ = raters.aggregate(given, Aggregate.mean)
        return float(spearmanr(value, [liking[key] for _, key in found.items]).statistic)

    assert agrees(0) > agrees(stars.PEOPLE) + 0.5
