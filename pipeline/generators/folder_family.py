"""What latent and masked families share: a model folder, a device, settings of the sampler."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from tgo.pipeline.generators import adapters
from tgo.pipeline.generators.adapters import Adapters
from tgo.pipeline.generators.model_folder import ModelFolder
from tgo.pipeline.generators.sizes import Resolution, Size
from tgo.pipeline.generators.text_encoders import TextEncoders

FEW_STEP_NAMES = {"turbo", "schnell", "lightning", "lcm", "hyper", "sprint", "dmd"}
"""Words in the names of models that were distilled to sample in a few steps."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded and sampled: the group `generator` of params.yaml.

    Attributes:
        steps: sampler steps an image.
        guidance_scale: classifier-free guidance; 1 switches it off.
        dtype: name of a torch type, the one that network and text encoders compute in.
        device: torch device that holds the model.
        resolution: pixels a side of an image, or [width, height] of each size there is; None for
            what the model was trained at.
        quantization: "int8" or "nf4" for weights of fewer bits in network and text encoders.
        offload: whether text encoders and VAE wait in the CPU's memory until they are used.
        vae_tiling: whether large images are decoded and encoded in tiles that overlap.
        lazy: whether a VAE is read when it is first used: training may never need it.
    """

    steps: int
    guidance_scale: float
    dtype: str
    device: str
    resolution: Resolution = None
    quantization: str | None = None
    offload: bool = False
    vae_tiling: bool = False
    lazy: bool = False


class FolderFamily:
    """The methods of `Family` that do not depend on what the network predicts."""

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]
    """Subfolders of the model folder that are read."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Subfolders that are read where model_index.json names them."""
    network_part: ClassVar[str] = "transformer"
    """Which of the parts is the network that is trained."""
    network: nn.Module
    latent_shapes: Mapping[Size, tuple[int, ...]]

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        self._parts = self.parts_in(folder)
        folder.require_base(self._parts)
        folder.check(self._parts)
        self._folder = folder
        self._steps, self._guidance_scale = options.steps, options.guidance_scale
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._device = torch.device(options.device)
        self._quantization, self._offload = options.quantization, options.offload
        self.text_encoders = TextEncoders(
            folder,
            self._dtype,
            self._device,
            quantization=options.quantization,
            offload=options.offload,
        )

    @classmethod
    def load(cls, source: str, **options: Any) -> Self:
        """Load the model of a folder or hub repository.

        Args:
            source: path of a model folder, or a hub repository id.
            **options: the fields of `LoadOptions`.

        Returns:
            The model, ready to sample.

        Raises:
            InputError: a part is missing, damaged or does not fit.
        """
        return cls(ModelFolder(source), LoadOptions(**options))

    @classmethod
    def parts_in(cls, folder: ModelFolder) -> tuple[str, ...]:
        """The parts that are read of this folder."""
        named = (part for part in cls.optional if folder.index.get(part, [None])[0])
        return (*cls.parts, *named)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """That of images of the first size."""
        return next(iter(self.latent_shapes.values()))

    @property
    def is_few_step(self) -> bool:
        """Whether the model was distilled to sample in a few steps, as far as can be told."""
        words = set(re.split(r"[\W_\d]+", self._folder.name.lower()))
        return not words.isdisjoint(FEW_STEP_NAMES)

    def describe(self) -> dict[str, Any]:
        """Everything beside seeds and prompts that decides an image, as plain JSON values.

        Where there are several sizes, its own is left out.
        """
        return {
            "family": self.name,
            "model_sha256": self._folder.sha256(self._parts),
            "steps": self._steps,
            "guidance_scale": self._guidance_scale,
            "device": self._device.type,
            "dtype": str(self._dtype).removeprefix("torch."),
            **({"latent_shape": list(self.latent_shape)} if len(self.latent_shapes) == 1 else {}),
            **({"quantization": self._quantization} if self._quantization else {}),
        }

    def save(self, network: nn.Module, folder: Path) -> None:
        """Fill an empty `folder` with this model's other parts, and `network` as safetensors."""
        self._folder.save_with(self.network_part, network, folder)

    def save_adapters(self, trained: Adapters, folder: Path) -> None:
        """Fill `folder` with adapters alone and the name of their base model.

        Those that this model came with are in it, too.
        """
        part, earlier = self.network_part, self._folder.adapters
        if earlier is not None:
            trained = adapters.stacked(adapters.read(earlier, part), trained)
        folder.mkdir(parents=True, exist_ok=True)
        adapters.write(trained, part, self._folder.base(self._parts), folder)
