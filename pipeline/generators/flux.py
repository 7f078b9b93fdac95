"""FLUX.1 (Black Forest Labs 2024): packed latents, T5 and pooled CLIP, distilled guidance."""

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

T5_TOKENS = 512


class Flux(PackedFlow):
    """`black-forest-labs/FLUX.1-dev` and models of its kind.

    Latents and noise are latents [16, H, W]; only on the way into the network are squares of 2 x 2
    packed into tokens. The guidance scale is what the network is told, in sampling and in
    training; there is no second forward.
    """

    name = "flux"
    parts = (
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "transformer",
        "vae",
    )
    guidance_distilled = True

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        super().__init__(folder, options)
        self._image_ids = self._places()
        guided = self._config.guidance_embeds
        self._guidance = (
            torch.full((1,), self._guidance_scale, device=self._device) if guided else None
        )

    @property
    def is_few_step(self) -> bool:
        """FLUX.1-schnell is the one that is not told a guidance scale."""
        return super().is_few_step or not self._config.guidance_embeds

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, 512, D] of T5 and `pooled` [B, P] of CLIP."""
        tokens = self.text_encoders.tokens("tokenizer", prompts).input_ids
        pooled = self.text_encoders.part("text_encoder")(tokens).pooler_output
        tokens = self.text_encoders.tokens("tokenizer_2", prompts, T5_TOKENS).input_ids
        embeddings = self.text_encoders.part("text_encoder_2")(tokens)[0]
        return {"embeddings": embeddings.float(), "pooled": pooled.float()}

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        embeddings, dtype = conditions["embeddings"], noisy.dtype
        velocity = network(
            hidden_states=packing.packed(noisy),
            timestep=timesteps.to(dtype) / STEPS,
            guidance=None if self._guidance is None else self._guidance.expand(len(noisy)),
            pooled_projections=conditions["pooled"],
            encoder_hidden_states=embeddings,
            txt_ids=embeddings.new_zeros(embeddings.shape[1], 3),
            img_ids=self._image_ids[noisy.shape[-2:]].to(dtype),
        ).sample
        return packing.unpacked(velocity, noisy.shape[1:])
