from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from tests import adapters
from tests.pipeline.finished_run import make_settings, write_run
from tgo.pipeline import layout
from tgo.pipeline.cards import model_card
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator, model_sha256
from tgo.pipeline.publishing import export, lora_formats
from tgo.pipeline.storage import trained_on
from tgo.pipeline.storage.atomic import write_json
from tgo.pipeline.storage.ownership import MARKER
from tgo.pipeline.training_log import sample_strips
from tgo.pipeline.wording import minus


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_generator: Path) -> Settings:
    """A finished run in the working directory, with a model that is really there."""
    monkeypatch.chdir(tmp_path)
    settings = make_settings(generator={"model": str(tiny_generator)})
    write_run(settings)
    shutil.copytree(tiny_generator, layout.TUNED)
    model_card.write(layout.TUNED, settings, layout.THRESHOLD)
    now_evaluated(settings)
    Path("params.yaml").write_text("seed: 0\n")
    return settings


def test_a_full_disk_is_one_line_and_leaves_nothing(finished: Settings, small_disk: Path) -> None:
    with pytest.raises(InputError, match=r"export: cannot be written .*No space left"):
        export.run(finished, Path("params.yaml"), small_disk / "export")
    assert not list(small_disk.iterdir())


def run(settings: Settings, **options: str) -> Path:
    return export.run(settings, Path("params.yaml"), layout.EXPORT, **options)  # type: ignore[arg-type]


def test_an_export_is_the_model_with_its_scores(finished: Settings) -> None:
    before = {path: path.read_bytes() for path in layout.TUNED.rglob("*") if path.is_file()}
    folder = run(finished)
    card = ModelCard.load(folder / "README.md")
    metrics = json.loads(layout.EVALUATION.read_text())
    results = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    wanted = metrics["seen"]["pickscore"]["tuned"]
    assert results[("seen", "pickscore")] == pytest.approx(wanted, abs=0.005)
    assert ("hard", "gold") in results
    assert card.data.base_model is None  # a folder is no repository
    row = metrics["unseen"]["hpsv2"]
    change = minus(f"{row['difference']:+.4f}")
    assert f"| {row['base']:.4f} | {row['tuned']:.4f} | {change} |" in card.text
    assert not re.search(r"\b\d\.\d{5}", (folder / "README.md").read_text())
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
    text = model_card.render(settings, None, pipeline="StableDiffusionPipeline", lora=layout.LORA)
    card = ModelCard(text)
    assert "| adapters of rank 8, alpha 16.0; moving average" in text
    merged = model_card.render(settings, None, pipeline="StableDiffusionPipeline")
    assert "alpha 16.0, merged into the model; moving average" in merged
    header = card.data.to_dict()
    assert header["base_model"] == "someone/some-model"
    assert "lora" in header["tags"]
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
    name = layout.LORA if lora else None
    text = model_card.render(make_settings(), None, pipeline=pipeline, lora=name)
    assert said in text
    assert ("from diffusers import" in text) == (pipeline != "Pipeline")


def test_adapters_go_alone_unless_all_is_asked_for(finished: Settings) -> None:
    with pytest.raises(InputError, match=r"pytorch_lora_weights\.safetensors: is missing"):
        run(finished, kind="lora")
    write_adapters(finished)
    names = {path.name for path in run(finished).iterdir()}
    assert names == {"README.md", "tgo", layout.LORA, MARKER}
    for dtype in ("float32", "bfloat16"):
        generator = finished.generator.model_copy(update={"dtype": dtype})
        full = run(finished.model_copy(update={"generator": generator}), kind="full")
        assert {"unet", "vae"} <= {path.name for path in full.iterdir()}
        assert not (full / layout.LORA).exists()
        found, evaluated = (
            load_generator(generator, folder).network.state_dict()
            for folder in (full, layout.TUNED)
        )
        assert all(torch.equal(found[name], value) for name, value in evaluated.items())
        assert {value.dtype for value in found.values()} == {getattr(torch, dtype)}


def test_sample_images_go_along(finished: Settings) -> None:
    sample_strips.describe(layout.SAMPLES, {"prompts": ["a"]})
    sample_strips.write(layout.SAMPLES, 0, np.zeros((1, 4, 4, 3), np.uint8))
    sample_strips.write(layout.SAMPLES, 50, np.zeros((1, 4, 4, 3), np.uint8))
    sample_strips.write(layout.SAMPLES, 100, np.zeros((1, 4, 4, 3), np.uint8))
    folder = run(finished)
    shown = re.findall(r"!\[.*\]\((.*)\)", (folder / "README.md").read_text())
    assert shown == [f"tgo/samples/step-{step:08d}.png" for step in (0, 100)]
    assert all((folder / file).is_file() for file in shown)


