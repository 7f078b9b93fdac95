from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests import workspace
from tests.scores import make_rule, write_scored
from tgo.pipeline import cli, layout
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import preview
from tgo.pipeline.storage import shards


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    """A working directory after stage one."""
    workspace.fill(tmp_path, "x/y/z", {"clip": "x", "aesthetic": "y"})
    monkeypatch.chdir(tmp_path)
    scores = np.random.default_rng(0).normal(size=200).astype(np.float32)
    both = {"clip": scores, "aesthetic": scores**2}
    write_scored(layout.SCORED, both, per_prompt=4, rows_per_shard=40, domain=["a", "b"] * 100)
    return settings.load("params.yaml")


def test_settings_side_by_side_and_nothing_written(
    place: settings.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = [
        "percentile=75",
        "label.estimator=otsu",
        "scope=domain,shrinkage=20",
        "scope=prompt",
        "weights=none",
        "ordinal=[25, 50, 75]",
        "reward={clip: 2, aesthetic: 1},standardise=z-score",
    ]
    found = preview.run(place, layout.SCORED, tries)
    rows = {row.name: row for row in found}
    assert rows["params.yaml"].positives == 101
    assert rows["params.yaml"].changed == 0
    assert (rows["percentile=75"].positives, rows["percentile=75"].changed) == (51, 50)
    assert rows["scope=prompt"].positives == 100
    assert rows["weights=none"].weights == (1.0, 1.0, 1.0)
    assert rows["reward={'clip': 2, 'aesthetic': 1}, standardise=z-score"].n == 200
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == [
        "settings", "threshold", "positive", "changed", "weights", "5", "%,", "50", "%,", "95", "%"
    ]  # fmt: skip
    assert len(told) == 2 + len(tries)
    assert "50.5% of 200" in told[1]
    assert not layout.LABELLED.exists()


def test_the_usual_variations_are_shown_unasked(place: settings.Settings) -> None:
    names = [row.name for row in preview.run(place, layout.SCORED, [])]
    assert names == [
        "params.yaml",
        "percentile=25",
        "percentile=75",
        "estimator=mean",
        "estimator=otsu",
        "estimator=mixture",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("percentile", "--try percentile: write settings as key=value"),
        ("=3", "write settings as key=value"),
        ("percentil=3", "--try percentil=3: label.percentil: unknown key"),
        ("percentile=300", "label.percentile = 300"),
        ("scope=[", "write settings as key=value"),
        ("value=3", "label.value = 3 has an effect only with estimator fixed"),
    ],
)
def test_a_wrong_variation_is_refused(place: settings.Settings, text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        preview.run(place, layout.SCORED, [text])
    assert part in str(caught.value)


def test_scores_are_read_once_for_all_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_scored(tmp_path / "s", np.arange(30, dtype=np.float32))
    opened = []
    read = shards.batches

    def batches(path: Path, columns: Any) -> Any:
        opened.append(path)
        return read(path, columns)

    monkeypatch.setattr(shards, "batches", batches)
    rules = {str(p): make_rule(percentile=float(p)) for p in (20, 50, 80)}
    found = preview.look(folder, rules)
    assert len(opened) == 5
    assert [row.positives for row in found] == [25, 16, 7]


def test_the_command_previews_and_refuses_variations_without_it(
    place: settings.Settings,
) -> None:
    runner = CliRunner()
    shown = runner.invoke(cli.app, ["label", "--preview", "--try", "percentile=60"])
    assert shown.exit_code == 0
    assert "percentile=60" in shown.output
    assert not layout.LABELLED.exists()
    refused = runner.invoke(cli.app, ["label", "--try", "percentile=60"])
    assert isinstance(refused.exception, InputError)
    assert "add --preview" in str(refused.exception)
