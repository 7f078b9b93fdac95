"""Five reward models of a given size in the published formats, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tgo.rewards import aesthetic, clip, hpsv2, imagereward, pickscore
from tgo.rewards.blip import TextConfig, VisionConfig
from tgo.rewards.heads import LinearHead

WORLD = Path("data/world/rewards")
NAMES = ("pickscore", "hpsv2", "imagereward", "clip", "aesthetic")
SIZES = ("miniature", "base", "full")


class Tower(NamedTuple):
    """One transformer, MLP four times as wide."""

    width: int
    layers: int
    heads: int


class Size(NamedTuple):
    """Towers of the two H/14 models, of CLIP-L and of BLIP's ViT, with their patch sizes."""

    huge: tuple[Tower, Tower, int, int]  # image, text, patch, joint space
    large: tuple[Tower, Tower, int, int]
    blip: VisionConfig
    bert_layers: int = 12


_B = Tower(768, 12, 12)
LAYOUTS = {
    "base": Size(
        (_B, Tower(512, 12, 8), 16, 512),
        (_B, Tower(512, 12, 8), 16, 768),
        VisionConfig(width=768, depth=12, heads=12),
    ),
    "full": Size(
        (Tower(1280, 32, 16), Tower(1024, 24, 16), 14, 1024),
        (Tower(1024, 24, 16), Tower(768, 12, 12), 14, 768),
        VisionConfig(),
    ),
}


def write(size: str, folder: Path, device: str = "cpu") -> dict[str, str]:
    """Writes them below `folder` (the world's own for "miniature"); returns sources by name.

    The weights are drawn on `device`.
    """
    if size == "miniature":
        return {name: str(WORLD / name) for name in NAMES}
    layout = LAYOUTS[size]
    words = CLIPTokenizer.from_pretrained(WORLD / "pickscore")
    with torch.device(device):
        pick = _clip(layout.huge, "gelu", len(words), words.bos_token_id, words.eos_token_id)
    pickscore.save(folder / "pickscore", pick, words)
    config = _open_clip(layout.huge)
    with torch.device(device):
        huge = hpsv2.build(config)
    hpsv2.save(folder / "hpsv2", huge, config)
    text = (WORLD / "imagereward" / imagereward.VOCABULARY).read_text().splitlines()
    bert = TextConfig(vocab_size=len(text) + 2, num_hidden_layers=layout.bert_layers)
    with torch.device(device):
        network = imagereward.ImageRewardNetwork(bert, layout.blip)
    imagereward.save(folder / "imagereward", network, text)
    with torch.device(device):
        large = _clip(layout.large, "quick_gelu", 49408, 49406, 49407)
    clip.save(folder / "clip", large)
    aesthetic.save(folder / "aesthetic", LinearHead(768), clip="../clip")
    return {name: str(folder / name) for name in NAMES}


def _clip(
    sizes: tuple[Tower, Tower, int, int], activation: str, vocabulary: int, start: int, end: int
) -> CLIPModel:
    image, text, patch, joint = sizes

    def tower(shape: Tower) -> dict[str, Any]:
        return {
            "hidden_size": shape.width,
            "intermediate_size": 4 * shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "hidden_act": activation,
            "projection_dim": joint,
        }

    words = {"vocab_size": vocabulary, "bos_token_id": start, "eos_token_id": end}
    return CLIPModel(
        CLIPConfig(
            text_config={**tower(text), **words, "max_position_embeddings": 77},
            vision_config={**tower(image), "image_size": 224, "patch_size": patch},
            projection_dim=joint,
        )
    )


def _open_clip(sizes: tuple[Tower, Tower, int, int]) -> dict[str, Any]:
    image, text, patch, joint = sizes
    return {
        "embed_dim": joint,
        "vision_cfg": {
            "image_size": 224,
            "layers": image.layers,
            "width": image.width,
            "head_width": image.width // image.heads,
            "patch_size": patch,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    }
