from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.scores import make_rule, write_scored
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label, labeller
from tgo.pipeline.labelling.scalar import Ranks
from tgo.pipeline.storage import shards

RNG = np.random.default_rng(0)
TWO = {
    "clip": RNG.normal(0.25, 0.03, 40).astype(np.float32),
    "aesthetic": RNG.normal(5, 1, 40).astype(np.float32),
}
UNITS = {"clip": "cosine", "aesthetic": "rating 1 to 10"}


def scores_of(folder: Path, **changes: object) -> np.ndarray:
    made = labeller.fit(folder, make_rule(**changes))
    return np.concatenate([rows.batch.scores for rows in made.all_rows()])


def test_z_scores_are_weighed_and_added(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", TWO, units=UNITS)
    found = scores_of(folder, reward={"clip": 3.0, "aesthetic": 1.0}, standardise="z-score")
    z = {
        name: (s.astype(float) - s.mean(dtype=float)) / s.std(dtype=float)
        for name, s in TWO.items()
    }
    np.testing.assert_allclose(found, (3 * z["clip"] + z["aesthetic"]) / 4, rtol=1e-5, atol=1e-6)


def test_ranks_make_every_reward_model_count_alike(tmp_path: Path) -> None:
    both = {"clip": 1.0, "aesthetic": 1.0}
    folder = write_scored(tmp_path / "a", TWO, units=UNITS)
    found = scores_of(folder, reward=both, standardise="rank")
    assert 0 < found.min() < found.max() < 1
    bent = {**TWO, "aesthetic": np.exp(TWO["aesthetic"])}  # an increasing transform of one of them
    folder = write_scored(tmp_path / "b", bent, units=UNITS)
    np.testing.assert_array_equal(scores_of(folder, reward=both, standardise="rank"), found)


def test_units_that_differ_are_not_added(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", TWO, units=UNITS)
    with pytest.raises(InputError, match=r"different units \(clip in 'cosine', aesthetic in 'rat"):
        scores_of(folder, reward={"clip": 1.0, "aesthetic": 1.0})
    same = write_scored(tmp_path / "t", TWO)
    found = scores_of(same, reward={"clip": 1.0, "aesthetic": 1.0})
    np.testing.assert_allclose(found, (TWO["clip"] + TWO["aesthetic"]) / 2, rtol=1e-6)


@pytest.mark.parametrize("gap", [np.nan, np.inf, -np.inf])
def test_missing_scores_follow_the_rule(tmp_path: Path, gap: float) -> None:
    gappy = {name: scores.copy() for name, scores in TWO.items()}
    gappy["clip"][::10] = gap  # 10 % missing
    gappy["aesthetic"][10] = gap
    folder = write_scored(tmp_path / "s", gappy, units=UNITS)
    both = {"reward": {"clip": 1.0, "aesthetic": 1.0}, "standardise": "z-score"}
    with pytest.raises(InputError, match=r"r0 has the clip score .* set label\.missing to exclude"):
        scores_of(folder, **both)
    excluded = scores_of(folder, **both, missing="exclude")
    assert np.flatnonzero(np.isnan(excluded)).tolist() == [0, 10, 20, 30]
    available = scores_of(folder, **both, missing="available")
    assert np.flatnonzero(np.isnan(available)).tolist() == [10]
    one = labeller.fit(
        folder, make_rule(reward="aesthetic", missing="exclude", standardise="z-score")
    )
    z = np.concatenate([rows.batch.scores for rows in one.all_rows()])
    np.testing.assert_allclose(available[0], z[0], rtol=1e-6)
    assert one.statistics.missing == {"aesthetic": 1}


def test_missing_rows_are_labelled_minus_one_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = TWO["clip"].copy()
    scores[3] = np.nan
    folder = write_scored(tmp_path / "s", scores)
    facts = label.label_folder(folder, tmp_path / "l", make_rule(missing="exclude"), seed=0)
    assert (facts["n"], facts["excluded"], facts["rewards"]["clip"]["missing"]) == (39, 1, 1)
    table = shards.read_shard(shards.shard_paths(tmp_path / "l")[0])
    assert (table["label"][3].as_py(), table["weight"][3].as_py()) == (-1, 0)
    assert table["score"][3].as_py() is None
    assert "1 rows have no clip score (label.missing = exclude)" in caplog.text


def test_a_constant_reward_model_says_nothing(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", {**TWO, "aesthetic": np.full(40, 5.0)}, units=UNITS)
    both = {"clip": 1.0, "aesthetic": 1.0}
    found = scores_of(folder, reward=both, standardise="z-score")
    alone = scores_of(folder, reward="clip", standardise="z-score")
    np.testing.assert_allclose(found, alone / 2, rtol=1e-6)


def test_a_reward_model_that_was_not_scored_is_named(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", TWO)
    with pytest.raises(InputError, match="has no column 'hpsv2'; run `tgo score`"):
        scores_of(folder, reward="hpsv2")


def test_the_unit_and_its_makers_are_recorded(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", TWO, units=UNITS)
    rule = make_rule(reward={"clip": 2.0, "aesthetic": 1.0}, standardise="z-score")
    facts = label.label_folder(folder, tmp_path / "l", rule, seed=0)
    assert facts["reward"] == "2 clip + 1 aesthetic"
    assert facts["unit"] == "standard deviations"
    clip = facts["rewards"]["clip"]
    assert (clip["weight"], clip["unit"]) == (2.0, "cosine")
    assert clip["mean"] == pytest.approx(TWO["clip"].mean(dtype=float))
    assert clip["std"] == pytest.approx(TWO["clip"].std(dtype=float))


def test_mid_ranks_share_ties() -> None:
    ranks = Ranks(np.array([3, 1, 2, 2], np.float32))
    asked = np.array([1, 2, 3, 2.5, 0, 9, np.nan], np.float32)
    expected = [0.125, 0.5, 0.875, 0.75, 0, 1, np.nan]
    np.testing.assert_array_equal(ranks.share(asked), expected)
