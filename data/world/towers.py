"""Sizes of the world's reward models, and how they start from one another.

The originals started from CLIP (PickScore, HPSv2) and from BLIP (ImageReward), not from nothing.
Here all three start from the world's own CLIP: the functions below carry its weights into the
other two layouts and into a smaller vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from transformers import CLIPConfig, CLIPTokenizer

from tgo.data.world.render import SIDE
from tgo.rewards import ftfy_tokens
from tgo.rewards.aesthetic import EMBEDDING
from tgo.rewards.blip import TextConfig, VisionConfig
from tgo.rewards.images import View, render

PATCH, WIDTH, DEPTH, HEADS = 8, 96, 3, 3  # of every vision tower
TEXT_WIDTH, TEXT_DEPTH, TEXT_HEADS = 48, 2, 3
WORDS = 32  # tokens a prompt is padded to; the longest caption has 17

HPS_CONFIG: dict[str, Any] = {
    "embed_dim": EMBEDDING,
    "vision_cfg": {
        "image_size": SIDE,
        "layers": DEPTH,
        "width": WIDTH,
        "head_width": WIDTH // HEADS,
        "patch_size": PATCH,
    },
    "text_cfg": {
        "context_length": WORDS,
        "vocab_size": ftfy_tokens.VOCABULARY,
        "width": TEXT_WIDTH,
        "heads": TEXT_HEADS,
        "layers": TEXT_DEPTH,
    },
}
BLIP_VISION = VisionConfig(SIDE, PATCH, WIDTH, DEPTH, HEADS)


def blip_text(vocabulary: int) -> TextConfig:
    """BERT's part of ImageReward; `vocabulary` counts its two additional tokens."""
    return TextConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=40,
        hidden_dropout_prob=0.0,  # nothing here is large enough to be regularised
        attention_probs_dropout_prob=0.0,
    )


def clip_config(*, activation: str, vocabulary: int, start: int, end: int) -> CLIPConfig:
    """A CLIP of the panel's size; `start` and `end` are token ids."""
    text = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": TEXT_DEPTH,
        "num_attention_heads": TEXT_HEADS,
        "max_position_embeddings": WORDS,
        "vocab_size": vocabulary,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    common = {"hidden_act": activation, "projection_dim": EMBEDDING}
    return CLIPConfig(
        text_config=text | common, vision_config=vision | common, projection_dim=EMBEDDING
    )


def pixels(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, 64, 64, 3] to the normalised float32 [B, 3, 64, 64] that all five models read."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return render(batch, View(SIDE).place(SIDE, SIDE))


def same_words(rows: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Embeddings of OpenAI's vocabulary for the tokens of a smaller one, matched by their text.

    A word that OpenAI's vocabulary has only in pieces gets their mean, an unknown one zeros.

    Args:
        rows: [49408, D], the embeddings of OpenAI's vocabulary.
        tokenizer: has the smaller vocabulary, of V tokens.

    Returns:
        [V, D].
    """
    theirs = SimpleTokenizer()
    known = dict(theirs.encoder)
    known["<|startoftext|>"], known["<|endoftext|>"] = len(known) - 2, len(known) - 1
    vocabulary = tokenizer.get_vocab()
    picked = rows.new_zeros(len(vocabulary), rows.shape[1])
    for word, number in vocabulary.items():
        whole = word.removesuffix("</w>")
        if word in known:
            picked[number] = rows[known[word]]
        elif word != whole and whole.isalpha():
            picked[number] = rows[theirs.encode(whole)].mean(dim=0)
    return picked


def _fused(state: dict[str, Tensor], attention: str, part: str) -> Tensor:
    return torch.cat([state[f"{attention}.{name}_proj.{part}"] for name in "qkv"])


def _open_clip_blocks(state: dict[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    blocks: dict[str, Tensor] = {}
    for index in range(_depth(state, source)):
        mine, theirs = f"{source}.encoder.layers.{index}", f"{target}.resblocks.{index}"
        for part in ("weight", "bias"):
            blocks[f"{theirs}.attn.in_proj_{part}"] = _fused(state, f"{mine}.self_attn", part)
            for old, new in names.items():
                blocks[f"{theirs}.{new}.{part}"] = state[f"{mine}.{old}.{part}"]
    return blocks


def _depth(state: dict[str, Tensor], side: str) -> int:
    return sum(key.startswith(f"{side}.encoder") and key.endswith("fc1.bias") for key in state)


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a transformers CLIP under open_clip's names; both sides, all of them."""
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    carried = {
        "logit_scale": state["logit_scale"],
        "visual.class_embedding": state[f"{vision}.class_embedding"],
        "visual.positional_embedding": state[f"{vision}.position_embedding.weight"],
        "visual.conv1.weight": state[f"{vision}.patch_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "token_embedding.weight": state[f"{text}.token_embedding.weight"],
        "positional_embedding": state[f"{text}.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
    }
    norms = {
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.final_layer_norm": "ln_final",
    }
    for old, new in norms.items():
        for part in ("weight", "bias"):
            carried[f"{new}.{part}"] = state[f"{old}.{part}"]
    carried |= _open_clip_blocks(state, "vision_model", "visual.transformer")
    return carried | _open_clip_blocks(state, "text_model", "transformer")


def to_blip(state: dict[str, Tensor], sample: Tensor) -> dict[str, Tensor]:
    """The vision tower of a transformers CLIP under BLIP's names.

    BLIP's ViT has no norm before its first block. Its place is taken by the affine map that the
    norm is at each position's mean and spread over `sample`, pixels [N, 3, 64, 64].
    """
    side = "vision_model"
    kernel = state[f"{side}.embeddings.patch_embedding.weight"]
    position = state[f"{side}.embeddings.position_embedding.weight"]
    start = state[f"{side}.embeddings.class_embedding"]
    gain, shift = (state[f"{side}.pre_layrnorm.{part}"] for part in ("weight", "bias"))
    patches = torch.nn.functional.conv2d(sample, kernel, stride=kernel.shape[-1])
    tokens = patches.flatten(2).transpose(1, 2) + position[1:]
    spread = tokens.std(dim=-1).mean()  # one number, since one kernel serves all positions
    middle = tokens.mean(dim=(0, 2))[:, None]
    first = start + position[0]
    names = {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.out_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    carried = {
        "patch_embed.proj.weight": kernel * (gain / spread)[:, None, None, None],
        "patch_embed.proj.bias": torch.zeros_like(gain),
        "cls_token": torch.zeros_like(start)[None, None],
        "pos_embed": torch.cat(
            [
                ((first - first.mean()) / first.std() * gain + shift)[None],
                (position[1:] - middle) / spread * gain + shift,
            ]
        )[None],
        "norm.weight": state[f"{side}.post_layernorm.weight"],
        "norm.bias": state[f"{side}.post_layernorm.bias"],
    }
    for index in range(_depth(state, side)):
        mine, theirs = f"{side}.encoder.layers.{index}", f"blocks.{index}"
        for part in ("weight", "bias"):
            carried[f"{theirs}.attn.qkv.{part}"] = _fused(state, f"{mine}.self_attn", part)
            for old, new in names.items():
                carried[f"{theirs}.{new}.{part}"] = state[f"{mine}.{old}.{part}"]
    return carried
