"""What one update gives both networks: latents, conditions and corruptions, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from tgo.pipeline.generators.base import Conditions, Corruption
from tgo.trainer.draws import Draws
from tgo.trainer.stream import Batch
from torch import Tensor

if TYPE_CHECKING:
    from tgo.trainer.reference_cache import ReferenceCache


class Given(NamedTuple):
    """Of n samples with K corruptions each; a sample's own lie side by side."""

    latents: Tensor
    """``[n K, *latent_shape]``, latents in float32."""
    conditions: Conditions
    corruption: Corruption
    weight: Tensor | None
    """What each log-likelihood counts, float32 ``[n K]``; None for 1."""


class Inputs:
    """Puts together what networks are given, on ``device``, without waiting for it.

    ``times`` is K; ``cache`` keeps the reference's answers to corruptions of its own.
    """

    def __init__(
        self,
        draws: Draws,
        times: int,
        unconditional: Conditions,
        device: torch.device,
        cache: ReferenceCache | None,
    ) -> None:
        self._draws, self._times, self._device, self._cache = draws, times, device, cache
        self._unconditional = {name: value.to(device) for name, value in unconditional.items()}

    def of(self, number: int, batch: Batch) -> tuple[Given, Tensor | None]:
        """What update ``number`` gives for a batch, and the reference's ``[n]`` if kept."""
        sent = batch.to(self._device)
        if self._cache is not None:
            corruption, reference = self._cache.draw(number, batch, self._draws.every)
            corruption = Corruption(*(self._send(part) for part in corruption))
            given = Given(exact(sent.latents), sent.conditions, corruption, None)
            return given, self._send(reference)
        drawn = self._draws.of(number, batch.start, batch.latents, batch.seeds)
        corruption = Corruption(*(self._send(part.flatten(0, 1)) for part in drawn.corruption))
        conditions = self._drop(sent.conditions, drawn.dropped)
        weight = None if drawn.weight is None else self._send(drawn.weight.flatten())
        repeated = {name: self._repeat(value) for name, value in conditions.items()}
        return Given(self._repeat(exact(sent.latents)), repeated, corruption, weight), None

    def _drop(self, conditions: Conditions, dropped: Tensor | None) -> Conditions:
        """Put the empty prompt in the place of some prompts, so that guidance keeps working."""
        if dropped is None:
            return conditions
        chosen = self._send(dropped)
        return {
            name: torch.where(chosen.view(-1, *[1] * empty.ndim), empty, conditions[name])
            for name, empty in self._unconditional.items()
        }

    def _repeat(self, values: Tensor) -> Tensor:
        """A sample's once for each of its corruptions."""
        return values if self._times == 1 else values.repeat_interleave(self._times, dim=0)

    def _send(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def exact(latents: Tensor) -> Tensor:
    """Latents in float32; tokens as they are."""
    return latents.float() if latents.is_floating_point() else latents
