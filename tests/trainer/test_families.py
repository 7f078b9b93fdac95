"""Every family through all stages: prompts in, a tuned model of its own kind out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.families import FAMILY_OF, GUIDANCE, MASKED, PROMPTS, SEEDS, sample, write
from tests.family_parts import resolution
from tests.stage_one import PROMPTS as TRAINING
from tests.stage_one import score_into
from tests.trainer.miniature import Place, make_settings
from tests.trainer.test_train import CrashError, crash_at
from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators import load_generator
from tgo.pipeline.labelling import label
from tgo.pipeline.scoring.sampling import decode_png
from tgo.pipeline.storage import shards
from tgo.trainer import train

LORA = {"rank": 4, "alpha": 8, "targets": None}
KINDS = [
    "sd15",
    "sd21",
    "sdxl",
    "sd3",
    "flux",
    "chroma",
    "flux2",
    "qwenimage",
    "sana",
    "zimage",
    "wan",
    "amused",
    "meissonic",
]


def settings_of(kind: str, model: Path, **changes: Any) -> Settings:
    options = {"temperature": 1.0, "batch_size": 4, "steps": 4, "ema_decay": 0.0} | changes
    found = make_settings(model, family=FAMILY_OF.get(kind, kind), **options)
    sampler = {"resolution": resolution(kind), "guidance_scale": GUIDANCE}
    generator = found.generator.model_copy(update=sampler)
    return found.model_copy(update={"generator": generator})


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def place(kind: str, tmp_path_factory: pytest.TempPathFactory, tiny_panel: Any) -> Place:
    """The random model of a family, and what stages one and two make with it."""
    root = tmp_path_factory.mktemp(kind)
    settings = settings_of(kind, write(kind, root / "model"))
    score_into(root, load_generator(settings.generator), tiny_panel, TRAINING[:4])
    facts = label.label_folder(root / "scored", root / "labelled", settings.label, seed=0)
    assert facts["positives"] > 0
    return Place(root)


def trained(kind: str, place: Place, name: str, **options: Any) -> Path:
    """The tuned model's folder, after a look at the log and an image."""
    settings = settings_of(kind, place.root / "model", **options)
    tuned = train.run(settings, place.paths(name))
    lines = [json.loads(line) for line in place.paths(name).log.read_text().splitlines()]
    assert lines
    assert all(math.isfinite(line["loss"]) for line in lines)
    base, found = (load_generator(settings.generator, model) for model in (None, tuned))
    assert not torch.equal(sample(found, PROMPTS, SEEDS), sample(base, PROMPTS, SEEDS))
    return tuned


def test_a_family_goes_through_all_stages(kind: str, place: Place) -> None:
    base = load_generator(settings_of(kind, place.root / "model").generator)
    path = shards.shard_paths(place.inputs["scored"])[0]
    assert shards.read_metadata(path)["tgo.latents"]["shape"] == list(
        next(iter(base.latent_shapes.values()))
    )
    images = [decode_png(row["bytes"]) for row in shards.read_shard(path)["image"].to_pylist()]
    # batch size differs from stage one's, so values may differ by 1 level of 255
    decoded = base.decode(torch.from_numpy(shards.read_latents(path).copy())).numpy()
    assert np.abs(decoded.astype(int) - np.stack(images)).max() <= 1
    trained(kind, place, "full")


def test_a_family_trains_adapters_in_little_memory(kind: str, place: Place) -> None:
    checkpointing = kind != "amused"  # aMUSEd's network does not support it
    options = {
        "precision": "bfloat16",
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": checkpointing,
    }
    tuned = trained(kind, place, "adapters", lora=LORA, learning_rate=1e-2, **options)
    files = {"README.md", layout.LORA, layout.BASE_MODEL, layout.TRAINED_ON}
    assert {path.name for path in tuned.iterdir()} == files
    generator = settings_of(kind, place.root / "model").generator
    base, ours = (load_generator(generator, model).network for model in (None, tuned))
    before, merged = ({**network.state_dict()} for network in (base, ours))
    assert any(not torch.equal(merged[name], value) for name, value in before.items())
    if kind in MASKED:  # their pipelines load no adapters, but their networks do
        base.load_lora_adapter(tuned, weight_name=layout.LORA)  # type: ignore[operator]
        base.fuse_lora()  # type: ignore[operator]
        base.unload_lora()  # type: ignore[operator]
        stock = base
    else:
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(place.root / "model")
        pipeline.load_lora_weights(tuned, weight_name=layout.LORA)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        stock = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(merged[name], value)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_train_on_weights_of_8_bits(kind: str, place: Place, precision: str) -> None:
    """The frozen base is quantised; the adapters are loaded onto the unquantised one as well."""
    if kind not in ("sd15", "flux2"):
        pytest.skip("two kinds of networks are enough")
    pytest.importorskip("torchao")
    options = {"lora": LORA, "learning_rate": 1e-2, "precision": precision}
    settings = settings_of(kind, place.root / "model", **options)
    generator = settings.generator.model_copy(update={"quantization": "int8"})
    settings = settings.model_copy(update={"generator": generator})
    tuned = train.run(settings, place.paths(f"int8-{precision}"))
    plain = generator.model_copy(update={"quantization": None})
    base, found = (load_generator(plain, model).network.state_dict() for model in (None, tuned))
    changed = [name for name in base if not torch.equal(base[name], found[name])]
    assert changed
    assert all(".to_" in name and found[name].isfinite().all() for name in changed)


def test_adapters_resume_to_the_bit_with_other_workers(
    kind: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, workers: int) -> Path:
        options = {
            "ema_decay": 0.9,
            "gradient_accumulation_steps": 2,
            "checkpoint_every": 2,
            "workers": workers,
        }
        settings = settings_of(kind, place.root / "model", lora=LORA, steps=5, **options)
        return train.run(settings, place.paths(name))

    whole = run("whole", 0)
    with monkeypatch.context() as patch:
        crash_at(patch, 4)
        with pytest.raises(CrashError):
            run("crashed", 2)
    tuned = run("crashed", 1)
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert Path(layout.LORA) in files
    for file in files:
        assert (tuned / file).read_bytes() == (whole / file).read_bytes(), file
