"""What a reward model is, and the batch it scores."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import Tensor

from rewards.images import View, render
from rewards.texts import Encoder, TextStore

T = TypeVar("T")


class Batch:
    """Images with their prompts, and everything the models derive from them, each once.

    Derived tensors (the crop, a shared tower's embeddings) live as long as the batch, text
    embeddings as long as the store that was passed in.
    """

    def __init__(
        self, images: Tensor, prompts: Sequence[str], texts: TextStore | None = None
    ) -> None:
        """`images` is uint8 RGB [B, 3, H, W] on the device that scores, one prompt for each."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}, not torch.uint8 [B, 3, H, W]"
            )
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images, but {len(prompts)} prompts")
        self.images = images
        self.prompts = tuple(prompts)
        self._texts = texts if texts is not None else TextStore()
        self._derived: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """`compute()` the first time `key` is asked for, its result afterwards."""
        if key not in self._derived:
            self._derived[key] = compute()
        return cast("T", self._derived[key])

    def pixels(self, view: View, dtype: torch.dtype) -> Tensor:
        """Normalised network input [B, 3, view.size, view.size] of `dtype`."""
        place = view.place(*self.images.shape[-2:])
        return self.once((place, dtype), lambda: render(self.images, place).to(dtype))

    def embed_prompts(self, encode: Encoder) -> Tensor:
        """float32 embeddings [B, D] of the prompts, each unique one encoded at most once."""
        return self._texts.rows(encode, self.prompts)


class RewardModel(Protocol):
    """Scores images against their prompts; higher is better."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def checkpoint_sha256(self) -> str: ...

    def score(self, batch: Batch) -> Tensor:
        """float32 [B] on the batch's device."""
        ...


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What decides a model's scores beside the images; it travels with every score column.

    `files` are the sha256 of the small files that matter too (configuration, tokenizer).
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    usual_range: ClassVar[tuple[float, float]]

    version: str
    checkpoint_sha256: str
    dtype: str
    preprocessing: str
    files: Mapping[str, str] = field(default_factory=dict)


def describe(model: RewardModel) -> dict[str, Any]:
    """What decides a model's scores, as plain JSON values; absent parts are left out."""
    parts = (
        "name",
        "version",
        "unit",
        "usual_range",
        "checkpoint_sha256",
        "files",
        "dtype",
        "preprocessing",
    )
    found = {part: getattr(model, part) for part in parts if hasattr(model, part)}
    if "usual_range" in found:
        found["usual_range"] = list(found["usual_range"])
    return found
