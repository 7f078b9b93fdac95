from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.scores import make_rule, write_scored
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label, plot_data, reliability, summary
from tgo.pipeline.labelling.rule import labels, weights
from tgo.pipeline.labelling.stats.quantiles import percentiles
from tgo.pipeline.storage import shards

SCORES = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32))


def run(tmp_path: Path, scores: np.ndarray, **changes: object) -> tuple[dict, pa.Table]:
    status = changes.pop("status", None)
    scored = write_scored(tmp_path / "scored", scores, status=status)  # type: ignore[arg-type]
    facts = label.label_folder(scored, tmp_path / "labelled", make_rule(**changes), seed=0)
    paths = shards.shard_paths(tmp_path / "labelled")
    return facts, pa.concat_tables(shards.read_shard(path) for path in paths)


def test_labels_and_weights_are_the_papers(tmp_path: Path) -> None:
    scores = np.array([3, 1, 4, 1.5, 9, 2, 6, 5], np.float32)
    facts, table = run(tmp_path, scores, weights="raw")
    assert facts["threshold"] == 3.0
    assert table["id"].to_pylist() == [f"r{row}" for row in range(8)]
    assert table["label"].to_pylist() == [1, 0, 1, 0, 1, 0, 1, 1]
    np.testing.assert_allclose(table["weight"], 1 + 5 * np.abs(scores - 3))
    assert set(table["threshold"].to_pylist()) == {3.0}
    assert table.schema.equals(shards.LABELLED_SCHEMA)
    assert facts["positives_share"] == 5 / 8
    assert (facts["n"], facts["excluded"], facts["diagnosed_prompts"]) == (8, 0, 4)
    assert facts["low"] <= facts["threshold"] <= facts["high"]
    assert facts == json.loads((tmp_path / "labelled/threshold.json").read_text())


def test_the_usual_rule_gives_the_bytes_it_always_gave(tmp_path: Path) -> None:
    scores = np.random.default_rng(7).normal(21.3, 1.1, 999).astype(np.float32)
    scores[100:140] = scores[100]
    status = ["ok"] * 999
    for place in (3, 500, 998):
        status[place] = "failed"
    _, table = run(tmp_path, scores, status=status)
    found = {
        name: hashlib.sha256(table[name].to_numpy().tobytes()).hexdigest()
        for name in ("label", "weight", "threshold")
    }
    assert found == {
        "label": "2d8c75ec80e15cc2a3cd72b2ed1ae74cc0c3174e50c3d05772c480ef42481a44",
        "weight": "5699ac09ab00777b3c69306ee021ff8ca76fff0d2b845a34ec9751f70bea1f41",
        "threshold": "fbc48a0fe3401539aa8bd2ced326925830077102b3bb7febae8dbe6ad48c6654",
    }


def test_the_strict_rule_makes_ties_negative(tmp_path: Path) -> None:
    scores = np.array([0, 0, 0, 0, 0, 0, 1, 2], np.float32)
    facts, table = run(tmp_path, scores, ties="negative")
    assert facts["threshold"] == 0
    assert table["label"].to_pylist() == [0] * 6 + [1, 1]
    _, table = run(tmp_path, scores, ties="positive")
    assert table["label"].to_pylist() == [1] * 8


def test_failed_rows_are_excluded_and_counted(tmp_path: Path) -> None:
    states = ["ok", "failed", "ok", "ok", "ok", "failed", "ok", "ok"]
    scores = np.array([1, 100, 2, 3, 4, -100, 5, 6], np.float32)
    facts, table = run(tmp_path, scores, status=states)
    assert (facts["n"], facts["excluded"], facts["threshold"]) == (6, 2, 3.0)
    assert table["label"].to_pylist() == [0, -1, 0, 1, 1, -1, 1, 1]
    assert table["score"].to_pylist()[1] is None
    assert table["weight"].to_pylist()[1] == 0
    assert facts["weight_quantiles"]["min"] == 1


def test_no_usable_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no usable row"):
        run(tmp_path, np.zeros(3, np.float32), status=["failed"] * 3)


