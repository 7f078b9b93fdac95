"""What a family of text-to-image models is: how it samples, and what its likelihood means.

A family knows both faces of its model. Stage one and the evaluation use the sampling face,
stage three the likelihood. Objectives see only `log_likelihood`, so every objective works with
every family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.sizes import Size
from tgo.pipeline.generators.text_encoders import TextEncoders

if TYPE_CHECKING:
    from tgo.pipeline.generators.adapters import Adapters

Conditions = dict[str, Tensor]
"""What a prompt gives the network, by name (`embeddings`, `pooled`, `mask`, ...).

Every value's first dimension is the batch. Files keep float32 as float16 and any other type as
it is, so a family whose values float16 cannot hold returns bfloat16.
"""


class Corruption(NamedTuple):
    """How training latents are corrupted; policy and reference must be given the same one."""

    timesteps: Tensor  # [B], int64 steps or, of flows, float32: 1000 sigma
    noise: Tensor  # [B, *latent_shape]: float32, or bool where a masked family hides tokens


class LogLikelihood(NamedTuple):
    """What a network says of latents under a corruption."""

    values: Tensor
    """Per-sample log-likelihood surrogate, float32 [B]."""
    residual: Tensor | None = None
    """``target - prediction``, float32 [B, *latent_shape], of a `Regressor`; None of others."""


class Family(Protocol):
    """A text-to-image model of one family, loaded on one device.

    Latents are what the network sees and training consumes: `latent_dtype` [B, *latent_shape] when
    stored. Where there are images of several sizes a batch holds one of them, and its tensors say
    which. Methods accept tensors on any device and bring them to the model's own.
    """

    name: ClassVar[str]
    network: nn.Module
    """The policy: what is trained."""
    text_encoders: TextEncoders
    """What reads prompts."""
    latent_shapes: Mapping[Size, tuple[int, ...]]
    """Of one image's latents, by the sizes of images that the settings name."""
    latent_dtype: torch.dtype

    @classmethod
    def load(cls, source: str, **options: Any) -> Self:
        """Load a model folder or hub repository; `options` are those of `LoadOptions`.

        Raises InputError: a part is missing, damaged or does not fit.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Everything beside seeds and prompts that decides an image, as plain JSON values."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """Conditions [B, ...] of each name; those of the empty prompt are the unconditional ones.

        The same names and, the batch aside, the same shapes for any prompts.
        """
        ...

    def initial_noise(self, seeds: Sequence[int], size: Size | None = None) -> Tensor:
        """What makes sampling random, [B, ...] on the CPU, each sample from a generator of its own.

        For most families the noise [B, *latent_shape] that the first step starts from, for images
        of `size`, or of the first of `latent_shapes`.
        """
        ...

    def sample(self, conditions: Conditions, unconditional: Conditions, noise: Tensor) -> Tensor:
        """Float32 latents [B, *latent_shape] of conditions [B, ...] and noise; NaN where it failed.

        `unconditional` holds those of the empty prompt, for guidance, without the batch: [...].
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images uint8 RGB [B, 3, H, W] on the CPU."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images uint8 RGB [B, 3, H, W], as stored: `latent_dtype` on the CPU.

        The family's own image encoder, without randomness: the same image gives the same latents.
        H and W are those of one of `latent_shapes`; InputError says so of any others.
        """
        ...

    def corrupt(self, latents: Tensor, generator: torch.Generator) -> Corruption:
        """Training-time timesteps and noise for latents [B, *latent_shape], on the CPU.

        Only the shape of `latents` counts; the CPU `generator` is all that decides.
        """
        ...

    def log_likelihood(
        self,
        network: nn.Module,
        latents: Tensor,
        conditions: Conditions,
        corruption: Corruption,
        *,
        temperature: float,
    ) -> LogLikelihood:
        """What `network` (policy or reference) says of latents [B, *latent_shape]."""
        ...

    def save(self, network: nn.Module, folder: Path) -> None:
        """Fill an empty folder, which family and library load, with `network` in it."""
        ...

    def save_adapters(self, trained: Adapters, folder: Path) -> None:
        """Fill an empty folder, which the family loads, with adapters and their base's name."""
        ...


@runtime_checkable
class Regressor(Protocol):
    """A family whose network predicts a target, and whose log-likelihood is that of a Gaussian.

    Objectives that compare the predictions of policy and reference need one, and so does the KL
    estimate of the training log.
    """

    def residual(
        self, network: nn.Module, latents: Tensor, conditions: Conditions, corruption: Corruption
    ) -> Tensor:
        """``target - prediction`` of `network`, float32 [B, *latent_shape]."""
        ...


@runtime_checkable
class NoiseLevels(Protocol):
    """A family that corrupts by Gaussian noise of a chosen level."""

    def initial_noise(
        self, seeds: Sequence[int], size: Size | None = None, *, dtype: torch.dtype | None = None
    ) -> Tensor:
        """As of `Family`; `dtype` is that of the model that samples, if it is not this one's."""
        ...

    def timesteps_at(self, levels: Tensor) -> Tensor:
        """Timesteps [B] as `corrupt` gives them, from levels [B] in 0 (clean) to 1 (noise)."""
        ...

    def signal_to_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Signal-to-noise ratio, and squared error of the clean latents per squared residual.

        Both float32, of the shape of `timesteps` and where they are. Where the ratio is 0 or
        infinite, `min(ratio, gamma) * factor` must still be finite.
        """
        ...


def gaussian_log_likelihood(residual: Tensor, temperature: float) -> Tensor:
    """``-(1/T) mean residual^2``, float32 [B] (TGO, arXiv:2605.04653).

    The mean over all but the first dimension, not the sum: with T = 1e-3 a sum would saturate
    every sigmoid.
    """
    return -residual.square().mean(dim=tuple(range(1, residual.ndim))) / temperature


def select_rows(conditions: Conditions, which: slice | int | Sequence[int]) -> Conditions:
    """Some rows of every value; one row, [...], for a single number."""
    return {name: value[which] for name, value in conditions.items()}


def concatenate(parts: Sequence[Conditions]) -> Conditions:
    """Batches of conditions, one after the other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def with_unconditional(conditions: Conditions, unconditional: Conditions) -> Conditions:
    """[2 B, ...]: the unconditional ones [...] B times, then the given, as guidance needs them."""
    with torch.autocast("cpu", enabled=False):  # which cannot join float16, as they are stored
        return {
            name: torch.cat([unconditional[name].to(value).expand_as(value), value])
            for name, value in conditions.items()
        }


def require_image_size(images: Tensor, expected: Collection[Size]) -> None:
    """InputError unless images [B, 3, H, W] are of one of the sizes `expected`."""
    height, width = images.shape[-2:]
    found = Size(width, height)
    if found not in expected:
        wanted = ", ".join(map(str, expected))
        raise InputError(f"images: are {found} pixels, the model makes {wanted}; resize them")
