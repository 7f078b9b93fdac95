"""Model folders as they are published: hub ids, damage, the names of older files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from tests.families import load


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3", "flux", "zimage", "wan"])
def test_a_repository_of_the_hub_goes_the_same_way(
    kind: str, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in the hub's cache, without a network."""
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

    from pipeline.generators.folder import ModelFolder

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