def test_images_are_not_read(tmp_path: Path) -> None:
    scores = np.arange(6, dtype=np.float32)
    pictures = [np.random.default_rng(row).bytes(500) for row in range(6)]
    folder = write_scored(tmp_path / "s", scores, image=pictures)
    (path,) = shards.shard_paths(folder)
    data = bytearray(path.read_bytes())
    data[data.index(pictures[3][:16])] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="truncated or damaged"):
        shards.read_shard(path, ["image"])
    for scope in ("global", "domain", "prompt"):
        label.label_folder(folder, tmp_path / scope, make_rule(scope=scope), seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_names_shard_and_id(tmp_path: Path, value: float) -> None:
    scores = np.arange(10, dtype=np.float32)
    scores[7] = value
    with pytest.raises(InputError, match=r"shard-00001-of-00002\.parquet: r7 has the clip score"):
        run(tmp_path, scores)
    assert not (tmp_path / "labelled").exists()


def test_equal_scores_have_one_label_weight_one_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts, table = run(tmp_path, np.full(6, 2.5, np.float32))
    assert set(table["label"].to_pylist()) == {1}
    assert set(table["weight"].to_pylist()) == {1.0}
    assert (facts["low"], facts["high"]) == (2.5, 2.5)
    assert facts["between_prompt_variance_share"] is None
    assert "all 6 labels are the same" in caplog.text


def test_shards_of_another_plan_and_the_old_record_go(tmp_path: Path) -> None:
    run(tmp_path, np.arange(20, dtype=np.float32))
    for path in shards.present(tmp_path / "scored"):
        path.unlink()
    run(tmp_path, np.arange(10, dtype=np.float32))
    names = sorted(path.name for path in (tmp_path / "labelled").iterdir())
    assert names == [shards.shard_name(0, 2), shards.shard_name(1, 2), "threshold.json"]


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=20).astype(np.float32)
    found = []
    for name in ("one", "two"):
        run(tmp_path / name, scores)
        found.append(
            [path.read_bytes() for path in sorted((tmp_path / name / "labelled").iterdir())]
        )
    assert found[0] == found[1]


@given(SCORES, st.sampled_from([10.0, 33.3, 50.0, 90.0]), st.sampled_from(["positive", "negative"]))
def test_labels_survive_any_increasing_transform(
    scores: np.ndarray, percentile: float, ties: str
) -> None:
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.float32)  # increasing, exact
    made = []
    for values in (scores, ranks):
        (threshold,), _, _ = percentiles([values].copy, [percentile])
        made.append(labels(values, np.ones(len(values), bool), threshold, ties))
    np.testing.assert_array_equal(made[0], made[1])


