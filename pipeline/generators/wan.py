"""Wan 2.1 (Wan Team 2025), a text-to-video model, asked for one frame: an image."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ftfy
import torch
from torch import Tensor, nn

from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import Flow

T5_TOKENS = 512


class Wan(Flow):
    """`Wan-AI/Wan2.1-T2V-1.3B-Diffusers` and models of its kind; latents are [16, 1, H, W].

    Images only: shards, reward models and report know pictures, not clips. Noise and what is
    being denoised are float32, whatever the network's type.
    """

    name = "wan"
    parts = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    sigmas_from_one = False

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, 512, D] of UMT5, zero after a prompt's end."""
        tokens = self.text_encoders.tokens(
            "tokenizer", [_clean(prompt) for prompt in prompts], T5_TOKENS
        )
        read = self.text_encoders.part("text_encoder")(tokens.input_ids, tokens.attention_mask)
        return {"embeddings": (read.last_hidden_state * tokens.attention_mask[..., None]).float()}

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        velocity: Tensor = network(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=conditions["embeddings"],
        ).sample
        return velocity

    def _noise_dtype(self) -> torch.dtype:
        return torch.float32

    def _default_side(self) -> int:
        return 60  # 480 pixels, the shorter side of what it was trained on

    def _shape_of(self, height: int, width: int) -> tuple[int, ...]:
        return (self._channels(), 1, height, width)

    def _scale(self) -> int:
        return int(self._vae_config.scale_factor_spatial)

    def _pixels_of(self, images: Tensor) -> Tensor:
        return images.unsqueeze(2)


def _clean(prompt: str) -> str:
    """As its pipeline does before it reads a prompt."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return " ".join(text.split())
