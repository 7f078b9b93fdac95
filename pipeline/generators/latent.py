"""What latent models share: a VAE, Gaussian noise in its latents, a likelihood of squared errors.

Latents are the latents as the network sees them, shifted and scaled by the VAE's own statistics,
float16 in the shards. A finished latent is of unit scale, so float16 (largest number 65,504, 11
bits) holds it whatever type the network computes in; Parquet has no bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import (
    Conditions,
    Corruption,
    LogLikelihood,
    gaussian_log_likelihood,
    require_image_size,
)
from tgo.pipeline.generators.folder_family import FolderFamily, LoadOptions
from tgo.pipeline.generators.model_folder import ModelFolder
from tgo.pipeline.generators.quantization import place
from tgo.pipeline.generators.sizes import Size, sizes_of

NOISY_SAMPLERS = (
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DPMSolverSDEScheduler",
    "EulerAncestralDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
)
"""Schedulers of diffusers that draw noise in every step."""


class Latent(FolderFamily):
    """The methods of `Family` that do not depend on how a latent model corrupts and predicts.

    A subclass names its parts, encodes prompts, samples, corrupts, and gives the `residual`.
    """

    patch: ClassVar[int] = 1
    """Latent pixels a side of one token of the network; the resolution must divide by it."""
    latent_dtype = torch.float16

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        super().__init__(folder, options)
        self._require_sampler(folder.class_name("scheduler"))
        self._scheduler = folder.load("scheduler")
        self._check_sampler()
        self._vae_config: Any = folder.full_config("vae")
        self._tiled = options.vae_tiling
        if not options.lazy:
            self._vae  # noqa: B018
        network = folder.load(
            self.network_part,
            self._dtype,
            quantization=options.quantization,
            device=self._device,
        )
        self.network = place(network, self._device)
        self._config: Any = self.network.config
        self._check_channels()
        sizes = sizes_of(options.resolution) or (self._default_size(),)
        self.latent_shapes = {size: self._shape_for(size) for size in sizes}

    def describe(self) -> dict[str, Any]:
        tiling = {"vae_tiling": True} if self._tiled else {}
        return super().describe() | {"sampler": type(self._scheduler).__name__} | tiling

    def initial_noise(
        self, seeds: Sequence[int], size: Size | None = None, *, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Standard normal numbers in the space of the latents, as `corrupt` draws them.

        In the type that sampling starts from, or another: to rounding the numbers are the same.
        """
        shape = self.latent_shape if size is None else self.latent_shapes[size]
        # as diffusers draws it for `generator=[...]`, so stock pipelines make the same image
        return torch.stack(
            [
                torch.randn(
                    shape,
                    generator=torch.Generator().manual_seed(seed),
                    dtype=dtype or self._noise_dtype(),
                )
                for seed in seeds
            ]
        )

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        latents = self._unscaled(latents.to(self._device, self._vae.dtype))
        with self._vae_on_device():
            decoded = self._vae.decode(latents).sample
        images = decoded.reshape(len(latents), 3, *decoded.shape[-2:])
        # in the order of diffusers' image processor, so that roundings agree to the bit
        return ((images * 0.5 + 0.5).clamp(0, 1).float() * 255).round().to(torch.uint8).cpu()

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """The mode of the autoencoder's posterior, scaled as the network sees it."""
        require_image_size(images, self.latent_shapes)
        pixels = images.to(self._device, self._vae.dtype) / 127.5 - 1
        with self._vae_on_device():
            encoded = self._vae.encode(self._pixels_of(pixels))
        # AutoencoderTiny has no distribution, but latents
        latents = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded[0]
        return self._scaled(latents).to("cpu", self.latent_dtype)

    def log_likelihood(
        self,
        network: nn.Module,
        latents: Tensor,
        conditions: Conditions,
        corruption: Corruption,
        *,
        temperature: float,
    ) -> LogLikelihood:
        """``-(1/T) mean_CHW (target - prediction)^2``, float32 [B]."""
        residual = self.residual(network, latents, conditions, corruption)
        return LogLikelihood(gaussian_log_likelihood(residual, temperature), residual)

    def residual(
        self, network: nn.Module, latents: Tensor, conditions: Conditions, corruption: Corruption
    ) -> Tensor:
        """``target - prediction``, float32 [B, *latent_shape]."""
        raise NotImplementedError

    @contextmanager
    def _vae_on_device(self) -> Iterator[None]:
        """Inside, the VAE is on the device; with `offload` it is in the CPU's memory otherwise."""
        self._vae.to(self._device)
        try:
            yield
        finally:
            if self._offload:
                self._vae.to("cpu")

    @cached_property
    def _vae(self) -> Any:
        """The autoencoder, read when it is first used."""
        vae = self._folder.load("vae", self._vae_dtype())
        try:
            if self._tiled:
                vae.enable_tiling()
        except (AttributeError, NotImplementedError):
            raise InputError(
                f"generator.vae_tiling: {type(vae).__name__} has no tiles; set it to false"
            ) from None
        return vae if self._offload else vae.to(self._device)

    samplers: ClassVar[tuple[str, ...]]
    """Schedulers that draw no noise after the first, so that an image depends on its seed alone."""

    def _require_sampler(self, name: str) -> None:
        """InputError unless the scheduler's class is one of `samplers`."""
        if name in self.samplers:
            return
        reason = (
            "draws noise at every step, so images would depend on their batch"
            if name in NOISY_SAMPLERS
            else f"is no sampler that {self.name} models are known to give the same images with"
        )
        raise InputError(
            f"{self._folder.path}/scheduler: {name} {reason}; use one of {', '.join(self.samplers)}"
        )

    def _check_sampler(self) -> None:
        """InputError unless the scheduler with its settings gives each image by its seed alone."""
        raise NotImplementedError

    def _check_channels(self) -> None:
        """InputError unless the network reads what the VAE makes."""
        made = self._vae_channels()
        if made != self._channels():
            raise InputError(
                f"{self._folder.path / self.network_part}: reads {self._channels()} channels, the "
                f"vae makes {made}: a network for inpainting or another VAE; use a text-to-image "
                "model, and the VAE it was trained with"
            )

    def _vae_channels(self) -> int:
        """Channels of the latents, by the VAE."""
        config = self._vae_config
        return int(config.get("latent_channels") or config.get("z_dim"))

    def _default_side(self) -> int:
        """Latent pixels a side where `resolution` is not given.

        Raises InputError: the network does not say, or was made for images that are not
        square.
        """
        said = self._config.get("sample_size")
        sides = set(said) if isinstance(said, list | tuple) else {said}
        side = sides.pop()
        if sides or not isinstance(side, int):
            raise InputError(
                f"{self._folder.path / self.network_part}/config.json: sample_size is {said}, "
                "not the side of a square; set generator.resolution to [[width, height]] in pixels"
            )
        return side

    def _channels(self) -> int:
        """Channels of the latents."""
        return int(self._config.in_channels)

    def _shape_of(self, height: int, width: int) -> tuple[int, ...]:
        """Of latents that are so many latent pixels high and wide."""
        return (self._channels(), height, width)

    def _scale(self) -> int:
        """Image pixels a side of one latent pixel."""
        return int(2 ** (len(self._vae_config.block_out_channels) - 1))

    def _default_size(self) -> Size:
        side = self._scale() * self._default_side()
        return Size(side, side)

    def _shape_for(self, size: Size) -> tuple[int, ...]:
        """Of the latents of images of a size; InputError where the model can make none."""
        unit = self._scale() * self.patch
        for pixels in size:
            if pixels % unit:
                raise InputError(
                    f"generator.resolution: {pixels} is no multiple of {unit}, as this model needs"
                )
        return self._shape_of(size.height // self._scale(), size.width // self._scale())

    def _noise_dtype(self) -> torch.dtype:
        """The type in which the stock pipeline draws noise and keeps what is being denoised."""
        return self._dtype

    def _vae_dtype(self) -> torch.dtype:
        return self._dtype

    def _unscaled(self, latents: Tensor) -> Tensor:
        """What the VAE decodes, from latents [B, *latent_shape]."""
        mean, deviation = self._statistics(latents)
        return latents * deviation / self._vae_config.get("scaling_factor", 1) + mean

    def _scaled(self, latents: Tensor) -> Tensor:
        """Latents [B, *latent_shape] from what the VAE encodes; undoes `_unscaled`."""
        mean, deviation = self._statistics(latents)
        return (latents - mean) * self._vae_config.get("scaling_factor", 1) / deviation

    def _statistics(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Mean and deviation of the VAE's latents: one a channel where it states them so."""
        config = self._vae_config
        channels = [config.get("latents_mean"), config.get("latents_std")]
        if None in channels:
            return config.get("shift_factor") or 0, 1
        shape = (-1, *[1] * (like.ndim - 2))
        mean, deviation = (like.new_tensor(values).view(shape) for values in channels)
        return mean, deviation

    def _pixels_of(self, images: Tensor) -> Tensor:
        """What the VAE encodes, from images [B, 3, H, W] in -1 to 1."""
        return images

    def _network_dtype(self) -> torch.dtype:
        """The type the policy reads, and a reference with it: both are given the same numbers.

        Some networks keep a few of their parameters in float32.
        """
        kept: Any = self.network._keep_in_fp32_modules or ()
        types = (
            parameter.dtype
            for name, parameter in self.network.named_parameters()
            if parameter.is_floating_point() and not any(part in name for part in kept)
        )
        return next(types)

    def _ready(self, conditions: Conditions, dtype: torch.dtype) -> Conditions:
        """On the device, and what is no mask in the network's type."""
        return {
            name: value.to(self._device, dtype if value.is_floating_point() else value.dtype)
            for name, value in conditions.items()
        }
