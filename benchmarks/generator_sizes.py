"""Generators to measure with: the world's miniature, and random weights of other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

MINIATURE = Path("data/world/diffusion")


class Text(NamedTuple):
    """A CLIP text encoder."""

    width: int
    layers: int


class Size(NamedTuple):
    """A Stable Diffusion model with random weights; with two text encoders an SDXL."""

    latent: int
    """Pixels a side of a latent."""
    unet: dict[str, Any]
    """Its configuration, as far as it differs from SD 1.5's; two encoders' states lie side by side
    as its conditions."""
    vae: tuple[int, ...]
    """Channels of the autoencoder's levels; each but the last halves the picture."""
    texts: tuple[Text, ...]
    batch: int

    @property
    def family(self) -> str:
        """As in ``generator.family``."""
        return "diffusion" if len(self.texts) == 1 else "sdxl"

    @property
    def conditions(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what a prompt gives the network."""
        found: dict[str, tuple[int, ...]] = {"embeddings": (77, sum(t.width for t in self.texts))}
        return found if len(self.texts) == 1 else found | {"pooled": (self.texts[1].width,)}

    @property
    def pixels(self) -> int:
        """A side of an image."""
        return int(self.latent * 2 ** (len(self.vae) - 1))


FULL_VAE = (128, 256, 512, 512)


def _xl(channels: tuple[int, ...], layers: tuple[int, ...], pooled: int) -> dict[str, Any]:
    """An SDXL UNet: attention below the first level, ``layers`` of it in a block."""
    attends = len(channels) - 1
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * attends),
        "up_block_types": (*("CrossAttnUpBlock2D",) * attends, "UpBlock2D"),
        "transformer_layers_per_block": layers,
        "attention_head_dim": tuple(width // 64 or 1 for width in channels),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + pooled,
    }


SIZES = {
    "tiny": Size(8, {"block_out_channels": (32, 32, 64, 64)}, (32, 32), (Text(32, 2),), 4),
    "tiny-xl": Size(8, _xl((32, 64), (1, 1), 32), (32, 32), (Text(32, 2), Text(32, 2)), 4),
    "sd15": Size(64, {}, FULL_VAE, (Text(768, 12),), 16),
    "sdxl": Size(
        128,
        _xl((320, 640, 1280), (1, 2, 10), 1280),
        FULL_VAE,
        (Text(768, 12), Text(1280, 32)),
        4,
    ),
}


def write_model(size: Size, folder: Path, device: str = "cpu") -> None:
    """A diffusers folder with random weights, float16, and the world's tokenizer.

    The weights are drawn on ``device``: on a CPU those of an SDXL take a minute.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    # which words there are does not change the time, how many tokens a prompt has does
    words = CLIPTokenizer.from_pretrained(MINIATURE / "tokenizer", model_max_length=77)
    with torch.device(device):
        networks = _networks(size, words)
    parts: dict[str, Any] = {
        **{name: network.half().cpu() for name, network in networks.items()},
        "tokenizer": words,
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    }
    if size.family == "sdxl":
        StableDiffusionXLPipeline(
            **parts, tokenizer_2=words, add_watermarker=False
        ).save_pretrained(folder)
        return
    StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)


def _networks(size: Size, words: Any) -> dict[str, nn.Module]:
    """The networks of a model, by the names of their subfolders."""
    from diffusers import AutoencoderKL

    levels = len(size.vae)
    vae = AutoencoderKL(
        block_out_channels=size.vae,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        latent_channels=4,
        sample_size=size.pixels,
    )
    names = ("text_encoder", "text_encoder_2")
    encoders = {
        name: _text_encoder(text, words, projects=name != names[0])
        for name, text in zip(names, size.texts, strict=False)
    }
    return {"vae": vae, "unet": unet(size), **encoders}


def unet(size: Size) -> nn.Module:
    """The network alone, with random weights."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=size.latent,
        cross_attention_dim=size.conditions["embeddings"][1],
        **size.unet,
    )


def _text_encoder(text: Text, words: Any, *, projects: bool) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=text.width,
        intermediate_size=4 * text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=max(1, text.width // 64),
        projection_dim=text.width,
        max_position_embeddings=77,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projects else CLIPTextModel(config)
