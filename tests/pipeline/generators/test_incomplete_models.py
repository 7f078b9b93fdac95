"""Model folders as people have them: incomplete, of another kind, quantised, in older formats.

Each loads as the stock pipeline loads it, or is refused in one line with the part and the remedy.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families import PROMPTS, SEEDS, load, sample
from tests.pipeline.generators.test_latent_families import stock_images
from tests.trainer.miniature import make_settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.pipeline.generators.model_folder import ModelFolder

NETWORKS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
QUANTISED = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def no_vocabulary(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").unlink()


def newer_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer/tokenizer.json", model={"type": "SuperBPE", "vocab": {}})


def one_word_more(folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    word = {"id": len(content["model"]["vocab"]), "content": "small", "normalized": True}
    word |= {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    edit(path, added_tokens=[*content["added_tokens"], word])


def inpainting(folder: Path) -> None:
    edit(folder / "unet/config.json", in_channels=9)
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    weight = state["conv_in.weight"]
    more = torch.zeros(weight.shape[0], 5, *weight.shape[2:])
    save_file(state | {"conv_in.weight": torch.cat([weight, more], 1)}, path, {"format": "pt"})


def in_file(path: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / path, **changes)


def without(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


REFUSED = {
    "no vocabulary": (no_vocabulary, "tokenizer: has no vocabulary .*download the model again"),
    "newer tokenizer": (newer_tokenizer, "tokenizer: cannot be loaded .*ModelUntagged"),
    "one word more": (one_word_more, r"tokenizer: has \d+ tokens, but text_encoder has embeddings"),
    "no length": (
        without("tokenizer/tokenizer_config.json"),
        "tokenizer: does not say how many tokens a prompt has .*add the model's own",
    ),
    "class of a newer diffusers": (
        in_file("model_index.json", unet=["diffusers", "FancyNewNetwork"]),
        "unet is a FancyNewNetwork, which diffusers .* does not have; upgrade diffusers",
    ),
    "class of other code": (
        in_file("model_index.json", unet=["own_module", "Network"]),
        "a class of 'own_module', whose code is not run here",
    ),
    "noise in every step": (
        in_file("model_index.json", scheduler=["diffusers", "DPMSolverSDEScheduler"]),
        "DPMSolverSDEScheduler draws noise at every step.*use one of DDIMScheduler",
    ),
    "another parametrisation": (
        in_file("model_index.json", scheduler=["diffusers", "EDMEulerScheduler"]),
        "EDMEulerScheduler is no sampler that diffusion models are known",
    ),
    "quantised network": (
        in_file("unet/config.json", quantization_config=QUANTISED | {"quant_method": "absent"}),
        "unet: its weights are quantised by absent; install absent",
    ),
    "quantised text encoder without a GPU": (
        in_file("text_encoder/config.json", quantization_config=QUANTISED),
        "text_encoder: its weights are quantised by bitsandbytes, which needs a GPU",
    ),
    "not square": (
        in_file("unet/config.json", sample_size=[16, 24]),
        r"unet/config.json: sample_size is .16, 24., .*set generator\.resolution",
    ),
    "no size": (in_file("unet/config.json", sample_size=None), "sample_size is None"),
    "inpainting": (inpainting, "unet: reads 9 channels, the vae makes 4"),
    "no weights": (
        without("unet/diffusion_pytorch_model.safetensors"),
        r"unet: holds no weights \(.safetensors or .bin\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_in_one_line(
    case: str,
    folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change, words = REFUSED[case]
    shutil.copytree(folders("sd15"), tmp_path / "model")
    change(tmp_path / "model")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=words) as caught:
        load("sd15", tmp_path / "model", resolution=None).encode_prompts(["a red circle"])
    assert "\n" not in str(caught.value)
    assert "make world" not in str(caught.value)


def test_a_model_of_another_family_is_told_which(folders: Callable[[str], Path]) -> None:
    for kind, family in (("sdxl", "diffusion"), ("sd3", "flux"), ("flux", "sd3")):
        settings = make_settings(folders(kind), family=family).generator
        with pytest.raises(InputError, match=f"set generator.family to {kind}"):
            load_generator(settings)


def test_a_single_file_is_told_how_it_becomes_a_folder(tmp_path: Path) -> None:
    (tmp_path / "v1-5-pruned.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"from_single_file\('.*'\)\.save_pretrained"):
        ModelFolder(str(tmp_path / "v1-5-pruned.safetensors"))


def test_a_pickle_that_would_run_code_is_refused(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    shutil.copytree(folders("sd15"), tmp_path / "model")
    weights = tmp_path / "model/unet/diffusion_pytorch_model"
    weights.with_suffix(".safetensors").unlink()
    torch.save({"conv_in.weight": Bomb()}, weights.with_suffix(".bin"))
    with pytest.raises(InputError, match="unet: cannot be loaded"):
        load("sd15", tmp_path / "model")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["bin", "fp16.safetensors"])
def test_weights_in_other_files_are_the_same_model(
    form: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(folders("sd15"), tmp_path / "model")
    for part, name in NETWORKS.items():
        path = tmp_path / "model" / part / f"{name}.safetensors"
        if form == "bin":
            torch.save(load_file(path), path.with_suffix(".bin"))
            path.unlink()
        else:
            path.rename(path.with_name(f"{name}.{form}"))
    expected, found = (load("sd15", place) for place in (folders("sd15"), tmp_path / "model"))
    for name, value in expected.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value), name


@pytest.mark.parametrize(
    "settings", [{"clip_sample": None}, {"clip_sample": True, "steps_offset": 0}]
)
def test_a_scheduler_is_corrected_as_the_stock_pipeline_does(
    settings: dict[str, Any], folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """DDIM cuts its samples off unless told not to; the stock pipeline tells it."""
    shutil.copytree(folders("sd15"), tmp_path / "model")
    edit(tmp_path / "model/model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    edit(tmp_path / "model/scheduler/scheduler_config.json", **settings)
    family = load("sd15", tmp_path / "model")
    images = family.decode(sample(family, PROMPTS, SEEDS)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(images, stock_images("sd15", tmp_path / "model"))


def test_a_tiny_autoencoder_decodes_and_encodes(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from diffusers import AutoencoderTiny

    shutil.copytree(folders("sd15"), tmp_path / "model", ignore=shutil.ignore_patterns("vae"))
    sizes = {f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")}
    blocks = {f"num_{part}_blocks": (1, 1) for part in ("encoder", "decoder")}
    AutoencoderTiny(**sizes, **blocks).save_pretrained(tmp_path / "model/vae")
    edit(tmp_path / "model/model_index.json", vae=["diffusers", "AutoencoderTiny"])
    family = load("sd15", tmp_path / "model")
    images = family.decode(sample(family, PROMPTS, SEEDS))
    latents = family.encode(images)
    assert latents.shape == (2, *family.latent_shape)
    assert torch.equal(family.encode(images), latents)


def test_a_tuned_folder_holds_what_the_index_names_and_no_local_path(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tmp_path / "home-of-someone"
    shutil.copytree(folders("sd15"), base)
    for name in ("whole-model.safetensors", "LICENSE.md", ".cache/x"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("x")
    family = load("sd15", base)
    family.save(family.network, tmp_path / "tuned")
    names = {path.name for path in (tmp_path / "tuned").iterdir()}
    assert names == {"LICENSE.md", "model_index.json", *family.parts}
    for path in (tmp_path / "tuned").rglob("*.json"):
        assert "home-of-someone" not in path.read_text(), path
