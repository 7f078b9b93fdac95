"""FLUX.1 (Black Forest Labs 2024): packed latents, T5 and pooled CLIP, distilled guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import STEPS, Flow
from tgo.pipeline.generators.folder_family import LoadOptions
from tgo.pipeline.generators.model_folder import ModelFolder
from torch import Tensor, nn

T5_TOKENS = 512


class Flux(Flow):
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
    distilled = True

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        super().__init__(folder, options)
        rows, columns = (side // self.patch for side in self.latent_shape[1:])
        # no image index, row, column
        places = torch.cartesian_prod(*(torch.arange(float(n)) for n in (1, rows, columns)))
        self._image_ids = places.to(self._device)
        guided = self._config.guidance_embeds
        self._guidance = (
            torch.full((1,), self._guidance_scale, device=self._device) if guided else None
        )

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
            hidden_states=_packed(noisy),
            timestep=timesteps.to(dtype) / STEPS,
            guidance=None if self._guidance is None else self._guidance.expand(len(noisy)),
            pooled_projections=conditions["pooled"],
            encoder_hidden_states=embeddings,
            txt_ids=embeddings.new_zeros(embeddings.shape[1], 3),
            img_ids=self._image_ids.to(dtype),
        ).sample
        return _unpacked(velocity, self.latent_shape)

    def _channels(self) -> int:
        return super()._channels() // self.patch**2

    def _default_side(self) -> int:
        return 128  # 1024 pixels, as its pipeline makes


def _packed(latents: Tensor) -> Tensor:
    """Tokens [B, H/2 W/2, 4 C] from latents [B, C, H, W]."""
    squares = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B, C, H/2, 2, W/2, 2
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _unpacked(tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Latents [B, *shape] from tokens; undoes `_packed`."""
    channels, height, width = shape
    squares = tokens.view(len(tokens), height // 2, width // 2, channels, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), *shape)
