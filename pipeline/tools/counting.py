"""What a model computes and holds, counted by running it without weights (`weightless`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tgo.pipeline.config.settings import Generator
from tgo.pipeline.config.train_settings import Lora
from tgo.pipeline.generators import family_class
from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.folder_family import LoadOptions
from tgo.pipeline.tools.costs import Cost
from tgo.pipeline.tools.footprint import VARIANTS, Footprint, Part, variant
from tgo.pipeline.tools.weightless import ConfigFolder, Watch, kernels
from tgo.trainer import lora
from tgo.trainer.policy import checkpoint_activations
from tgo.trainer.speed import count_flops

_RANK = 16
"""Of the adapters whose activations are counted; they are a hundredth of the network's."""
_TERA = 1e12


class Counter:
    """A model folder's network and VAE, weightless, and what is counted of them.

    Args:
        source: the model folder; weights may be absent.
        generator: family and resolution.

    Raises:
        InputError: the family would not load it.
    """

    def __init__(self, source: str, generator: Generator) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._folder = ConfigFolder(source, self._mode)
        self._generator = generator
        self.family = self._load("float32")

    def _load(self, dtype: str) -> Any:
        options = LoadOptions(
            steps=self._generator.steps,
            guidance_scale=self._generator.guidance_scale,
            dtype=dtype,
            device="cpu",
            resolution=self._generator.resolution,
            vae_tiling=self._generator.vae_tiling,
            lazy=True,
        )
        return family_class(self._generator.family)(self._folder, options)

    def conditions(self) -> Conditions:
        """Those of one prompt, by the model's own text encoders."""
        with kernels(), torch.no_grad():
            found: Conditions = self.family.encode_prompts(["a prompt"])
        return found

    def text_encoders(self) -> tuple[Part, ...]:
        """Sizes of the text encoders."""
        parts = [name for name in self.family._parts if name.startswith("text_encoder")]
        return tuple(
            part_of(
                self.family.text_encoders.part(name),
                whole=self._folder.class_name(name).startswith("CLIP"),
            )
            for name in parts
        )

    def cost(self, conditions: Conditions, texts: tuple[Part, ...]) -> Cost:
        """Everything of one image and one prompt.

        Args:
            conditions: of one prompt, [1, ...].
            texts: sizes of the text encoders.

        Returns:
            The cost, with its footprint.
        """
        family = self.family
        decoder = family._vqvae if hasattr(family, "_vqvae") else family._vae
        latents = self._latents(1)
        pixels = family.decode(latents).shape[-1]
        inference = self._forward(family, latents, conditions)
        with kernels(), torch.no_grad():
            forward = count_flops(inference)
            decode = count_flops(lambda: family.decode(latents))
            predicting = _peak(inference, family.network)
            decoding = _peak(lambda: family.decode(latents), decoder)
        stored = sum(value.nbytes for value in _stored(conditions).values())
        return Cost(
            forward / _TERA,
            decode / _TERA,
            pixels,
            latents.numel() * family.latent_dtype.itemsize,
            stored,
            distilled=bool(getattr(family, "guidance_distilled", False)),
            footprint=Footprint(
                network=part_of(family.network),
                vae=part_of(decoder, whole=True),
                texts=texts,
                predict=predicting,
                decode=decoding,
                adapters=self._adapters(),
                training=_Kept(self, conditions),
            ),
        )

    def _adapters(self) -> int:
        """Parameters of adapters of rank 1 in the family's own targets."""
        network = self._load("float32").network
        _add_adapters(network, self.family, rank=1)
        return sum(each.numel() for each in network.parameters() if each.requires_grad)

    def kept(
        self,
        conditions: Conditions,
        *,
        adapted: bool,
        recomputes: bool,
        half: bool,
        on_cpu: bool,
    ) -> float:
        """Bytes of activations that a training step holds at most, of one image.

        Args:
            conditions: of one prompt.
            adapted: adapters are trained, over a frozen network (in bfloat16 with `half`).
            recomputes: with gradient checkpointing.
            half: computes in bfloat16.
            on_cpu: on a CPU, not a GPU.

        Returns:
            Those of `Footprint.training`.
        """
        family = self._load("bfloat16" if half and adapted else "float32")
        network = family.network
        if adapted:
            _add_adapters(network, family, _RANK)
        else:
            network.requires_grad_(True)
        if recomputes:
            checkpoint_activations(network)
        forward = self._forward(family, self._latents(1), conditions)
        with kernels(gpu=half and not on_cpu), Watch(network) as watch:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                value = forward().values.mean()
            held = watch.now
            if recomputes:
                value.backward()
                return float(watch.peak)
        casts = 2 * part_of(network).parameters if half and not adapted else 0
        return float(max(0, held - casts))

    def _forward(self, family: Any, latents: Tensor, conditions: Conditions) -> Callable[[], Any]:
        corruption = family.corrupt(latents, torch.Generator())
        return lambda: family.log_likelihood(
            family.network, latents, conditions, corruption, temperature=1.0
        )

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor without numbers."""
        with self._mode:
            return torch.zeros(shape, dtype=dtype)

    def _shape(self) -> tuple[int, ...]:
        """Of the largest latents."""
        largest: tuple[int, ...] = max(self.family.latent_shapes.values(), key=math.prod)
        return largest

    def _latents(self, count: int) -> Tensor:
        return self.empty(count, *self._shape(), dtype=self.family.latent_dtype)


class _Kept(dict[str, float]):
    """Activations of training by `variant`, each counted when it is first asked for."""

    def __init__(self, counter: Counter, conditions: Conditions) -> None:
        super().__init__()
        self._counter, self._conditions = counter, conditions

    def __missing__(self, key: str) -> float:
        kinds = {variant(**kind): kind for kind in VARIANTS}
        self[key] = self._counter.kept(self._conditions, **kinds[key])
        return self[key]


def part_of(network: nn.Module, *, whole: bool = False) -> Part:
    """Sizes of a network; `whole` where quantization leaves it alone."""
    every = sum(each.numel() for each in network.parameters())
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    rounded = 0 if whole else sum(layer.weight.numel() for layer in layers)
    return Part(every, rounded)


def _peak(work: Callable[[], Any], network: nn.Module) -> float:
    with Watch(network) as watch:
        work()
    return float(watch.peak)


def _stored(conditions: Conditions) -> Conditions:
    """As embeddings are kept on disk: float32 as float16."""
    return {
        name: value.half() if value.dtype == torch.float32 else value
        for name, value in conditions.items()
    }


def _add_adapters(network: nn.Module, family: Any, rank: int) -> None:
    lora.add(network, Lora(rank=rank, alpha=rank, targets=None), family, seed=0)
