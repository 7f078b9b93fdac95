"""Files that must not be scored with end in one line naming the file or key."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tgo.rewards import checkpoint
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import CheckpointError
from tgo.rewards.panel import Panel, load

WEIGHTS = {
    "pickscore": "model.safetensors",
    "hpsv2": "HPS_v2.1_compressed.pt",
    "imagereward": "ImageReward.pt",
    "clip": "model.safetensors",
    "aesthetic": "sac+logos+ava1-l14-linearMSE.pth",
}
CONFIGS = {
    "pickscore": "config.json",
    "hpsv2": "open_clip_config.json",
    "imagereward": "med_config.json",
    "clip": "config.json",
}
names = pytest.mark.parametrize("name", list(WEIGHTS))


@pytest.fixture
def folder(sources: dict[str, str], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one model (with the CLIP that the aesthetic head names) to do harm to."""

    def copy(name: str) -> Path:
        if name == "aesthetic":
            shutil.copytree(sources["clip"], tmp_path / "clip")
        return Path(shutil.copytree(sources[name], tmp_path / name))

    return copy


def edit_weights(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    if path.suffix == ".safetensors":
        state = load_file(path)
        change(state)
        save_file(state, path)
        return
    content = torch.load(path, weights_only=True)
    change(content.get("state_dict", content))
    torch.save(content, path)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(name: str, place: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(name, place)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@names
def test_missing_key(name: str, folder: Callable[[str], Path]) -> None:
    path = folder(name) / WEIGHTS[name]
    lost: list[str] = []
    edit_weights(path, lambda state: lost.append(state.popitem()[0]))
    message = refusal(name, path.parent)
    assert str(path) in message
    assert f"missing: {lost[0]}" in message


@names
def test_surplus_key(name: str, folder: Callable[[str], Path]) -> None:
    path = folder(name) / WEIGHTS[name]
    edit_weights(path, lambda state: state.update({"layers.9.weight": torch.zeros(1)}))
    assert "surplus: layers.9.weight" in refusal(name, path.parent)


@names
def test_misshapen_key(name: str, folder: Callable[[str], Path]) -> None:
    path = folder(name) / WEIGHTS[name]
    changed: list[str] = []

    def double(state: dict[str, torch.Tensor]) -> None:
        key = next(key for key, value in state.items() if value.ndim > 1)
        changed.append(key)
        state[key] = torch.cat([state[key], state[key]])

    edit_weights(path, double)
    message = refusal(name, path.parent)
    assert f"misshapen: {changed[0]} (is [" in message


def test_values_that_are_no_tensors(folder: Callable[[str], Path]) -> None:
    path = folder("imagereward") / WEIGHTS["imagereward"]
    edit_weights(path, lambda state: state.update({"mlp.layers.7.bias": 3}))
    assert "missing: mlp.layers.7.bias; surplus: mlp.layers.7.bias" in refusal(
        "imagereward", path.parent
    )
    torch.save({"state_dict": []}, folder("hpsv2") / WEIGHTS["hpsv2"])
    assert "state_dict" in refusal("hpsv2", path.parent.parent / "hpsv2")


@names
def test_truncated_file(name: str, folder: Callable[[str], Path]) -> None:
    path = folder(name) / WEIGHTS[name]
    path.write_bytes(path.read_bytes()[:-2000])
    message = refusal(name, path.parent)
    assert str(path) in message
    assert "download or build it again" in message


@names
def test_empty_file(name: str, folder: Callable[[str], Path]) -> None:
    path = folder(name) / WEIGHTS[name]
    path.write_bytes(b"")
    assert str(path) in refusal(name, path.parent)


@names
def test_absent_weights_and_absent_folder(name: str, folder: Callable[[str], Path]) -> None:
    path = folder(name) / WEIGHTS[name]
    path.unlink()
    assert WEIGHTS[name] in refusal(name, path.parent)
    assert "no such file or folder" in refusal(name, path.parent / "elsewhere")


@pytest.mark.parametrize("name", list(CONFIGS))
def test_bad_configuration(name: str, folder: Callable[[str], Path]) -> None:
    path = folder(name) / CONFIGS[name]
    path.write_text("{")
    assert "no valid JSON" in refusal(name, path.parent)
    path.unlink()
    assert CONFIGS[name] in refusal(name, path.parent)


def test_configuration_of_impossible_sizes(folder: Callable[[str], Path]) -> None:
    place = folder("imagereward")
    edit_json(place / "vision_config.json", patch_size=7)
    assert "must divide image_size" in refusal("imagereward", place)
    edit_json(place / "vision_config.json", patch_size=8, colour="red")
    assert "vision_config.json: describes no model" in refusal("imagereward", place)
    clip = folder("clip")
    edit_json(clip / "config.json", vision_config={"hidden_size": 30, "num_attention_heads": 4})
    assert "config.json: describes no model" in refusal("clip", clip)


def test_pickled_code_is_not_run(folder: Callable[[str], Path], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "sprung",)

    path = folder("aesthetic") / WEIGHTS["aesthetic"]
    path.write_bytes(pickle.dumps({"layers.0.weight": Trap()}, protocol=2))
    refusal("aesthetic", path.parent)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "config"), [("hpsv2", "open_clip_config.json"), ("imagereward", "vision_config.json")]
)
def test_a_stand_in_for_published_weights_is_refused(
    name: str, config: str, folder: Callable[[str], Path]
) -> None:
    place = folder(name)
    (place / config).unlink()
    message = refusal(name, place)
    assert checkpoint.PUBLISHED_SHA256[WEIGHTS[name]] in message
    assert config in message


