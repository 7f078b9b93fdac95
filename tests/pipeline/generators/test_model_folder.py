"""Model folders as they are published: hub ids, damage, the names of older files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.families import load
from tests.hub import serving
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.model_folder import ModelFolder

PUBLISHED = ["sd15", "sdxl", "sd3", "flux", "zimage", "wan", "amused", "meissonic"]


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_repository_in_the_cache_needs_no_network(
    kind: str, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("diffusers.utils.constants.HF_HUB_OFFLINE", True, raising=False)
    place = tmp_path / f"models--someone--{kind}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("0" * 40)
    shutil.copytree(folders(kind), place / "snapshots" / ("0" * 40))
    found = load(kind, f"someone/{kind}")
    assert found.describe() == load(kind, folders(kind)).describe()
    with pytest.raises(InputError, match="no such model folder or reachable hub repository"):
        load(kind, "someone/nothing")


FETCH = """
import json, sys
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.model_folder import ModelFolder
from tests.families import load
from tests.hub import serving

PUBLISHED = ["sd15", "sdxl", "sd3", "flux", "zimage", "wan", "amused", "meissonic"]
for kind in sys.argv[1:]:
    family = load(kind, f"someone/{kind}")
    family.encode_prompts(["a red circle"])
    print(json.dumps(family.describe()))
for name in ("gated/model", "someone/nothing"):
    try:
        load("sd15", name)
    except InputError as error:
        print(error)
"""


def test_repositories_are_fetched_from_the_hub_without_what_nobody_reads(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """In a process of its own: the address of the hub is read when the libraries are imported."""
    surplus = (
        "whole-model.safetensors",
        "{}/diffusion_pytorch_model.fp16.safetensors",
        "{}/model.bin",
    )
    for kind in PUBLISHED:
        repository = tmp_path / "hub/someone" / kind
        shutil.copytree(folders(kind), repository)
        part = "unet" if (repository / "unet").is_dir() else "transformer"
        for name in surplus:
            (repository / name.format(part)).write_bytes(b"large")
    with serving(tmp_path / "hub") as hub:
        told = subprocess.run(
            [sys.executable, "-c", FETCH, *PUBLISHED],
            env={
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_OFFLINE": "0",
            },
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
    for kind, line in zip(PUBLISHED, told, strict=False):
        assert json.loads(line) == load(kind, folders(kind)).describe(), kind
    assert "gated/model: its owner asks for consent to a licence" in told[-2]
    assert "someone/nothing: no such model folder or reachable hub repository" in told[-1]
    assert hub.fetched
    assert not [name for name in hub.fetched if name.endswith((".bin", "fp16.safetensors"))]
    assert not [name for name in hub.fetched if name.count("/") == 2 and "index" not in name]


@pytest.mark.parametrize(
    ("kind", "part"), [("sd3", "text_encoder_3"), ("flux", "transformer"), ("wan", "transformer")]
)
def test_weights_in_several_files_are_read(
    kind: str, part: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(folders(kind), tmp_path / "model")
    place = tmp_path / "model" / part
    whole = ModelFolder(str(folders(kind))).load(part, torch.float32)
    next(place.glob("*.safetensors")).unlink()
    whole.save_pretrained(place, max_shard_size="20KB")
    assert len(list(place.glob("*.safetensors"))) > 1
    found = ModelFolder(str(tmp_path / "model")).load(part, torch.float32).state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(found[name], value), name
    next(place.glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=f"{part}: "):
        load(kind, tmp_path / "model").encode_prompts(["a red circle"])


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("sdxl", "text_encoder_2"),
        ("sd3", "text_encoder_3"),
        ("flux", "transformer"),
        ("wan", "vae"),
    ],
)
def test_a_part_that_is_missing_or_truncated_is_named_at_once(
    kind: str, part: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(folders(kind), tmp_path / "model")
    weights = next((tmp_path / "model" / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(InputError, match=f"{part}/.*truncated"):
        load(kind, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    with pytest.raises(InputError, match=f"has no {part}"):
        load(kind, tmp_path / "model")


def published_names(state: dict[str, torch.Tensor]) -> None:
    """CLIP as older libraries saved it, with a prefix and the positions as a weight."""
    for name in list(state):
        if not name.startswith(("text_model.", "text_projection.")):
            state[f"text_model.{name}"] = state.pop(name)
    state["text_model.embeddings.position_ids"] = torch.arange(12)[None]


def published_vae(state: dict[str, torch.Tensor]) -> None:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name in list(state):
        if ".attentions.0." in name:
            new = name
            for ours, theirs in names.items():
                new = new.replace(f".{ours}.", f".{theirs}.")
            state[new] = state.pop(name)


def both_tables(state: dict[str, torch.Tensor]) -> None:
    state["encoder.embed_tokens.weight"] = state["shared.weight"].clone()


@pytest.mark.parametrize(
    ("kind", "part", "change"),
    [
        ("sd15", "text_encoder", published_names),
        ("sdxl", "text_encoder_2", published_names),
        ("sd15", "vae", published_vae),
        ("flux", "text_encoder_2", both_tables),
        ("wan", "text_encoder", both_tables),
    ],
)
def test_weights_are_read_under_the_names_of_the_published_files(
    kind: str,
    part: str,
    change: Callable[[dict[str, torch.Tensor]], None],
    folders: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders(kind), tmp_path / "model")
    path = next((tmp_path / "model" / part).glob("*.safetensors"))
    state = load_file(path)
    before = len(state), sorted(state)
    change(state)
    assert before != (len(state), sorted(state))
    save_file(state, path, metadata={"format": "pt"})
    found, expected = (
        ModelFolder(str(folder)).load(part, torch.float32).state_dict()
        for folder in (tmp_path / "model", folders(kind))
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
