from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.families import PROMPTS, SEEDS, Loaded, case, load, sample
from tgo.pipeline.errors import InputError


def test_sdxl_has_zeros_for_the_empty_prompt_where_it_says_so(
    loaded: Callable[[str], Loaded],
) -> None:
    for kind, zeros in (("sdxl", True), ("sdxl-other", False)):
        empty, given = (loaded(kind).encode_prompts([text]) for text in ("", "a red circle"))
        assert given.keys() == {"embeddings", "pooled"}
        assert all((value == 0).all() for value in empty.values()) is zeros
        assert all((value != 0).any() for value in given.values())


def test_sdxl_decodes_in_float32_where_float16_would_overflow(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    assert load("sdxl", folders("sdxl"), dtype="float16")._vae.dtype == torch.float32
    assert load("sdxl", folders("sdxl"), dtype="bfloat16")._vae.dtype == torch.bfloat16
    shutil.copytree(folders("sdxl"), tmp_path / "fixed")
    path = tmp_path / "fixed/vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"force_upcast": False}))
    assert load("sdxl", tmp_path / "fixed", dtype="float16")._vae.dtype == torch.float16


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "zimage", "wan"])
def test_bfloat16_samples_and_trains(kind: str, folders: Callable[[str], Path]) -> None:
    family = load(kind, folders(kind), dtype="bfloat16", steps=2)
    latents = sample(family, PROMPTS, SEEDS)
    assert latents.isfinite().all()
    assert latents.dtype == torch.float32
    found = family.log_likelihood(family.network, *case(family), temperature=1.0).values
    assert found.isfinite().all()
    assert found.dtype == torch.float32


def test_the_resolution_is_a_setting(folders: Callable[[str], Path]) -> None:
    family = load("sd3", folders("sd3"), resolution=24)
    assert family.latent_shape == (4, 12, 12)
    assert family.decode(sample(family, PROMPTS, SEEDS)).shape == (2, 3, 24, 24)
    assert load("sd3", folders("sd3"), resolution=None).latent_shape == (4, 8, 8)
    assert load("flux", folders("flux"), resolution=None).latent_shape == (4, 128, 128)
    assert load("wan", folders("wan"), resolution=None).latent_shape == (16, 1, 60, 60)
    with pytest.raises(InputError, match=r"generator\.resolution: 18 is no multiple of 4"):
        load("flux", folders("flux"), resolution=18)
