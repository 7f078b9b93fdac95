"""Rounds: kept whole, the next one on the tuned model's images, all against the first model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import workspace
from tests.stage_one import contents
from tests.workspace import change
from tgo.pipeline import layout
from tgo.pipeline.config import settings
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import evaluate
from tgo.pipeline.generators import model_sha256
from tgo.pipeline.generators.base_model import base_of
from tgo.pipeline.labelling import label
from tgo.pipeline.page import report, rounds_table, run_files
from tgo.pipeline.scoring import score
from tgo.pipeline.storage import origin, shards
from tgo.pipeline.tools import rounds
from tgo.trainer import train


def repro() -> None:
    """All stages with the settings at hand."""
    found = settings.load(layout.PARAMS)
    score.run(found)
    label.label_folder(layout.SCORED, layout.LABELLED, found.label, seed=found.seed)
    train.run(found)
    evaluate.run(found)
    report.run(found)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path, tiny_rewards: dict[str, str]
) -> Path:
    """A project after one run: five of its ten prompts are used."""
    root = tmp_path_factory.mktemp("finished")
    workspace.fill(root, tiny_generator, {"clip": tiny_rewards["clip"]})
    few = {"prompts": 5, "images_per_prompt": 1}
    change(root, {"score": few, "train": {"loggers": [], "samples": None}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        repro()
    return root


@pytest.fixture
def first(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of that project as the working folder; its settings."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return settings.load(layout.PARAMS)


@pytest.mark.slow
def test_rounds_of_adapters_share_the_first_base(first: Settings) -> None:
    tuned = model_sha256(first.generator, layout.TUNED)
    change(Path(), {"train": {"lora": {"rank": 2, "alpha": 2, "targets": None}}})
    repro()
    adapted = settings.load(layout.PARAMS)
    base, one = base_of(layout.TUNED), model_sha256(adapted.generator, layout.TUNED)
    assert base is not None
    assert base.source == first.generator.model
    rounds.close(adapted, layout.PARAMS)
    repro()
    second = settings.load(layout.PARAMS)
    assert model_sha256(second.generator) == one  # it drew the images
    assert base_of(layout.TUNED) == base
    assert len({tuned, one, model_sha256(second.generator, layout.TUNED)}) == 3
    facts = run_files.read(second).facts
    assert facts["base_sha256"] == base.sha256


@pytest.mark.slow
def test_two_rounds(first: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    base = model_sha256(first.generator)
    tuned = model_sha256(first.generator, layout.TUNED)
    before = {source: contents(source) for source in (layout.SCORED, layout.LABELLED)}
    with monkeypatch.context() as killed:
        killed.setattr(rounds.preset, "edit", _stop)
        with pytest.raises(KeyboardInterrupt):
            rounds.close(first, layout.PARAMS)
    folder, changes = rounds.close(first, layout.PARAMS)  # goes on, makes no second round
    assert rounds_table.folders() == [folder] == [Path("rounds/1")]
    assert changes == [
        f"generator.model: {first.generator.model} -> rounds/1/models/tuned",
        "score.skip: 0 -> 5",
        f"evaluate.base: None -> {first.generator.model}",
    ]
    assert rounds_table.table(run_files.read(first)) == []  # one round alone is no comparison
    second = settings.load(layout.PARAMS)
    with pytest.raises(InputError, match="run `dvc repro` first"):
        rounds.close(second, layout.PARAMS)

    repro()
    for source, files in before.items():  # the first round is as it was
        kept = contents(folder / source)
        assert kept.items() <= files.items()
        assert {name for name in files if name.endswith(".parquet")} <= set(kept)
    one, two = (
        shards.read_metadata(shards.present(place / layout.SCORED)[0]) for place in (folder, Path())
    )
    assert (origin.model_of(one), origin.model_of(two)) == (base, tuned)
    prompt_ids = [
        set(shards.read_shard(path, ["prompt_id"])["prompt_id"].to_pylist())
        for place in (folder, Path())
        for path in shards.present(place / layout.SCORED)
    ]
    assert len(set.union(*prompt_ids)) == 10
    facts = run_files.read(second).facts
    assert facts["base_sha256"] == base
    assert facts["tuned_sha256"] not in (base, tuned)
    page = report.INDEX.read_text()
    assert "<h3>Rounds</h3>" in page
    assert "this run" in page

    third, changes = rounds.close(second, layout.PARAMS)
    assert third == Path("rounds/2")
    assert changes == [
        "generator.model: rounds/1/models/tuned -> rounds/2/models/tuned",
        "score.skip: 5 -> 0",  # no prompts are left: from the first one again
    ]
    (folder / layout.EVALUATION).write_text('{"generator": 3}')
    with pytest.raises(InputError, match=r"rounds/1/reports/evaluation.json: is damaged"):
        rounds_table.table(run_files.read(second))
    (third / layout.EVALUATION).write_text("[]")
    with pytest.raises(InputError, match=r"rounds/2/reports/evaluation.json: is damaged"):
        rounds.close(second, layout.PARAMS)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_what_is_not_finished_is_no_round(first: Settings) -> None:
    shutil.rmtree(layout.SCORED)
    with pytest.raises(InputError, match=r"data/scored: lacks the round's images"):
        rounds.close(first, layout.PARAMS)
    layout.EVALUATION.unlink()
    with pytest.raises(InputError, match=r"evaluation.json: is missing"):
        rounds.close(first, layout.PARAMS)
    assert not layout.ROUNDS.exists()


def test_imported_ratings_have_no_rounds(small_project: Path) -> None:
    change(small_project, {"label": {"reward": "rating"}})
    with pytest.raises(InputError, match="people have not seen"):
        rounds.close(settings.load(layout.PARAMS), layout.PARAMS)
