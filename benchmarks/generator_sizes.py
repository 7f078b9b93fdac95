"""Generators to measure with: the world's miniature, and random weights of other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

MINIATURE = Path("data/world/diffusion")


class Size(NamedTuple):
    """A Stable Diffusion model with random weights; the rest of its UNet is as in SD 1.5."""

    latent: int
    """Pixels a side of a latent."""
    channels: tuple[int, ...]
    """Of the UNet's levels."""
    vae: tuple[int, ...]
    """Channels of the autoencoder's levels; each but the last halves the picture."""
    width: int
    """Of the text encoder."""
    layers: int
    batch: int


SIZES = {
    "tiny": Size(8, (32, 32, 64, 64), (32, 32), 32, 2, 4),
    "sd15": Size(64, (320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 16),
}


def write_model(size: Size, folder: Path) -> None:
    """A StableDiffusionPipeline with random weights and the world's tokenizer."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    # which words there are does not change the time, how many tokens a prompt has does
    words = CLIPTokenizer.from_pretrained(MINIATURE / "tokenizer", model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=max(1, size.width // 64),
        max_position_embeddings=77,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    levels = len(size.vae)
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=size.vae,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=2,
            latent_channels=4,
            sample_size=size.latent * 2 ** (levels - 1),
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=words,
        unet=UNet2DConditionModel(
            sample_size=size.latent,
            block_out_channels=size.channels,
            cross_attention_dim=size.width,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