def test_the_licence_is_the_base_models(finished: Settings) -> None:
    def header() -> dict[str, object]:
        return dict(ModelCard.load(run(finished) / "README.md").data.to_dict())

    assert "license" not in header()
    assert "which is not known here" in (layout.EXPORT / "README.md").read_text()
    folder = Path("base")
    shutil.copytree(finished.generator.model, folder)
    said = "license: other\nlicense_name: some-licence\nlicense_link: LICENSE.md\n"
    (folder / "README.md").write_text(f"---\n{said}---\n\n# A model\n")
    generator = finished.generator.model_copy(update={"model": str(folder)})
    licensed = finished.model_copy(update={"generator": generator})
    text = model_card.render(licensed, None, pipeline="StableDiffusionPipeline")
    assert said in text
    assert "not known here" not in text
    assert ModelCard.load(run(finished, licence="mit") / "README.md").data.license == "mit"


def test_the_root_of_the_disk_is_no_place(finished: Settings) -> None:
    with pytest.raises(InputError, match="/: is the working folder or holds it"):
        export.run(finished, Path("params.yaml"), Path("/"))


def test_scores_of_another_model_are_refused(finished: Settings) -> None:
    metrics = json.loads(layout.EVALUATION.read_text())
    metrics["generator"]["tuned_sha256"] = "0" * 64
    write_json(layout.EVALUATION, metrics)
    with pytest.raises(InputError, match=r"evaluation\.json: is of another model"):
        run(finished)


def test_labels_that_the_model_was_not_trained_on_are_refused(finished: Settings) -> None:
    trained_on.note(layout.TUNED, finished.train, layout.THRESHOLD)
    run(finished)
    other = finished.train.model_copy(update={"steps": 20})
    with pytest.raises(
        InputError, match=r"trained with train\.steps = \d+, and params\.yaml says 20"
    ):
        run(finished.model_copy(update={"train": other}))
    freely = finished.train.model_copy(update={"workers": 3, "loggers": []})
    run(finished.model_copy(update={"train": freely}))
    found = json.loads(layout.THRESHOLD.read_text())
    write_json(layout.THRESHOLD, found | {"identity": "0" * 64})
    with pytest.raises(InputError, match=r"threshold\.json: is of other labels than models/tuned"):
        run(finished)


def write_adapters(settings: Settings) -> None:
    """Random adapters as the tuned model, as if it were what was evaluated."""
    shutil.rmtree(layout.TUNED)
    adapters.write(load_generator(settings.generator), layout.TUNED, rank=4, alpha=16.0)
    now_evaluated(settings)


def now_evaluated(settings: Settings) -> None:
    """Have the scores be those of the tuned model as it is."""
    metrics = json.loads(layout.EVALUATION.read_text())
    metrics["generator"]["tuned_sha256"] = model_sha256(settings.generator, layout.TUNED)
    write_json(layout.EVALUATION, metrics)


