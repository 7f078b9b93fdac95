"""Sana (Xie et al. 2024): linear attention on latents of 32 x 32 pixels, a small language model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import Flow

TOKENS = 300


class Sana(Flow):
    """`Efficient-Large-Model/Sana_1600M_1024px_diffusers`, Sana 1.5 and models of their kind.

    Noise and what is being denoised are float32, whatever the network's type.
    """

    name = "sana"
    parts = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    samplers = (*Flow.samplers, "DPMSolverMultistepScheduler")
    patch = 1
    sigmas_from_one = False

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, 300, D], the last states of Gemma, and `mask` bool [B, 300].

        Prompts are read after the pipeline's instruction, the empty one without; of the states the
        first and the last 299 are kept. In the type Gemma computes in, since its largest values
        may be beyond float16.
        """
        tokenizer, encoder = (self.text_encoders.part(p) for p in ("tokenizer", "text_encoder"))
        tokenizer.padding_side = "right"
        instruction = _instruction()
        longest = len(tokenizer.encode(instruction)) + TOKENS - 2
        states, masks = [], []
        for prompt in prompts:
            text = prompt.lower().strip()
            read = (instruction + text, longest) if prompt else (text, TOKENS)
            tokens = self.text_encoders.tokens("tokenizer", [read[0]], read[1])
            read_states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
            kept = [0, *range(read[1] - TOKENS + 1, read[1])]
            states.append(read_states[:, kept])
            masks.append(tokens.attention_mask[:, kept].bool())
        return {"embeddings": torch.cat(states), "mask": torch.cat(masks)}

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        velocity: Tensor = network(
            noisy,
            encoder_hidden_states=conditions["embeddings"],
            encoder_attention_mask=conditions["mask"],
            timestep=timesteps * self._config.timestep_scale,
        ).sample
        return velocity

    def _noise_dtype(self) -> torch.dtype:
        return torch.float32

    def _scale(self) -> int:
        return int(2 ** (len(self._vae_config.encoder_block_out_channels) - 1))


@cache
def _instruction() -> str:
    """What the stock pipeline puts before a prompt."""
    from diffusers import SanaPipeline

    default = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"]
    return "\n".join(default.default)
