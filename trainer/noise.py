"""What the networks are given in a step: corruptions, noise levels, which prompts are dropped.

All of it follows from (train.seed, step, position in the global batch) and is drawn on the CPU, so
it is the same on every device, for every number of processes and of micro batches, and after a
resume. It is drawn in blocks of `BLOCK` units, each from a generator of its own, so that one of
many processes draws little more than its own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tgo.pipeline.generators.base import Corruption, NoiseLevels
from tgo.pipeline.seeds import sample_seed

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.pipeline.generators.base import Conditions, Family
    from tgo.trainer.reference_cache import ReferenceCache
    from tgo.trainer.stream import Batch

BLOCK = 64
"""Units (samples, or pairs) that share a generator."""


class NoiseDraw(NamedTuple):
    """What is drawn for n samples, on the CPU; K = ``train.draws``."""

    corruption: Corruption
    """Of ``[n, K, ...]``; both images of a pair have the same."""
    dropped: Tensor | None
    """bool ``[n]``, the prompts to empty; None if none ever is."""
    weight: Tensor | None
    """float32 ``[n, K]``, what each corruption's log-likelihood counts; None for 1."""


class NoiseSampler:
    """Draws the corruptions of a run.

    Args:
        family: Whose corruptions they are.
        train: The settings of the run.
        unit: 2 where winner and loser lie side by side and share what is drawn, else 1.
    """

    def __init__(self, family: Family, train: Train, *, unit: int) -> None:
        self._family, self._train, self.unit = family, train, unit
        self._units = train.batch_size // unit
        self._kept: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._levels = family if isinstance(family, NoiseLevels) else None

    def draw(self, step: int, start: int, latents: Tensor) -> NoiseDraw:
        """What is drawn for the samples from position ``start`` of the global batch on.

        Args:
            step: Number of the step, from 1.
            start: Position of the first sample in the global batch.
            latents: ``[n, ...]`` of those samples; only the shape counts.

        Returns:
            Noise levels, noise, emptied prompts and weights of the n samples.
        """
        unit = self.unit
        first, last = start // unit, (start + len(latents)) // unit
        blocks = range(first // BLOCK, -(-last // BLOCK))
        parts = [self._block(step, block, latents) for block in blocks]
        here = slice(first - blocks[0] * BLOCK, last - blocks[0] * BLOCK)
        timesteps, noise, dropped = (
            _joined([part[column] for part in parts], here, unit) for column in range(3)
        )
        return NoiseDraw(
            Corruption(timesteps, noise),
            dropped if self._train.prompt_dropout else None,
            self._weight(timesteps),
        )

    def _block(self, step: int, block: int, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A block, drawn once for all of a step's micro batches."""
        if (step, block) not in self._kept:
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] == step}
            self._kept[step, block] = self._draw_block(step, block, latents)
        return self._kept[step, block]

    def _draw_block(self, step: int, block: int, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps and noise ``[units, K, ...]`` and what is dropped, of one block."""
        train = self._train
        name = f"update block {block}" if block else "update"  # decides every draw: never rename
        generator = torch.Generator().manual_seed(sample_seed(train.seed, name, step))
        size = min(BLOCK, self._units - block * BLOCK)
        like = latents[:1].expand(size, *latents.shape[1:])
        drawn = [self._corrupt(like, generator) for _ in range(train.draws)]
        timesteps, noise = (torch.stack(part, dim=1) for part in zip(*drawn, strict=True))
        dropped = torch.rand(size, generator=generator) < train.prompt_dropout
        return timesteps, noise, dropped

    def _corrupt(self, like: Tensor, generator: torch.Generator) -> Corruption:
        corruption = self._family.corrupt(like, generator)
        timesteps = self._train.timesteps
        if self._levels is None or timesteps.draw == "family":
            return corruption
        if timesteps.draw == "uniform":
            levels = torch.rand(len(like), generator=generator)
        else:
            normal = torch.randn(len(like), generator=generator)
            levels = normal.mul(timesteps.std).add(timesteps.mean).sigmoid()
        return corruption._replace(timesteps=self._levels.timesteps_at(levels))

    def _weight(self, timesteps: Tensor) -> Tensor | None:
        """Min-SNR weights (arXiv:2303.09556): errors of the clean latents count min(SNR, gamma)."""
        gamma = self._train.timesteps.snr_gamma
        if gamma is None or self._levels is None:
            return None
        ratio, factor = self._levels.signal_to_noise(timesteps)
        return ratio.clamp(max=gamma) * factor


def _joined(parts: Sequence[Tensor], here: slice, times: int) -> Tensor:
    """Of the parts laid end to end those ``here``, each ``times`` times in a row."""
    joined = torch.cat(list(parts))[here]
    return joined if times == 1 else joined.repeat_interleave(times, dim=0)


class NetworkInputs(NamedTuple):
    """What a network is called with: n samples under K corruptions each, those side by side."""

    latents: Tensor
    """``[n K, *latent_shape]``, latents in float32."""
    conditions: Conditions
    corruption: Corruption
    weight: Tensor | None
    """What each log-likelihood counts, float32 ``[n K]``; None for 1."""


class InputBuilder:
    """Puts together what networks are given, on ``device``, without waiting for it.

    Args:
        sampler: Draws the corruptions.
        draws: How many corruptions a sample gets (K).
        unconditional: Conditions ``[...]`` of the empty prompt, for dropped prompts.
        device: Where the networks are.
        cache: Keeps the reference's log-likelihoods under corruptions of its own, if any.
    """

    def __init__(
        self,
        sampler: NoiseSampler,
        draws: int,
        unconditional: Conditions,
        device: torch.device,
        cache: ReferenceCache | None,
    ) -> None:
        self._sampler, self._draws, self._device, self._cache = sampler, draws, device, cache
        self._unconditional = {name: value.to(device) for name, value in unconditional.items()}

    def build(self, step: int, batch: Batch) -> tuple[NetworkInputs, Tensor | None]:
        """The inputs of a step's batch, and the reference's log-likelihoods ``[n]`` if cached."""
        sent = batch.to(self._device)
        if self._cache is not None:
            corruption, reference = self._cache.draw(step, batch, self._sampler.unit)
            corruption = Corruption(*(self._send(part) for part in corruption))
            inputs = NetworkInputs(as_float32(sent.latents), sent.conditions, corruption, None)
            return inputs, self._send(reference)
        drawn = self._sampler.draw(step, batch.start, batch.latents)
        conditions = self._drop(sent.conditions, drawn.dropped)
        return NetworkInputs(
            self._repeat(as_float32(sent.latents)),
            {name: self._repeat(value) for name, value in conditions.items()},
            Corruption(*(self._send(part.flatten(0, 1)) for part in drawn.corruption)),
            None if drawn.weight is None else self._send(drawn.weight.flatten()),
        ), None

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
        """Each sample's values once for each of its corruptions."""
        return values if self._draws == 1 else values.repeat_interleave(self._draws, dim=0)

    def _send(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def as_float32(latents: Tensor) -> Tensor:
    """Latents in float32; tokens as they are."""
    return latents.float() if latents.is_floating_point() else latents