def test_hps_v20_under_the_name_of_v21_is_refused(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder("hpsv2")
    (place / "open_clip_config.json").unlink()
    digest = file_sha256(place / WEIGHTS["hpsv2"])
    monkeypatch.setitem(checkpoint.PUBLISHED_SHA256, "HPS_v2_compressed.pt", digest)
    assert "the published HPS_v2.1_compressed.pt" in refusal("hpsv2", place)


def test_tokenizer_of_another_model(folder: Callable[[str], Path]) -> None:
    place = folder("imagereward")
    with (place / "vocab.txt").open("a") as file:
        file.write("extra\n")
    assert "vocab.txt" in refusal("imagereward", place)
    (place / "vocab.txt").unlink()
    assert "vocab.txt" in refusal("imagereward", place)
    place = folder("pickscore")
    config = json.loads((place / "config.json").read_text())
    text = config["text_config"] | {"eos_token_id": 5}
    edit_json(place / "config.json", text_config=text)
    assert "eos_token_id" in refusal("pickscore", place)
    (place / "tokenizer.json").unlink()
    assert "tokenizer.json" in refusal("pickscore", place)


def test_clip_needs_openais_vocabulary(sources: dict[str, str], tmp_path: Path) -> None:
    place = Path(shutil.copytree(sources["pickscore"], tmp_path / "clip"))
    config = json.loads((place / "config.json").read_text())
    sides = {
        side: config[side] | {"hidden_act": "quick_gelu"}
        for side in ("text_config", "vision_config")
    }
    edit_json(place / "config.json", **sides)
    assert "49408" in refusal("clip", place)


def test_aesthetic_needs_a_clip(
    folder: Callable[[str], Path], sources: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder("aesthetic")
    (place / "aesthetic_config.json").unlink()
    assert "which CLIP" in refusal("aesthetic", place)
    with pytest.raises(CheckpointError, match="the published sac"):
        Panel.load({"clip": sources["clip"], "aesthetic": str(place)})
    digest = file_sha256(place / WEIGHTS["aesthetic"])
    monkeypatch.setitem(checkpoint.PUBLISHED_SHA256, WEIGHTS["aesthetic"], digest)
    both = Panel.load({"clip": sources["clip"], "aesthetic": str(place)})
    assert (
        both.describe()["aesthetic"]["files"]["clip"]
        == (both.describe()["clip"]["checkpoint_sha256"])
    )


def test_unknown_model() -> None:
    with pytest.raises(CheckpointError, match="no such reward model"):
        load("beauty", ".")