@given(SCORES, st.floats(-50, 50, width=32), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_weights_ignore_shift_and_standardised_ones_scale(
    scores: np.ndarray, shift: float, scale: float
) -> None:
    scores = np.round(scores * 8) / 8  # sums and products below stay exact in float32
    shift = float(np.round(shift * 8) / 8)
    usable = np.ones(len(scores), bool)
    threshold, std = float(np.sort(scores)[len(scores) // 2]), float(scores.std(dtype=np.float64))

    def moved_weights(kind: str, shift: float, scale: float) -> np.ndarray:
        moved = (scores * np.float32(scale) + np.float32(shift)).astype(np.float32)
        return weights(
            moved,
            usable,
            threshold * scale + shift,
            make_rule(weights=kind, confidence=None if kind == "none" else 5.0),
            std * scale,
        )

    np.testing.assert_array_equal(moved_weights("raw", shift, 1), moved_weights("raw", 0, 1))
    np.testing.assert_allclose(
        moved_weights("standardised", shift, scale), moved_weights("standardised", 0, 1), rtol=1e-6
    )
    assert (moved_weights("standardised", 0, 1) >= 1).all()
    np.testing.assert_array_equal(moved_weights("none", shift, scale), np.ones(len(scores)))


def test_the_interval_covers_and_is_wider_when_prompts_decide() -> None:
    generator = np.random.default_rng(0)
    independent = generator.normal(size=6000).astype(np.float32)
    groups = np.arange(6000) // 4
    clustered = np.repeat(generator.normal(size=1500), 4).astype(np.float32)
    low, high = reliability.threshold_interval(independent, groups, make_rule(), seed=0)
    assert low < 0 < high
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 / np.sqrt(6000), rel=0.25)
    wide_low, wide_high = reliability.threshold_interval(clustered, groups, make_rule(), seed=0)
    assert (wide_high - wide_low) > 1.5 * (high - low)
    assert (low, high) == reliability.threshold_interval(independent, groups, make_rule(), seed=0)
    assert {low, high} <= set(independent.tolist())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_variance_between_prompts_is_found(share: float) -> None:
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(2000), generator.integers(1, 6, 2000))
    between = generator.normal(size=2000)[groups] * np.sqrt(share)
    scores = between + generator.normal(size=len(groups)) * np.sqrt(1 - share)
    found = reliability.between_group_share(scores.astype(np.float32), groups)
    assert found == pytest.approx(share, abs=0.04)


def test_the_variance_between_prompts_needs_several_images_and_prompts() -> None:
    scores = np.array([1, 2, 3], np.float32)
    assert reliability.between_group_share(scores, np.array([0, 1, 2])) is None
    assert reliability.between_group_share(scores, np.array([0, 0, 0])) is None


@given(SCORES)
def test_the_plot_counts_every_score_once_and_parts_at_the_threshold(scores: np.ndarray) -> None:
    import tempfile

    threshold = float(np.sort(scores)[len(scores) // 2])
    made = labels(scores, np.ones(len(scores), bool), threshold, "positive")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.csv"
        plot_data.write(path, lambda: [(scores, made)], threshold)
        rows = list(csv.DictReader(path.open()))
    assert tuple(rows[0]) == plot_data.FIELDS
    assert sum(int(row["count"]) for row in rows) == len(scores)
    for row in rows:
        side = float(row["score"]) >= threshold
        assert row["label"] == ("positive" if side else "negative")


def test_one_image_a_prompt_at_its_own_threshold_is_no_tie(tmp_path: Path) -> None:
    """A percentile is one of the scores: with a threshold per prompt one image always equals it."""
    scores = np.random.default_rng(0).normal(size=200).astype(np.float32)
    facts, _ = run(tmp_path, scores, scope="prompt")
    assert facts["ties_share"] == 0.5
    assert not any("equal their threshold" in warning for warning in facts["warnings"])
    half = np.concatenate([scores[:100], np.repeat(scores[100:150], 2)])
    facts, _ = run(tmp_path / "tied", half, scope="prompt")
    assert any("75.0% of the scores equal their threshold" in w for w in facts["warnings"])


@pytest.mark.parametrize("standardise", ["none", "z-score", "rank"])
def test_rows_beyond_the_filters_limits_are_as_if_they_were_not_there(
    tmp_path: Path, standardise: str
) -> None:
    clip = np.array([3, 1, 4, 1.5, 9, 2, 6, 5, 70, 80], np.float32)
    nsfw = np.array([0, 0.1, 0.2, 0, 0.1, 0, 0, 0.1, 0.9, np.nan], np.float32)
    rule = make_rule(filter={"nsfw": {"max": 0.2}}, standardise=standardise)
    scored = write_scored(tmp_path / "scored", {"clip": clip, "nsfw": nsfw})
    facts = label.label_folder(scored, tmp_path / "labelled", rule, seed=0)
    table = pa.concat_tables(map(shards.read_shard, shards.shard_paths(tmp_path / "labelled")))
    alone = write_scored(tmp_path / "alone", clip[:8])
    wanted = label.label_folder(
        alone, tmp_path / "wanted", make_rule(standardise=standardise), seed=0
    )
    same = pa.concat_tables(map(shards.read_shard, shards.shard_paths(tmp_path / "wanted")))
    assert table["label"].to_pylist() == [*same["label"].to_pylist(), -1, -1]
    assert table["weight"].to_pylist()[:8] == same["weight"].to_pylist()
    assert facts["threshold"] == wanted["threshold"]
    assert (facts["n"], facts["excluded"], facts["filtered"]) == (8, 2, 2)
    assert "2 excluded (2 by label.filter)" in "\n".join(summary.lines(facts))


def test_a_filter_that_leaves_nothing_or_names_no_column_is_refused(tmp_path: Path) -> None:
    scored = write_scored(tmp_path / "scored", np.arange(4, dtype=np.float32))
    with pytest.raises(InputError, match=r"label\.filter leaves out all 4 usable rows"):
        label.label_folder(
            scored, tmp_path / "labelled", make_rule(filter={"clip": {"min": 9}}), seed=0
        )
    with pytest.raises(InputError, match="has no column 'nsfw'"):
        label.label_folder(
            scored, tmp_path / "labelled", make_rule(filter={"nsfw": {"max": 1}}), seed=0
        )
