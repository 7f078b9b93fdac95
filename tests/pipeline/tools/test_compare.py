"""Runs against each other: pairs by prompt and seed, whatever their order in the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline import finished_run
from tgo.pipeline import layout
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import pairs_table
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.tools import compare, comparison_page


def pairs_of(tuned: list[float]) -> Pairs:
    count = len(tuned)
    prompts = [f"p{i // 2}" for i in range(count)]
    return Pairs(
        ids=[str(i) for i in range(count)],
        prompts=prompts,
        prompt_ids=prompts,
        domains=["all"] * count,
        seeds=list(range(count)),
        base={"clip": np.zeros(count)},
        tuned={"clip": np.array(tuned)},
        excluded=0,
    )


def write(folder: Path, pairs: Pairs) -> str:
    facts = {"sets": {"seen": {"excluded": 0}}}
    pairs_table.write(folder / layout.PAIRS, {"seen": pairs}, facts)
    return str(folder)


def test_runs_are_paired_by_prompt_and_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "one", pairs_of([1.0, 2.0, 3.0, 4.0]))
    turned = pairs_of([3.0, 3.0, 5.0, 4.0])
    order = [3, 1, 0, 2]
    changed: dict[str, Any] = {
        name: [getattr(turned, name)[row] for row in order]
        for name in ("ids", "prompts", "prompt_ids", "domains", "seeds")
    }
    changed |= {side: {"clip": getattr(turned, side)["clip"][order]} for side in ("base", "tuned")}
    other = write(tmp_path / "other", replace(turned, **changed))
    first, second = compare.lines({run: compare.read(run) for run in (one, other)}, seed=0)
    assert (first.run, first.mean, first.difference) == (one, 2.5, None)
    assert second.mean == 3.75
    assert second.difference is not None
    assert second.win_rate is not None
    assert second.difference.value == 1.25  # 2, 1 and 2, 0
    assert second.win_rate.value == 0.875
    compare.show([first, second])
    told = capsys.readouterr().out
    assert "+1.2500" in told
    assert "one model" not in told


def test_runs_of_one_model_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write(tmp_path / name, pairs_of([1.0, 2.0])) for name in ("one", "other")]
    compare.show(compare.lines({run: compare.read(run) for run in runs}, seed=0))
    assert "they may be one model" in capsys.readouterr().out


def test_main_lines_leave_out_other_raters_and_keep_the_order_of_the_sets() -> None:
    settings = finished_run.make_settings()
    scores = ("pickscore", "utility_pickscore", "utility_clip")
    found = [
        compare.Line(name, score, "one", 0.0, 1.0, None, None)
        for name in ("hard", "seen")
        for score in scores
    ]
    assert [(line.set_name, line.score) for line in compare.main_lines(found, settings)] == [
        (name, score) for name in ("seen", "hard") for score in scores[:2]
    ]


def test_runs_that_cannot_be_paired_or_found_are_named(tmp_path: Path) -> None:
    one = write(tmp_path / "one", pairs_of([1.0, 2.0]))
    other = write(tmp_path / "other", replace(pairs_of([1.0, 2.0]), seeds=[5, 6]))
    with pytest.raises(InputError, match="not of the prompts and seeds"):
        compare.lines({run: compare.read(run) for run in (one, other)}, seed=0)
    with pytest.raises(InputError, match=r"pairs\.parquet: is missing"):
        compare.read(str(tmp_path))


def test_the_page_tells_which_run_is_better_and_how_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = write(tmp_path / "one", pairs_of([1.0, 2.0, 3.0, 4.0]))
    other = write(tmp_path / "other", pairs_of([2.0, 3.0, 4.0, 5.5]))
    runs = {run: compare.read(run) for run in (one, other)}
    found = compare.lines(runs, seed=0)
    text = comparison_page.write(runs, found, "clip", seed=0).read_text()
    assert "CLIP rose on seen" in text
    assert "+1.125" in text
    assert "Pictures are shown where every run is a folder" in text
    assert compare.as_json(found)[1]["difference"]["value"] == 1.125
