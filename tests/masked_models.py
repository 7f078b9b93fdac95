"""Tiny random masked models in the published layouts, for tests: real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.models import clip_tokenizer

CODEBOOK = 24
WIDTH = 16


def write_random_amused(folder: Path, *, sample_size: int = 8, **transformer: Any) -> Path:
    """Save an aMUSEd folder of random weights: 8 x 8 tokens of 24, 16 px images."""
    import torch
    from diffusers import UVit2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options: dict[str, Any] = {
            "hidden_size": WIDTH,
            "cond_embed_dim": WIDTH,
            "micro_cond_encode_dim": 4,
            "micro_cond_embed_dim": 20,
            "encoder_hidden_size": WIDTH,
            "vocab_size": CODEBOOK + 1,
            "codebook_size": CODEBOOK,
            "in_channels": WIDTH,
            "block_out_channels": WIDTH,
            "num_res_blocks": 1,
            "downsample": True,
            "upsample": True,
            "block_num_heads": 2,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "sample_size": sample_size,
        }
        network = UVit2DModel(**options | transformer)
        _spread(network.mlm_layer.conv2.weight)
        return _write(folder, "AmusedPipeline", ["diffusers", "UVit2DModel"], network, CODEBOOK)


def write_random_meissonic(folder: Path, *, sample_size: int = 8, **transformer: Any) -> Path:
    """Save a Meissonic folder of random weights: 8 x 8 tokens of 24, 16 px images."""
    import torch

    from tgo.pipeline.generators.meissonic_transformer import MeissonicTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options: dict[str, Any] = {
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "pooled_projection_dim": WIDTH,
            "axes_dims_rope": (4, 2, 2),
            "vocab_size": CODEBOOK + 8,  # rounded up, as published
            "codebook_size": CODEBOOK,
            "sample_size": sample_size,
        }
        network = MeissonicTransformer(**options | transformer)
        _spread(network.mlm_layer.conv2.weight)
        index = ["src.transformer", "Transformer2DModel"]
        return _write(folder, "Pipeline", index, network, CODEBOOK + 7)


def _spread(weight: Any) -> None:
    """Make predictions differ from each other: fresh weights call all tokens alike."""
    weight.data *= 8


def _write(folder: Path, pipeline: str, index: list[str], network: Any, mask: int) -> Path:
    from diffusers import AmusedScheduler, VQModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    text_encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=WIDTH,
        )
    )
    vqvae = VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=CODEBOOK,
        norm_num_groups=4,
        sample_size=16,
        lookup_from_codebook=True,
    )
    vqvae.quantize.embedding.weight.data.normal_()
    parts = {
        "vqvae": (vqvae, ["diffusers", "VQModel"]),
        "tokenizer": (tokenizer, ["transformers", "CLIPTokenizer"]),
        "text_encoder": (text_encoder, ["transformers", "CLIPTextModelWithProjection"]),
        "transformer": (network, index),
        "scheduler": (AmusedScheduler(mask_token_id=mask), ["diffusers", "AmusedScheduler"]),
    }
    for name, (part, _) in parts.items():
        part.save_pretrained(folder / name)
    names = {name: kind for name, (_, kind) in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **names}))
    return folder
