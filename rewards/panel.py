"""All reward models on one batch: what they have in common is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tgo.rewards import aesthetic, clip, registry
from tgo.rewards.base import Batch, Images, RewardModel, describe
from tgo.rewards.errors import CheckpointError, RewardError, Stopped
from tgo.rewards.memory import is_exhausted, too_large
from tgo.rewards.registry import RewardSpec, load
from tgo.rewards.texts import TextStore

__all__ = ["LIBRARIES", "Panel", "load"]

LIBRARIES = ("torch", "torchvision", "transformers", "open_clip_torch", "pillow", "ftfy")
"""Libraries that scores are computed with; their versions are recorded with them."""


class Panel:
    """Scores a batch with every model.

    There is one decode, one crop, one pass of a shared CLIP tower and one text embedding per unique
    prompt, and image i is only ever compared with prompt i.

    Towers compute in their dtype; the last normalisation, dot product and head are float32.
    """

    def __init__(
        self, models: Mapping[str, RewardModel], *, device: str | torch.device = "cpu"
    ) -> None:
        self._models = dict(models)
        self._device = torch.device(device)
        self._texts = TextStore()
        self._fixed: int | None = None
        self._offloaded = False
        self.names = tuple(self._models)

    @classmethod
    def load(
        cls,
        sources: Mapping[str, Any],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Panel:
        """The models named in `sources`, in its order; raises CheckpointError.

        A value is a source (folder, file, hub id) or what `registry.RewardSpec` holds. `aesthetic`
        sits on the CLIP that its folder names, or else on that of `clip`; where the two are the
        same its tower is loaded and run once.
        """
        entries = {name: registry.as_spec(entry) for name, entry in sources.items()}
        shared = [name for name in ("clip", "aesthetic") if _is_ours(name, entries)]
        try:
            models = {
                name: load(name, entry, device=device, dtype=dtype)
                for name, entry in entries.items()
                if name not in shared
            }
            models |= _on_clip({name: entries[name] for name in shared}, device, dtype)
        except torch.OutOfMemoryError as error:
            raise CheckpointError(
                f"{device}: the weights of {', '.join(sources)} do not fit into its memory "
                "together; use a 16-bit dtype, fewer reward models or a larger device"
            ) from error
        return cls({name: models[name] for name in sources}, device=device)

    def only(self, names: Sequence[str]) -> Panel:
        """The same models, fewer of them."""
        panel = Panel({name: self._models[name] for name in names}, device=self._device)
        panel._fix(self._fixed)
        panel._offloaded = self._offloaded
        return panel

    def compile(self, batch_size: int, *, backend: str | Any = "inductor") -> None:
        """Compiles the towers with `torch.compile` for batches of exactly `batch_size` images.

        Batches are cut and padded to it from then on, texts to a fixed number, so that every
        tower is compiled once. Scores may move in their last bits.
        """
        for network in self.networks():
            network.compile(dynamic=False, backend=backend)
        self._fix(batch_size)

    def offload(self) -> None:
        """Keep the towers in the CPU's memory, and on the device only while they score."""
        self._offloaded = True
        self._move("cpu")

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Inside, the towers are on the device."""
        if self._offloaded:
            self._move(self._device)
        try:
            yield
        finally:
            if self._offloaded:
                self._move("cpu")

    def _move(self, device: str | torch.device) -> None:
        for network in self.networks():
            network.to(device)

    def _fix(self, batch_size: int | None) -> None:
        self._fixed = batch_size
        self._texts = TextStore(fixed=batch_size is not None)

    def networks(self) -> list[nn.Module]:
        """The towers of all models, each once."""
        parts = [part for model in self._models.values() for part in getattr(model, "networks", ())]
        return list({id(part): part for part in parts}.values())

    @torch.inference_mode()
    def score(self, images: Images, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Scores of images for their prompts: float32 [B] on the CPU, per model.

        `images` is uint8 RGB [B, 3, H, W], or a list of such images or of decoded pictures, of
        any sizes. Raises OutOfMemoryError, with a batch size that fits, if they are too many.
        """
        size = len(prompts)
        with self._on_device():
            try:
                return self._score(images, prompts, self._fixed)
            except (RuntimeError, MemoryError) as error:
                if not is_exhausted(error):
                    raise
            # here, because the handled error still held the tensors of its frames
            raise too_large(
                min(size, self._fixed or size),
                lambda part: self._score(
                    images[:part], prompts[:part], part if self._fixed else None
                ),
                self._device,
            )

    def _score(
        self, images: Images, prompts: Sequence[str], fixed: int | None
    ) -> dict[str, Tensor]:
        parts = []
        for some, texts, real in _cut(images, prompts, fixed):
            batch = Batch(some, texts, self._texts, device=self._device)
            parts.append(
                {name: _scored(name, model, batch)[:real] for name, model in self._models.items()}
            )
        return {name: torch.cat([part[name] for part in parts]) for name in self._models}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Per model what decides its scores: goes into fingerprints and shard metadata."""
        compiled = {"compiled": self._fixed} if self._fixed else {}
        return {name: describe(model) | compiled for name, model in self._models.items()}

    def modules(self) -> dict[str, str]:
        """Per model the name of the module whose code computes its scores."""
        return {name: type(model).__module__ for name, model in self._models.items()}

    def forget(self) -> None:
        """Drops cached text embeddings.

        A cached embedding was computed in another company of prompts and may differ in its last
        bit; called before each shard, this makes the shard's bytes independent of the others.
        """
        self._texts.clear()


def library_versions() -> dict[str, str]:
    """Versions of what scores are computed with, to be recorded beside them."""
    return {library: version(library) for library in LIBRARIES}


def _scored(name: str, model: RewardModel, batch: Batch) -> Tensor:
    """The scores of one model, float32 [B] on the CPU.

    Raises RewardError: the model, which may be a plug-in, gave anything but B real numbers.
    """
    try:
        scores: object = model.score(batch)
    except Stopped:
        raise
    except SystemExit as error:
        raise RewardError(
            f"{name}: its score() calls sys.exit({error.code!r}); raise an exception in its place"
        ) from error
    wanted = f"score() must return real numbers in a tensor [{len(batch)}], one an image"
    if not isinstance(scores, Tensor):
        raise RewardError(f"{name}: returned {type(scores).__name__}; {wanted}")
    if scores.shape != (len(batch),) or scores.is_complex() or scores.dtype == torch.bool:
        raise RewardError(f"{name}: returned {scores.dtype} {list(scores.shape)}; {wanted}")
    return scores.detach().to("cpu", torch.float32)


def _cut(
    images: Images, prompts: Sequence[str], fixed: int | None
) -> Iterator[tuple[Images, Sequence[str], int]]:
    """The batch as it is; or parts of `fixed` rows, the last padded, and how many are real."""
    if fixed is None or len(prompts) == fixed:
        yield images, prompts, len(prompts)
        return
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images, but {len(prompts)} prompts")
    for start in range(0, len(prompts), fixed):
        some, texts = list(images[start : start + fixed]), list(prompts[start : start + fixed])
        lack = fixed - len(texts)
        yield some + some[-1:] * lack, texts + texts[-1:] * lack, len(texts)


def _is_ours(name: str, entries: Mapping[str, RewardSpec]) -> bool:
    """Whether a model is loaded by our own code for it."""
    entry = entries.get(name)
    return entry is not None and entry.backend == "own" and entry.module is None


def _on_clip(
    sources: Mapping[str, RewardSpec], device: str | torch.device, dtype: torch.dtype
) -> dict[str, RewardModel]:
    """`clip` and `aesthetic` where wanted, each CLIP loaded once."""
    towers: dict[str, clip.Tower] = {}

    def tower(source: str) -> clip.Tower:
        place = str(Path(source).resolve()) if Path(source).exists() else source
        if place not in towers:
            towers[place] = clip.load_tower(source, device=device, dtype=dtype)
        return towers[place]

    models: dict[str, RewardModel] = {}
    for name, entry in sources.items():
        if entry.options:
            raise CheckpointError(f"{name}: takes no options, but has {', '.join(entry.options)}")
    if "clip" in sources:
        place = sources["clip"].source
        models["clip"] = clip.from_tower(tower(place), place)
    if "aesthetic" in sources:
        head = sources["aesthetic"].source
        named = aesthetic.clip_source(head)
        base = named or (sources["clip"].source if "clip" in sources else None)
        on = None if base is None else tower(base)
        models["aesthetic"] = aesthetic.load(head, device=device, dtype=dtype, clip=on)
    return models
