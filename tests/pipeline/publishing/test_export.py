from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from tgo.pipeline import layout
from tgo.pipeline.cards import model_card
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import model_sha256
from tgo.pipeline.publishing import export
from tgo.pipeline.storage.atomic import write_json
from tgo.pipeline.training_log import sample_strips

from tests.pipeline.finished_run import make_settings, write_run


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_generator: Path) -> Settings:
    """A finished run in the working directory, with a model that is really there."""
    monkeypatch.chdir(tmp_path)
    settings = make_settings(generator={"model": str(tiny_generator)})
    write_run(settings)
    shutil.copytree(tiny_generator, layout.TUNED)
    model_card.write(layout.TUNED, settings, layout.THRESHOLD)
    metrics = json.loads(layout.EVALUATION.read_text())
    found = model_sha256(settings.generator, layout.TUNED)
    metrics["generator"]["tuned_sha256"] = found
    write_json(layout.EVALUATION, metrics)
    Path("params.yaml").write_text("seed: 0\n")
    return settings


def run(settings: Settings, **options: str) -> Path:
    return export.run(settings, Path("params.yaml"), layout.EXPORT, **options)  # type: ignore[arg-type]


def test_an_export_is_the_model_with_its_scores(finished: Settings) -> None:
    from diffusers import StableDiffusionPipeline

    before = {path: path.read_bytes() for path in layout.TUNED.rglob("*") if path.is_file()}
    folder = run(finished)
    card = ModelCard.load(folder / "README.md")
    metrics = json.loads(layout.EVALUATION.read_text())
    results = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert results[("seen", "pickscore")] == metrics["seen"]["pickscore"]["tuned"]
    assert ("hard", "gold") in results
    assert card.data.base_model is None  # a folder is no repository
    row = metrics["unseen"]["hpsv2"]
    assert f"| {row['base']:.4g} | {row['tuned']:.4g} | {row['difference']:+.4g} |" in card.text
    assert "| learning rate | 0.0001 |" in card.text
    StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert sorted(p.name for p in (folder / "tgo").iterdir()) == [
        "evaluation.json",
        "params.yaml",
        "threshold.json",
    ]
    assert before == {p: p.read_bytes() for p in layout.TUNED.rglob("*") if p.is_file()}


def test_the_card_beside_the_weights_has_no_scores_and_says_what_went_in(
    finished: Settings,
) -> None:
    card = ModelCard.load(layout.TUNED / "README.md")
    assert card.data.eval_results is None
    assert card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "text-to-image"
    for part in ("| objective | tgo |", "| threshold |", "PickScore", "| prompts | data/prompts"):
        assert part in card.text
    assert "StableDiffusionPipeline.from_pretrained(" in card.text


def test_a_base_model_of_the_hub_is_in_the_header() -> None:
    lora = {"rank": 8, "alpha": 16.0, "targets": None}
    settings = make_settings(generator={"model": "someone/some-model"}, train={"lora": lora})
    text = model_card.render(settings, None, pipeline="StableDiffusionPipeline", lora=True)
    card = ModelCard(text)
    assert "| adapters of rank 8, alpha 16.0; moving average" in text
    merged = model_card.render(settings, None, pipeline="StableDiffusionPipeline")
    assert "alpha 16.0, merged into the model; moving average" in merged
    assert card.data.base_model == "someone/some-model"
    assert "lora" in card.data.tags
    assert 'load_lora_weights("FOLDER OR REPOSITORY"' in card.text


@pytest.mark.parametrize(
    ("pipeline", "lora", "said"),
    [
        ("AmusedPipeline", True, 'pipeline.transformer.load_lora_adapter("FOLDER OR REPOSITORY"'),
        ("AmusedPipeline", False, "AmusedPipeline.from_pretrained("),
        ("Pipeline", True, "which diffusers has no pipeline for"),  # as Meissonic's is called
        ("Pipeline", False, "diffusers has no pipeline for it"),
    ],
)
def test_the_card_tells_how_each_kind_of_model_loads(pipeline: str, lora: bool, said: str) -> None:
    text = model_card.render(make_settings(), None, pipeline=pipeline, lora=lora)
    assert said in text
    assert ("from diffusers import" in text) == (pipeline != "Pipeline")


def test_adapters_go_alone_unless_all_is_asked_for(finished: Settings) -> None:
    with pytest.raises(InputError, match=r"pytorch_lora_weights\.safetensors: is missing"):
        run(finished, kind="lora")
    (layout.TUNED / layout.LORA).write_bytes(b"adapters")
    names = {path.name for path in run(finished).iterdir()}
    assert names == {"README.md", "tgo", layout.LORA}
    full = {path.name for path in run(finished, kind="full").iterdir()}
    assert "unet" in full
    assert layout.LORA not in full


def test_sample_images_go_along(finished: Settings) -> None:
    sample_strips.describe(layout.SAMPLES, {"prompts": ["a"]})
    sample_strips.write(layout.SAMPLES, 0, np.zeros((1, 4, 4, 3), np.uint8))
    assert (run(finished) / "tgo/samples/step-00000000.png").is_file()


def test_scores_of_another_model_are_refused(finished: Settings) -> None:
    metrics = json.loads(layout.EVALUATION.read_text())
    metrics["generator"]["tuned_sha256"] = "0" * 64
    write_json(layout.EVALUATION, metrics)
    with pytest.raises(InputError, match=r"evaluation\.json: is of another model"):
        run(finished)


def test_nothing_of_anyone_elses_is_overwritten(finished: Settings) -> None:
    layout.EXPORT.mkdir(parents=True)
    (layout.EXPORT / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is no earlier export"):
        run(finished)
    shutil.rmtree(layout.TUNED)
    with pytest.raises(InputError, match="holds no trained model; run `tgo train`"):
        run(finished)
