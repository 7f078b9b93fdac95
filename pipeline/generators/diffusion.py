"""Latent diffusion of the Stable Diffusion kind: UNet, autoencoder, one CLIP text encoder.

Prediction type (epsilon, v or sample), noise schedule and sampler are the model folder's own
(`scheduler/`), so SD 1.x, 2.x and the world's miniature are the same code.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.generators.base import (
    Conditions,
    Corruption,
    check_size,
    gaussian,
    with_unconditional,
)
from pipeline.generators.folder import ModelFolder

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
DETERMINISTIC = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
"""Samplers that draw no noise after the first: an image then depends on its own seed alone."""


class Diffusion:
    """Epsilon-, v- and sample-prediction diffusion models; see `Family` for the methods."""

    name = "diffusion"
    code_dtype = torch.float16

    def __init__(
        self, folder: ModelFolder, *, steps: int, guidance_scale: float, dtype: str, device: str
    ) -> None:
        from diffusers import DDPMScheduler

        self._folder, self._steps, self._guidance_scale = folder, steps, guidance_scale
        self._dtype, self._device = getattr(torch, dtype), torch.device(device)
        self._scheduler = folder.load("scheduler")
        self._tokenizer = folder.load("tokenizer")
        self._text_encoder = folder.load("text_encoder", self._dtype).to(self._device)
        self._vae = folder.load("vae", self._dtype).to(self._device)
        self.network: nn.Module = folder.load("unet", self._dtype).to(self._device)
        self._check_sampler()
        # the training-time face of the same schedule (alphas, prediction type)
        self._schedule = DDPMScheduler.from_config(self._scheduler.config)
        config = self.network.config
        side = config.sample_size
        self.code_shape: tuple[int, ...] = (config.in_channels, side, side)

    @classmethod
    def load(
        cls, source: str, *, steps: int, guidance_scale: float, dtype: str, device: str
    ) -> Diffusion:
        """Load from a folder or hub id; InputError names what is missing or damaged."""
        return cls(
            ModelFolder(source),
            steps=steps,
            guidance_scale=guidance_scale,
            dtype=dtype,
            device=device,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "family": self.name,
            "model_sha256": self._folder.sha256(PARTS),
            "sampler": type(self._scheduler).__name__,
            "steps": self._steps,
            "guidance_scale": self._guidance_scale,
            "device": self._device.type,
            "dtype": str(self._dtype).removeprefix("torch."),
            "code_shape": list(self.code_shape),
        }

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)
        masked = getattr(self._text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if masked else None
        return {"embeddings": self._text_encoder(tokens.input_ids, attention_mask=mask)[0].float()}

    def initial_noise(self, seeds: Sequence[int]) -> Tensor:
        # as diffusers draws it for `generator=[...]`, so stock pipelines make the same image
        return torch.stack(
            [
                torch.randn(
                    self.code_shape,
                    generator=torch.Generator().manual_seed(seed),
                    dtype=self._dtype,
                )
                for seed in seeds
            ]
        )

    @torch.inference_mode()
    def sample(self, conditions: Conditions, unconditional: Conditions, noise: Tensor) -> Tensor:
        scheduler, guided = self._scheduler, self._guidance_scale > 1
        scheduler.set_timesteps(self._steps, device=self._device)
        if guided:
            conditions = with_unconditional(conditions, unconditional)
        context = self._own(conditions["embeddings"])
        latents = self._own(noise) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            inputs = torch.cat([latents] * 2) if guided else latents
            inputs = scheduler.scale_model_input(inputs, timestep)
            prediction = self.network(inputs, timestep, encoder_hidden_states=context).sample
            if guided:
                without, given = prediction.chunk(2)
                prediction = without + self._guidance_scale * (given - without)
            latents = scheduler.step(prediction, timestep, latents).prev_sample
        return latents.float()

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        images = self._vae.decode(self._own(codes) / self._vae.config.scaling_factor).sample
        # in the order of diffusers' image processor, so that roundings agree to the bit
        return ((images * 0.5 + 0.5).clamp(0, 1).float() * 255).round().to(torch.uint8).cpu()

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """The mode of the autoencoder's posterior, scaled as the network sees it."""
        scale = 2 ** (len(self._vae.config.block_out_channels) - 1)
        check_size(images, tuple(scale * side for side in self.code_shape[1:]))
        pixels = self._own(images) / 127.5 - 1
        latents = self._vae.encode(pixels).latent_dist.mode()
        return (latents * self._vae.config.scaling_factor).to("cpu", self.code_dtype)

    def corrupt(self, codes: Tensor, generator: torch.Generator) -> Corruption:
        count = self._schedule.config.num_train_timesteps
        timesteps = torch.randint(count, (len(codes),), generator=generator)
        noise = torch.randn(codes.shape, generator=generator)
        return Corruption(timesteps.to(self._device), noise.to(self._device))

    def log_likelihood(
        self,
        network: nn.Module,
        codes: Tensor,
        conditions: Conditions,
        corruption: Corruption,
        *,
        temperature: float,
    ) -> Tensor:
        """``-(1/T) mean_CHW (target - prediction)^2``, float32 [B]; see `gaussian`."""
        return gaussian(self.residual(network, codes, conditions, corruption), temperature)

    def residual(
        self, network: nn.Module, codes: Tensor, conditions: Conditions, corruption: Corruption
    ) -> Tensor:
        """``target - prediction``, float32 [B, *code_shape]."""
        clean = codes.to(self._device, torch.float32)
        timesteps, noise = (part.to(self._device) for part in corruption)
        corrupted = self._schedule.add_noise(clean, noise, timesteps)
        dtype = next(network.parameters()).dtype
        prediction = network(
            corrupted.to(dtype),
            timesteps,
            encoder_hidden_states=conditions["embeddings"].to(self._device, dtype),
        ).sample
        return self._target(clean, noise, timesteps) - prediction.float()

    def save(self, network: nn.Module, folder: Path) -> None:
        """The source folder's components, untouched, with `network` as the UNet (safetensors)."""
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(self._folder.path, folder, ignore=shutil.ignore_patterns("unet"))
        network.save_pretrained(folder / "unet", safe_serialization=True)  # type: ignore[operator]

    def _target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network is trained to predict, by the schedule's prediction type."""
        kind = self._schedule.config.prediction_type
        if kind == "v_prediction":
            return self._schedule.get_velocity(clean, noise, timesteps)
        return {"epsilon": noise, "sample": clean}[kind]

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype)

    def _check_sampler(self) -> None:
        name = type(self._scheduler).__name__
        sde = "sde" in str(self._scheduler.config.get("algorithm_type", ""))
        if name not in DETERMINISTIC or sde:
            raise InputError(
                f"{self._folder.path}/scheduler: {name} draws noise at every step, so images "
                f"would depend on their batch; use one of {', '.join(DETERMINISTIC)}"
            )
        kind = self._scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction", "sample"):
            raise InputError(
                f"{self._folder.path}/scheduler: prediction_type {kind!r} is not known; "
                "use epsilon, v_prediction or sample"
            )
