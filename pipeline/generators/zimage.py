"""Z-Image (Tongyi 2025): one transformer over image tokens and a language model's states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import STEPS, Flow

TOKENS = 512


class ZImage(Flow):
    """`Tongyi-MAI/Z-Image` and models of its kind.

    A guidance scale of 1 is none, as everywhere here; its pipeline in diffusers counts from 0, so
    its 4 is 5 here. Noise and what is being denoised are float32, whatever the network's type.
    """

    name = "zimage"
    parts = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, 512, D], a chat's last layer but one, and `mask` bool [B, 512].

        In the type the language model computes in: bfloat16 is stored as it is, since its largest
        values may be beyond float16.
        """
        tokenizer = self.text_encoders.part("tokenizer")
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
            for prompt in prompts
        ]
        tokens = self.text_encoders.tokens("tokenizer", chats, TOKENS)
        mask = tokens.attention_mask.bool()
        read = self.text_encoders.part("text_encoder")(
            input_ids=tokens.input_ids, attention_mask=mask, output_hidden_states=True
        )
        return {"embeddings": read.hidden_states[-2] * mask[..., None], "mask": mask}

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        """It is given sequences of their own lengths, for which each call waits for the device."""
        lengths = conditions["mask"].sum(dim=1).tolist()
        texts = [
            text[:length] for text, length in zip(conditions["embeddings"], lengths, strict=True)
        ]
        # it predicts ``x0 - noise``, and its time runs from noise (0) to image (1)
        images = list(noisy.unsqueeze(2).unbind())  # one frame each
        found = network(images, (STEPS - timesteps) / STEPS, texts, return_dict=False)[0]
        return -torch.stack(found).squeeze(2)

    def _guide(self, baseline: Tensor, conditional: Tensor) -> Tensor:
        return conditional + (self._guidance_scale - 1) * (
            conditional - baseline
        )  # rounds as its pipeline does

    def _noise_dtype(self) -> torch.dtype:
        return torch.float32

    def _default_side(self) -> int:
        return 128  # 1024 pixels, as its pipeline makes
