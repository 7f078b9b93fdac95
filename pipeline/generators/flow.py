"""Flow matching: a transformer predicts the straight line from an image to its noise.

``x_t = (1 - sigma) x0 + sigma noise``, target ``noise - x0`` (rectified flow, Esser et al. 2024).
A timestep is ``1000 sigma``, float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import Conditions, Corruption, with_unconditional
from tgo.pipeline.generators.latent import Latent

STEPS = 1000
"""Timesteps of the schedule that all of these networks were trained with."""


class Flow(Latent):
    """Flow-matching models; see `Family` for the methods.

    A subclass encodes prompts and calls its network.
    """

    samplers: ClassVar[tuple[str, ...]] = (
        "FlowMatchEulerDiscreteScheduler",
        "UniPCMultistepScheduler",
    )
    patch = 2
    guidance_distilled: bool = False
    """Whether guidance is an input of the network, or there is none, not a second forward."""
    sigmas_from_one: ClassVar[bool] = True
    """Whether its pipeline asks for sigmas from 1 to 1/steps, or leaves them to the scheduler."""

    @torch.inference_mode()
    def sample(self, conditions: Conditions, unconditional: Conditions, noise: Tensor) -> Tensor:
        guided = self._guidance_scale > 1 and not self.guidance_distilled
        given, empty = (self._ready(part, self._dtype) for part in (conditions, unconditional))
        latents = noise.to(self._device, self._noise_dtype())
        for timestep in self._timesteps(latents.shape[1:]):
            velocity = (
                self._guided(latents, timestep, given, empty)
                if guided
                else self._velocity(latents, timestep, given)
            )
            latents = self._scheduler.step(velocity, timestep, latents).prev_sample
        return latents.float()

    def _velocity(self, latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """What the network predicts for latents [B, *latent_shape], in their type."""
        velocity = self._predict(
            self.network, latents.to(self._dtype), timestep.expand(len(latents)), conditions
        )
        return velocity.to(latents.dtype)

    def _guided(
        self, latents: Tensor, timestep: Tensor, given: Conditions, empty: Conditions
    ) -> Tensor:
        """The guided velocity [B, *latent_shape], from one pass over both halves.

        Args:
            latents: [B, *latent_shape].
            timestep: a number in 0 to 1000.
            given: conditions [B, ...] of the prompts.
            empty: conditions [...] of the empty prompt.

        Returns:
            The guided velocity, in the type of the latents.
        """
        both = with_unconditional(given, empty)
        baseline, conditional = self._velocity(torch.cat([latents] * 2), timestep, both).chunk(2)
        return self._guide(baseline, conditional)

    def corrupt(self, latents: Tensor, generator: torch.Generator) -> Corruption:
        """Logit-normal sigmas, shifted as the sampler's are at this resolution.

        The noise is in the space of the latents, as `initial_noise` is: the noise that made an
        image may take its place.
        """
        sigma = torch.randn(len(latents), generator=generator).sigmoid()
        shift = self._shift(latents.shape[1:])
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        noise = torch.randn(latents.shape, generator=generator)
        return Corruption(STEPS * sigma, noise)

    def timesteps_at(self, levels: Tensor) -> Tensor:
        """Timesteps float32 [B] from levels [B] in 0 (image) to 1 (noise): these are the sigmas."""
        return STEPS * levels

    def signal_to_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """``((1 - sigma) / sigma)^2`` and ``sigma^2``, as ``x0 = x_t - sigma v``."""
        sigma = timesteps / STEPS
        return ((1 - sigma) / sigma).square(), sigma.square()

    def residual(
        self, network: nn.Module, latents: Tensor, conditions: Conditions, corruption: Corruption
    ) -> Tensor:
        clean = latents.to(self._device, torch.float32)
        timesteps, noise = (part.to(self._device) for part in corruption)
        sigma = (timesteps / STEPS).view(-1, *[1] * (clean.ndim - 1))
        noisy = (1 - sigma) * clean + sigma * noise
        dtype = self._network_dtype()
        given = self._ready(conditions, dtype)
        return noise - clean - self._predict(network, noisy.to(dtype), timesteps, given).float()

    def _predict(
        self, network: nn.Module, noisy: Tensor, timesteps: Tensor, conditions: Conditions
    ) -> Tensor:
        """The velocity ``noise - x0`` [B, *latent_shape] that the network predicts.

        `noisy` [B, *latent_shape] and the conditions are in the network's type, `timesteps`
        float32 [B] in 0 to 1000.
        """
        raise NotImplementedError

    def _guide(self, baseline: Tensor, conditional: Tensor) -> Tensor:
        return baseline + self._guidance_scale * (conditional - baseline)

    def _timesteps(self, shape: Sequence[int]) -> Tensor:
        """Set the scheduler for one run on latents of a shape; its timesteps."""
        scheduler = self._scheduler
        options: dict[str, Any] = {}
        if scheduler.config.get("use_dynamic_shifting"):
            options["mu"] = self._mu(shape)
        if self.sigmas_from_one:
            options["sigmas"] = torch.linspace(1, 1 / self._steps, self._steps).tolist()
        scheduler.set_timesteps(self._steps, device=self._device, **options)
        scheduler.set_begin_index(0)  # otherwise the first step waits for the device
        timesteps: Tensor = scheduler.timesteps
        return timesteps

    def _mu(self, shape: Sequence[int]) -> float:
        """How much more noise larger images need: linear in their number of tokens."""
        tokens = math.prod(shape[-2:]) / self.patch**2
        config = self._scheduler.config
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        slope = (high - low) / (many - few)
        return float(tokens * slope + low - slope * few)

    def _shift(self, shape: Sequence[int]) -> float:
        """The shift s of sigmas, ``s sigma / (1 + (s - 1) sigma)``, that the sampler uses."""
        config = self._scheduler.config
        if config.get("use_dynamic_shifting"):
            linear = config.get("time_shift_type") == "linear"
            return self._mu(shape) if linear else math.exp(self._mu(shape))
        return float(config.get("shift") or config.get("flow_shift") or 1)

    def _check_sampler(self) -> None:
        name, config = type(self._scheduler).__name__, self._scheduler.config
        flows = name == self.samplers[0] or config.get("use_flow_sigmas")
        noisy = config.get("stochastic_sampling") or "sde" in str(config.get("algorithm_type"))
        if noisy or not flows:
            raise InputError(
                f"{self._folder.path}/scheduler: {name} with its settings is no sampler of flows "
                f"that draws noise but once; use {self.samplers[0]}, or another of "
                f"{', '.join(self.samplers[1:])} with use_flow_sigmas"
            )
