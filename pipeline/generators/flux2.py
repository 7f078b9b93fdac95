"""FLUX.2 (Black Forest Labs 2025): latents of 16 x 16 pixels, a language model's hidden states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import STEPS, Flow
from tgo.pipeline.generators.folder_family import LoadOptions
from tgo.pipeline.generators.model_folder import ModelFolder

TOKENS = 512
LAYERS = {"Mistral3ForConditionalGeneration": (10, 20, 30)}
"""Which hidden states a text encoder gives, by its class."""
QWEN_LAYERS = (9, 18, 27)


class Flux2(Flow):
    """FLUX.2 [klein] and [dev]; see `Family` for the methods.

    Latents [4 C, H/16, W/16] are squares of 2 x 2 of the VAE's, normalised by the statistics that
    the VAE holds: the space in which noise is drawn. [dev] is told the guidance scale; [klein]
    takes a second forward pass, or, where it is step-distilled, no guidance at all.
    """

    name = "flux2"
    parts = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    patch = 1
    lora_targets = ("to_k", "to_q", "to_v", "to_out.0", "to_qkv_mlp_proj")

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        super().__init__(folder, options)
        reads_guidance = bool(self._config.guidance_embeds)
        self.guidance_distilled = reads_guidance or bool(folder.index.get("is_distilled"))
        self._guidance = (
            torch.full((1,), self._guidance_scale, device=self._device) if reads_guidance else None
        )
        self._image_ids = {  # frame, row, column, token
            shape[1:]: torch.cartesian_prod(*(torch.arange(n) for n in (1, *shape[1:], 1))).to(
                self._device
            )
            for shape in self.latent_shapes.values()
        }

    @property
    def is_few_step(self) -> bool:
        """[klein] says so of itself; its base models do not."""
        return super().is_few_step or bool(self._folder.index.get("is_distilled"))

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, 512, 3 D]: three hidden states of the language model, side by side.

        In the type it computes in: bfloat16 is stored as it is, since its largest values may be
        beyond float16.
        """
        encoder = self.text_encoders.part("text_encoder")
        tokens = self._tokens(prompts)
        states = encoder(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        layers = LAYERS.get(type(encoder).__name__, QWEN_LAYERS)
        return {"embeddings": torch.cat([states[layer] for layer in layers], dim=-1)}

    def _tokens(self, prompts: Sequence[str]) -> Any:
        """`input_ids` and `attention_mask` [B, 512] of the chat that each prompt becomes."""
        tokenizer = self.text_encoders.part("tokenizer")
        if hasattr(tokenizer, "tokenizer"):  # [dev]: a processor of text and images
            from diffusers.pipelines.flux2.pipeline_flux2 import SYSTEM_MESSAGE, format_input

            return tokenizer.apply_chat_template(
                format_input(list(prompts), system_message=SYSTEM_MESSAGE),
                add_generation_prompt=False,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                padding="max_length",
                truncation=True,
                max_length=TOKENS,
            ).to(self._device)
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
            for prompt in prompts
        ]
        return self.text_encoders.tokens("tokenizer", chats, TOKENS)

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        embeddings = conditions["embeddings"]
        words = torch.zeros(embeddings.shape[1], 4, dtype=torch.int64, device=embeddings.device)
        words[:, 3] = torch.arange(len(words), device=embeddings.device)
        velocity = network(
            hidden_states=noisy.flatten(2).transpose(1, 2),
            timestep=timesteps.to(noisy.dtype) / STEPS,
            guidance=None if self._guidance is None else self._guidance.expand(len(noisy)),
            encoder_hidden_states=embeddings,
            txt_ids=words,
            img_ids=self._image_ids[noisy.shape[2:]],
        ).sample
        return velocity.transpose(1, 2).reshape(noisy.shape)

    def _mu(self, shape: Sequence[int]) -> float:
        """Its pipeline's own fit, of tokens and steps."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return float(compute_empirical_mu(math.prod(shape[1:]), self._steps))

    def _vae_channels(self) -> int:
        return 4 * super()._vae_channels()

    def _default_side(self) -> int:
        return 64  # 1024 pixels, as its pipeline makes

    def _scale(self) -> int:
        return 2 * super()._scale()

    def _unscaled(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics(latents)
        squares = (latents * deviation + mean).unflatten(1, (-1, 2, 2))  # B, C, 2, 2, H, W
        return squares.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)

    def _scaled(self, latents: Tensor) -> Tensor:
        squares = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B, C, H, 2, W, 2
        squares = squares.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        mean, deviation = self._statistics(squares)
        return (squares - mean) / deviation

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The running statistics of the VAE's batch normalisation, [4 C, 1, 1]."""
        norm, epsilon = self._vae.bn, self._vae_config.batch_norm_eps
        mean = norm.running_mean.view(-1, 1, 1)
        deviation = torch.sqrt(norm.running_var.view(-1, 1, 1) + epsilon)
        return mean.to(like), deviation.to(like)
