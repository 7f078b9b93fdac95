"""Qwen-Image (Qwen Team 2025): a two-stream transformer, conditioned on Qwen2.5-VL's states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tgo.pipeline.generators import packing
from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import STEPS
from tgo.pipeline.generators.packing import PackedFlow

TOKENS = 512
CHAT = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""What a prompt is put into, as the model was trained."""
SYSTEM_TOKENS = 34
"""Tokens of `CHAT` before the prompt, whose states are left out."""


class QwenImage(PackedFlow):
    """`Qwen/Qwen-Image`, `Qwen/Qwen-Image-2512` and models of their kind.

    Latents are [16, H, W]; on the way into the network squares of 2 x 2 are packed into tokens.
    """

    name = "qwenimage"
    parts = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, 512, D], the last states of the chat's words, and `mask` bool [B, 512].

        In the type the language model computes in: bfloat16 is stored as it is, since its largest
        values may be beyond float16.
        """
        chats = [CHAT.format(prompt) for prompt in prompts]
        tokens = self.text_encoders.tokens("tokenizer", chats, SYSTEM_TOKENS + TOKENS)
        states = self.text_encoders.part("text_encoder")(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            output_hidden_states=True,
        ).hidden_states[-1]
        mask = tokens.attention_mask.bool()[:, SYSTEM_TOKENS:]
        return {"embeddings": states[:, SYSTEM_TOKENS:] * mask[..., None], "mask": mask}

    def _guided(
        self, latents: Tensor, timestep: Tensor, given: Conditions, empty: Conditions
    ) -> Tensor:
        """Two passes, as texts differ in length; the length of each token's velocity is kept.

        ``v = c |given| / |c|`` with ``c = empty + scale (given - empty)``, by token.
        """
        conditional, baseline = map(
            packing.packed, self._two_passes(latents, timestep, given, empty)
        )
        combined = baseline + self._guidance_scale * (conditional - baseline)
        kept, now = (torch.norm(part, dim=-1, keepdim=True) for part in (conditional, combined))
        return packing.unpacked(combined * (kept / now), latents.shape[1:])

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        """It reads the batch's longest prompt, for which each call waits for the device."""
        mask = conditions["mask"]
        longest = int(mask.sum(dim=1).max())
        mask = mask[:, :longest]
        rows, columns = (side // self.patch for side in noisy.shape[2:])
        velocity = network(
            hidden_states=packing.packed(noisy),
            timestep=timesteps.to(noisy.dtype) / STEPS,
            encoder_hidden_states=conditions["embeddings"][:, :longest],
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[[(1, rows, columns)]] * len(noisy),
        ).sample
        return packing.unpacked(velocity, noisy.shape[1:])

    def _scale(self) -> int:
        return int(2 ** len(self._vae_config.temperal_downsample))

    def _unscaled(self, latents: Tensor) -> Tensor:
        return super()._unscaled(latents).unsqueeze(2)  # one frame

    def _scaled(self, latents: Tensor) -> Tensor:
        return super()._scaled(latents.squeeze(2))

    def _pixels_of(self, images: Tensor) -> Tensor:
        return images.unsqueeze(2)
