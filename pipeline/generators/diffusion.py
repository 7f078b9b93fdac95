"""Latent diffusion of the Stable Diffusion kind: UNet, autoencoder, one CLIP text encoder.

Prediction type (epsilon, v or sample), noise schedule and sampler are the model folder's own
(`scheduler/`), so SD 1.4, 1.5, 2.1 and the world's miniature are the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from packaging.version import Version
from torch import Tensor, nn

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import Conditions, Corruption, with_unconditional
from tgo.pipeline.generators.folder_family import LoadOptions
from tgo.pipeline.generators.latent import Latent
from tgo.pipeline.generators.model_folder import ModelFolder


class Diffusion(Latent):
    """Epsilon-, v- and sample-prediction diffusion models; see `Family` for the methods."""

    name = "diffusion"
    parts: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
    network_part = "unet"
    samplers = (
        "DDIMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    )
    corrections: ClassVar[dict[str, Any]] = {"steps_offset": 1, "clip_sample": False}
    """Settings that the stock pipeline gives a scheduler whose file says otherwise."""

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        from diffusers import DDPMScheduler

        super().__init__(folder, options)
        stated = self._scheduler.config
        self._scheduler.register_to_config(
            **{name: value for name, value in self.corrections.items() if name in stated}
        )
        # the training-time face of the same schedule (alphas, prediction type)
        self._schedule = DDPMScheduler.from_config(self._scheduler.config)
        self._alphas = self._schedule.alphas_cumprod.clone()

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, L, D], the last layer of the text encoder."""
        encoder, tokens = (
            self.text_encoders.part("text_encoder"),
            self.text_encoders.tokens("tokenizer", prompts),
        )
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if masked else None
        return {"embeddings": encoder(tokens.input_ids, attention_mask=mask)[0].float()}

    @torch.inference_mode()
    def sample(self, conditions: Conditions, unconditional: Conditions, noise: Tensor) -> Tensor:
        scheduler, guided = self._scheduler, self._guidance_scale > 1
        scheduler.set_timesteps(self._steps, device=self._device)
        if guided:
            conditions = with_unconditional(conditions, unconditional)
        conditions = self._ready(conditions, self._dtype)
        latents = noise.to(self._device, self._dtype) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            inputs = torch.cat([latents] * 2) if guided else latents
            inputs = scheduler.scale_model_input(inputs, timestep)
            prediction = self._predict(self.network, inputs, timestep, conditions)
            if guided:
                baseline, conditional = prediction.chunk(2)
                prediction = baseline + self._guidance_scale * (conditional - baseline)
            latents = scheduler.step(prediction, timestep, latents).prev_sample
        return latents.float()

    def corrupt(self, latents: Tensor, generator: torch.Generator) -> Corruption:
        count = self._schedule.config.num_train_timesteps
        timesteps = torch.randint(count, (len(latents),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        return Corruption(timesteps, noise)

    def timesteps_at(self, levels: Tensor) -> Tensor:
        count = self._schedule.config.num_train_timesteps
        return (levels * count).long().clamp(max=count - 1)

    def signal_to_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._alphas.to(timesteps.device)[timesteps]
        ratio = kept / (1 - kept)
        # clean = (corrupted - sigma noise) / alpha = alpha corrupted - sigma v; SNR 0 has no eps
        factors = {"epsilon": 1 / ratio.clamp(min=1e-8), "v_prediction": 1 - kept}
        return ratio, factors.get(self._schedule.config.prediction_type, torch.ones_like(kept))

    def residual(
        self, network: nn.Module, latents: Tensor, conditions: Conditions, corruption: Corruption
    ) -> Tensor:
        clean = latents.to(self._device, torch.float32)
        timesteps, noise = (part.to(self._device) for part in corruption)
        corrupted = self._schedule.add_noise(clean, noise, timesteps)
        dtype = self._network_dtype()
        given = self._ready(conditions, dtype)
        prediction = self._predict(network, corrupted.to(dtype), timesteps, given)
        return self._target(clean, noise, timesteps) - prediction.float()

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        """The network's output for noisy latents and conditions in its own type."""
        prediction: Tensor = network(
            noisy, timesteps, encoder_hidden_states=conditions["embeddings"]
        ).sample
        return prediction

    def _target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network is trained to predict, by the schedule's prediction type."""
        kind = self._schedule.config.prediction_type
        if kind == "v_prediction":
            return self._schedule.get_velocity(clean, noise, timesteps)
        return {"epsilon": noise, "sample": clean}[kind]

    def _default_side(self) -> int:
        side = super()._default_side()
        # the stock pipeline takes a smaller number in files of that time for a mistake
        old = Version(self._config.get("_diffusers_version", "1")) < Version("0.9.0.dev0")
        return 64 if old and side < 64 else side

    def _check_sampler(self) -> None:
        if "sde" in str(self._scheduler.config.get("algorithm_type", "")):
            raise InputError(
                f"{self._folder.path}/scheduler: algorithm_type "
                f"{self._scheduler.config.algorithm_type} draws noise at every step, so images "
                "would depend on their batch; set it to dpmsolver++"
            )
        kind = self._scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction", "sample"):
            raise InputError(
                f"{self._folder.path}/scheduler: prediction_type {kind!r} is not known; "
                "use epsilon, v_prediction or sample"
            )
