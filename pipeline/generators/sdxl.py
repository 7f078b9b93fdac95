"""SDXL (Podell et al. 2023): two text encoders, and a UNet that is told the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.diffusion import Diffusion
from tgo.pipeline.generators.folder_family import LoadOptions
from tgo.pipeline.generators.model_folder import ModelFolder


class StableDiffusionXL(Diffusion):
    """`stabilityai/stable-diffusion-xl-base-1.0` and models of its kind.

    The network is told that an image was of the size it has, and is not cropped.
    """

    name = "sdxl"
    parts = (*Diffusion.parts, "text_encoder_2", "tokenizer_2")
    corrections: ClassVar[dict[str, Any]] = {}  # its stock pipeline makes none

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        super().__init__(folder, options)
        # original size, corner of the crop, target size
        self._time_ids = {
            shape[-2:]: torch.tensor(
                [size.height, size.width, 0, 0, size.height, size.width], device=self._device
            )
            for size, shape in self.latent_shapes.items()
        }

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, L, D1 + D2], last layers but one side by side, and `pooled` [B, P].

        The empty prompt has zeros where the model says so (`force_zeros_for_empty_prompt`).
        """
        read = [
            self.text_encoders.part(f"text_encoder{which}")(
                self.text_encoders.tokens(f"tokenizer{which}", prompts).input_ids,
                output_hidden_states=True,
            )
            for which in ("", "_2")
        ]
        embeddings = torch.cat([one.hidden_states[-2] for one in read], dim=-1).float()
        pooled = read[1].text_embeds.float()
        if self._folder.index.get("force_zeros_for_empty_prompt", True):
            not_empty = torch.tensor([prompt != "" for prompt in prompts], device=self._device)
            embeddings, pooled = embeddings * not_empty[:, None, None], pooled * not_empty[:, None]
        return {"embeddings": embeddings, "pooled": pooled}

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        time_ids = self._time_ids[noisy.shape[-2:]].to(noisy.dtype).expand(len(noisy), -1)
        added = {"text_embeds": conditions["pooled"], "time_ids": time_ids}
        prediction: Tensor = network(
            noisy,
            timesteps,
            encoder_hidden_states=conditions["embeddings"],
            added_cond_kwargs=added,
        ).sample
        return prediction

    def _vae_dtype(self) -> torch.dtype:
        """The published VAE overflows in float16 and says so."""
        overflows = self._folder.config("vae").get("force_upcast", True)
        upcast = self._dtype == torch.float16 and overflows
        return torch.float32 if upcast else self._dtype
