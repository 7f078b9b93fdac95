"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): two CLIP text encoders and, optionally, T5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import Flow
from tgo.pipeline.generators.folder_family import LoadOptions
from tgo.pipeline.generators.model_folder import ModelFolder
from tgo.pipeline.generators.sizes import Size

T5_TOKENS = 256


class StableDiffusion3(Flow):
    """`stabilityai/stable-diffusion-3.5-medium` and models of its kind.

    A model without `text_encoder_3` (null in model_index.json) reads zeros in its place.
    """

    name = "sd3"
    parts = (
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "transformer",
        "vae",
    )
    optional = ("text_encoder_3", "tokenizer_3")
    sigmas_from_one = False

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        super().__init__(folder, options)
        self._width = int(self._config.joint_attention_dim)

    def _shape_for(self, size: Size) -> tuple[int, ...]:
        most = self._scale() * self._config.patch_size * self._config.pos_embed_max_size
        if max(size) > most:
            raise InputError(
                f"generator.resolution: {max(size)} is more than the {most} pixels that this model "
                "has positions for"
            )
        return super()._shape_for(size)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`clip` [B, L, D1 + D2], `t5` [B, 256, D] where the model has it, `pooled` [B, P1 + P2].

        The network reads them as one sequence; apart they need no padding on disk.
        """
        read = [
            self.text_encoders.part(f"text_encoder{which}")(
                self.text_encoders.tokens(f"tokenizer{which}", prompts).input_ids,
                output_hidden_states=True,
            )
            for which in ("", "_2")
        ]
        conditions = {
            "clip": torch.cat([one.hidden_states[-2] for one in read], dim=-1).float(),
            "pooled": torch.cat([one.text_embeds for one in read], dim=-1).float(),
        }
        if "text_encoder_3" in self._parts:
            tokens = self.text_encoders.tokens("tokenizer_3", prompts, T5_TOKENS)
            conditions["t5"] = self.text_encoders.part("text_encoder_3")(tokens.input_ids)[
                0
            ].float()
        return conditions

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        clip = conditions["clip"]
        t5 = conditions.get("t5", clip.new_zeros(len(clip), T5_TOKENS, self._width))
        clip = pad(clip, (0, self._width - clip.shape[-1]))
        velocity: Tensor = network(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=torch.cat([clip, t5], dim=1),
            pooled_projections=conditions["pooled"],
        ).sample
        return velocity