def moved(folder: Path, adapters: Path) -> torch.Tensor:
    """How adapters, loaded by a stock pipeline, change the network's prediction."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, torch_dtype=torch.float32
    )
    config, generator = pipeline.unet.config, torch.Generator().manual_seed(1)
    size = (1, config.in_channels, config.sample_size, config.sample_size)
    words = torch.randn(1, 7, config.cross_attention_dim, generator=generator)
    given = torch.randn(size, generator=generator), torch.tensor([500]), words
    with torch.no_grad():
        before = pipeline.unet(*given).sample
        pipeline.load_lora_weights(adapters.parent, weight_name=adapters.name)
        return pipeline.unet(*given).sample - before


def test_adapters_are_read_alike_wherever_they_go(finished: Settings) -> None:
    base = Path(finished.generator.model)
    write_adapters(finished)
    wanted = moved(base, layout.TUNED / layout.LORA)
    assert wanted.abs().max() > 1e-3
    for format in ("diffusers", "comfyui", "kohya"):
        folder = run(finished, format=format)
        (found,) = folder.glob("*.safetensors")
        weights = load_file(found)
        assert {v.dtype for k, v in weights.items() if "alpha" not in k} == {torch.float16}
        torch.testing.assert_close(moved(base, found), wanted, atol=2e-3, rtol=2e-2)
        if format == "diffusers":
            continue
        # keys that ComfyUI accepts: lora_unet_ plus a U-Net module's diffusers name
        names = UNet2DConditionModel.from_pretrained(base, subfolder="unet").state_dict()
        modules = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
        known = {f"lora_unet_{module.replace('.', '_')}" for module in modules}
        assert {key.split(".")[0] for key in weights} <= known
        # a reader that assumes alpha = rank and one that reads alpha get the same strength
        assert {float(v) for k, v in weights.items() if k.endswith(".alpha")} == {4.0}


def test_programs_that_do_not_know_a_family_are_named(finished: Settings) -> None:
    lora_formats.check("diffusers", "amused")
    with pytest.raises(InputError, match=r"--format kohya: reads .*zimage, wan, not of amused"):
        lora_formats.check("kohya", "amused")
    with pytest.raises(InputError, match=r"pytorch_lora_weights\.safetensors: is missing"):
        run(finished, format="kohya")
    write_adapters(finished)
    (layout.TUNED / layout.LORA).write_bytes(b"damaged")
    now_evaluated(finished)
    with pytest.raises(InputError, match="is damaged, or no adapters"):
        run(finished, format="comfyui")


def test_a_folder_of_someone_elses_is_left_alone(finished: Settings, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "tgo").mkdir(parents=True)  # a folder named tgo, as in the parent of a clone
    (theirs / "thesis.txt").write_text("mine")
    for output in (theirs, tmp_path, Path(), tmp_path.parent):
        with pytest.raises(InputError, match=r"was not written by|is the working folder"):
            export.run(finished, Path("params.yaml"), output)
    assert (theirs / "thesis.txt").read_text() == "mine"
    folder = run(finished)
    run(finished)  # a folder that export wrote is replaced
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt: was not written by this program"):
        run(finished)
    assert (folder / "notes.txt").read_text() == "mine"
    shutil.rmtree(layout.TUNED)
    with pytest.raises(InputError, match="holds no trained model; run `tgo train`"):
        run(finished)


def test_an_output_that_is_a_link_is_followed(finished: Settings, tmp_path: Path) -> None:
    layout.EXPORT.parent.mkdir(exist_ok=True)
    layout.EXPORT.symlink_to(tmp_path / "elsewhere")
    run(finished)
    run(finished)
    assert (tmp_path / "elsewhere/README.md").is_file()
    assert layout.EXPORT.is_symlink()


def test_nothing_names_this_machine(finished: Settings) -> None:
    home = "/home/someone/models/base"
    Path("params.yaml").write_text(f"generator: {{model: {home}}}\nurl: https://a.example/b/c\n")
    config = layout.TUNED / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": home}))
    facts = json.loads(layout.EVALUATION.read_text())
    found = model_sha256(finished.generator, layout.TUNED)
    facts["generator"] |= {"base": home, "tuned_sha256": found}
    write_json(layout.EVALUATION, facts)
    generator = finished.generator.model_copy(update={"model": home})
    card = model_card.render(
        finished.model_copy(update={"generator": generator}), None, pipeline="Pipeline"
    )
    assert "/home" not in card
    assert "# base, aligned with TGO" in card
    folder = run(finished)
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml", ".md"):
            assert "someone" not in path.read_text(), path
    assert "https://a.example/b/c" in (folder / "tgo/params.yaml").read_text()
    assert json.loads((folder / "unet/config.json").read_text())["_name_or_path"] == "base"


def test_ratings_of_people_are_told_of_and_nothing_else(finished: Settings) -> None:
    label = finished.label.model_copy(update={"reward": {"rating": 1.0}})
    rated = finished.model_copy(update={"label": label, "rewards": {}})
    facts = json.loads(layout.THRESHOLD.read_text())
    facts["rewards"] = {
        "rating": facts["rewards"]["pickscore"]
        | {"model": "stars.csv", "images": 60, "ratings": 240, "raters": 4}
    }
    text = model_card.render(rated, facts, pipeline="StableDiffusionPipeline")
    assert "People rated images" in text
    for line in ("| ratings of people | stars.csv |", "| images | 60 |", "| raters | 4 |"):
        assert line in text
    assert "Images of the base model were scored" not in text
    assert "| prompts |" not in text
    assert "checkpoint of" not in text
