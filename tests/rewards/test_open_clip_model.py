"""Any CLIP of open_clip, from a folder in its own layout, scores as open_clip itself does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from tests.family_parts import t5_tokenizer
from tests.rewards.awkward import colours
from tgo.rewards.errors import CheckpointError
from tgo.rewards.open_clip_model import CONFIG
from tgo.rewards.panel import Panel

VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
PREPROCESS = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
PROMPTS = ["a red circle", "ein roter Kreis", "un cercle rouge"]


def write_clip(folder: Path, text: dict[str, Any]) -> Path:
    """A random CLIP in open_clip's layout."""
    config: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if "hf_model_name" in text else open_clip.CLIP
    network = kind(**config)
    folder.mkdir(parents=True)
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    values = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / CONFIG).write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("open_clip") / "plain", TEXT)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XLM-RoBERTa for a text tower, with a tokenizer of its own beside the weights."""
    root = tmp_path_factory.mktemp("open_clip")
    tokenizer: PreTrainedTokenizerFast = t5_tokenizer()
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=80, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    XLMRobertaModel(config).save_pretrained(root / "tower")
    text = {
        "hf_model_name": str(root / "tower"),
        "hf_tokenizer_name": str(root / "tower"),
        "hf_proj_type": "mlp",
        "hf_model_pretrained": False,
        "context_length": 77,
    }
    folder = write_clip(root / "model", text)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["plain", "multilingual"])
def test_scores_are_open_clips_own(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    pictures = [colours(40, 56, seed=seed) for seed in range(3)]
    panel = Panel.load({"any": {"module": "tgo.rewards.open_clip_model", "source": str(folder)}})
    images = [as_tensor(picture) for picture in pictures]
    found = panel.score(images, PROMPTS)["any"]
    network, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    network.eval()
    with torch.inference_mode():
        seen = network.encode_image(torch.stack([transform(picture) for picture in pictures]))
        read = network.encode_text(tokenize(PROMPTS))
    torch.testing.assert_close(found, cosine_similarity(seen, read), rtol=1e-5, atol=1e-6)
    facts = panel.describe()["any"]
    assert set(facts["files"]) >= {CONFIG}
    assert facts["unit"] == "cosine"


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def test_what_cannot_be_loaded_is_named(plain: Path, tmp_path: Path) -> None:
    spec = {"module": "tgo.rewards.open_clip_model", "source": str(tmp_path / "copy")}
    shutil.copytree(plain, tmp_path / "copy")
    (tmp_path / "copy" / CONFIG).write_text('{"model_cfg": {"embed_dim": 16}}')
    with pytest.raises(CheckpointError, match="open_clip cannot load it"):
        Panel.load({"any": spec})
    (tmp_path / "copy" / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=f"holds no {CONFIG}"):
        Panel.load({"any": spec})
