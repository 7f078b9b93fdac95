"""What a step draws: corruptions, noise levels and which prompts are dropped.

All of it follows from (train.seed, step, place in the global batch) and is drawn on the CPU, so
it is the same on every device, for every number of processes and of micro batches, and after a
resume. It is drawn in blocks of `BLOCK` units, each from a generator of its own, so that one of
many processes draws little more than its own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import Conditions, Corruption, NoiseLevels
from tgo.pipeline.seeds import sample_seed
from tgo.trainer.stream import Batch
from torch import Tensor

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.reference_cache import ReferenceCache

BLOCK = 64
"""Units (samples, or pairs) that share a generator."""


class Drawn(NamedTuple):
    """What is drawn for n samples, on the CPU; K = ``train.draws``."""

    corruption: Corruption
    """Of ``[n, K, ...]``; both images of a pair have the same."""
    dropped: Tensor | None
    """bool ``[n]``, the prompts to empty; None if none ever is."""
    weight: Tensor | None
    """float32 ``[n, K]``, what each corruption's log-likelihood counts; None for 1."""


class Draws:
    """``every`` is 2 where winner and loser lie side by side, else 1.

    ``noise_dtype`` is what stage one drew its noise in, for ``train.noise: tracked``.

    Raises InputError for what the family cannot do.
    """

    def __init__(
        self, family: Family, train: Train, *, every: int, noise_dtype: torch.dtype
    ) -> None:
        self._family, self._train, self.every = family, train, every
        self._noise_dtype = noise_dtype
        self._units = train.batch_size // every
        self._kept: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._timed = family if isinstance(family, NoiseLevels) else None
        plain = train.timesteps.draw == "family" and train.timesteps.snr_gamma is None
        if self._timed is None and not plain:
            raise InputError(
                f"train.timesteps: the family {family.name} draws its own; "
                "set draw to family and snr_gamma to null"
            )
        if self._timed is None and train.noise == "tracked":
            raise InputError(
                f"train.noise: tracked needs images made from Gaussian noise; "
                f"the family {family.name} makes them otherwise; set it to fresh"
            )

    def of(self, step: int, start: int, latents: Tensor, seeds: Tensor) -> Drawn:
        """What is drawn for the samples from place ``start`` of the global batch on.

        Args:
            latents: ``[n, ...]`` of those samples; only the shape counts.
            seeds: int64 ``[n]`` from which their images were made; used by tracked noise alone.
        """
        every = self.every
        first, last = start // every, (start + len(latents)) // every
        blocks = range(first // BLOCK, -(-last // BLOCK))
        parts = [self._block(step, block, latents) for block in blocks]
        here = slice(first - blocks[0] * BLOCK, last - blocks[0] * BLOCK)
        timesteps, noise = (
            _joined([part[column] for part in parts], here, every) for column in (0, 1)
        )
        dropped = None
        if self._train.prompt_dropout:
            dropped = _joined([part[2] for part in parts], here, every)
        if self._train.noise == "tracked":
            noise = self._tracked(seeds, noise.shape)
        corruption = Corruption(timesteps, noise)
        return Drawn(corruption, dropped, self._weight(timesteps))

    def _block(self, step: int, block: int, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A block, drawn once for all of a step's micro batches."""
        if (step, block) not in self._kept:
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] == step}
            self._kept[step, block] = self._draw(step, block, latents)
        return self._kept[step, block]

    def _draw(self, step: int, block: int, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps and noise ``[units, K, ...]`` and what is dropped, of one block."""
        train = self._train
        name = f"update block {block}" if block else "update"  # seeds of earlier runs stay
        generator = torch.Generator().manual_seed(sample_seed(train.seed, name, step))
        size = min(BLOCK, self._units - block * BLOCK)
        like = latents[:1].expand(size, *latents.shape[1:])
        drawn = [self._corrupt(like, generator) for _ in range(train.draws)]
        timesteps, noise = (torch.stack(part, dim=1) for part in zip(*drawn, strict=True))
        dropped = torch.rand(size, generator=generator) < train.prompt_dropout
        return timesteps, noise, dropped

    def _corrupt(self, like: Tensor, generator: torch.Generator) -> Corruption:
        found = self._family.corrupt(like, generator)
        if self._timed is None or self._train.timesteps.draw == "family":
            return found
        if self._train.timesteps.draw == "uniform":
            levels = torch.rand(len(like), generator=generator)
        else:
            given = self._train.timesteps
            levels = torch.randn(len(like), generator=generator).mul(given.std).add(given.mean)
            levels = levels.sigmoid()
        return found._replace(timesteps=self._timed.timesteps_at(levels))

    def _tracked(self, seeds: Tensor, shape: torch.Size) -> Tensor:
        """The noise that the images were made from, ``[n, K, ...]`` alike for every draw.

        Corrupting along the straight line from an image to its own noise measures the likelihood
        on (nearly) the path that made it (PNAPO, arXiv:2605.09433, for flows).
        """
        assert self._timed is not None  # as the constructor has made sure
        noise = self._timed.initial_noise(seeds.tolist(), self._noise_dtype).float()
        return noise[:, None].expand(shape)

    def _weight(self, timesteps: Tensor) -> Tensor | None:
        """Min-SNR weights (arXiv:2303.09556): errors of the clean latents count min(SNR, gamma)."""
        gamma = self._train.timesteps.snr_gamma
        if gamma is None or self._timed is None:
            return None
        ratio, factor = self._timed.signal_to_noise(timesteps)
        return ratio.clamp(max=gamma) * factor


def _joined(parts: Sequence[Tensor], here: slice, times: int) -> Tensor:
    """Of the parts laid end to end those ``here``, each ``times`` times in a row."""
    found = torch.cat(list(parts))[here]
    return found if times == 1 else found.repeat_interleave(times, dim=0)


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
        """What step ``number`` gives for a batch, and the reference's ``[n]`` if kept."""
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
