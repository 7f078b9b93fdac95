"""Chroma (Lodestone Rock 2025): FLUX.1-schnell made smaller and undistilled; T5 with a mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tgo.pipeline.generators import packing
from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import STEPS
from tgo.pipeline.generators.folder_family import LoadOptions
from tgo.pipeline.generators.model_folder import ModelFolder
from tgo.pipeline.generators.packing import PackedFlow

TOKENS = 512


class Chroma(PackedFlow):
    """`lodestones/Chroma1-HD` and models of its kind; guidance is a second forward pass."""

    name = "chroma"
    parts = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        super().__init__(folder, options)
        self._image_ids = self._places()

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, 512, D] of T5 and `mask` bool [B, 512]: the words and one padding."""
        tokens = self.text_encoders.tokens("tokenizer", prompts, TOKENS)
        embeddings = self.text_encoders.part("text_encoder")(
            tokens.input_ids, attention_mask=tokens.attention_mask
        )[0]
        lengths = tokens.attention_mask.sum(dim=1, keepdim=True)
        mask = torch.arange(TOKENS, device=lengths.device) <= lengths
        return {"embeddings": embeddings.float(), "mask": mask}

    def _guided(
        self, latents: Tensor, timestep: Tensor, given: Conditions, empty: Conditions
    ) -> Tensor:
        conditional, baseline = self._two_passes(latents, timestep, given, empty)
        return self._guide(baseline, conditional)

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        embeddings, tokens = conditions["embeddings"], packing.packed(noisy)
        # in the network's type, as its pipeline gives it: a bool would be another attention
        mask = torch.cat(
            [conditions["mask"].to(noisy.dtype), noisy.new_ones(tokens.shape[:2])], dim=1
        )
        velocity = network(
            hidden_states=tokens,
            timestep=timesteps.to(noisy.dtype) / STEPS,
            encoder_hidden_states=embeddings,
            txt_ids=embeddings.new_zeros(embeddings.shape[1], 3),
            img_ids=self._image_ids[noisy.shape[-2:]].to(noisy.dtype),
            attention_mask=mask,
        ).sample
        return packing.unpacked(velocity, noisy.shape[1:])
