"""What a reward model is, and the batch it scores."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from tgo.rewards.images import Placement, View, render, render_original
from tgo.rewards.pictures import Picture
from tgo.rewards.texts import Encoder, TextStore

T = TypeVar("T")


Images = Tensor | Sequence[Tensor | Picture]
"""uint8 RGB [B, 3, H, W], or B images [3, H, W] or pictures of any sizes."""


class Group(NamedTuple):
    """The images of a batch that have one size: their places in it, uint8 [n, 3, H, W]."""

    places: list[int]
    images: Tensor


class Batch:
    """Images with their prompts, and everything the models derive from them, each once.

    Derived tensors (the crop, a shared tower's embeddings) live as long as the batch, text
    embeddings as long as the store that was passed in.
    """

    def __init__(
        self,
        images: Images,
        prompts: Sequence[str],
        texts: TextStore | None = None,
        *,
        device: str | torch.device | None = None,
    ) -> None:
        """One prompt for each image; `device` is where to score (the images' own, if None)."""
        self._groups = _grouped(images, device)
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images, but {len(prompts)} prompts")
        self.images = images
        self.prompts = tuple(prompts)
        self.device = self._groups[0].images.device
        self._originals = {
            place: image.original
            for place, image in enumerate(images)
            if isinstance(image, Picture) and image.original is not None
        }
        self._texts = texts if texts is not None else TextStore()
        self._derived: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.prompts)

    def pillow(self, place: int) -> Image.Image:
        """One image as its file would open: in its own mode where that is known, else RGB."""
        image = self.images[place]
        if isinstance(image, Picture):
            if image.original is not None:
                return image.original
            image = image.rgb
        return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """`compute()` the first time `key` is asked for, its result afterwards."""
        if key not in self._derived:
            self._derived[key] = compute()
        return cast("T", self._derived[key])

    def pixels(self, view: View, dtype: torch.dtype) -> Tensor:
        """Normalised network input [B, 3, view.size, view.size] of `dtype`."""
        targets = tuple(view.place(*group.images.shape[-2:]) for group in self._groups)
        convert = view.convert if self._originals else "first"
        key = (targets, convert, dtype)
        # one memory layout, so that compiled towers and chosen kernels are the same for all input
        return self.once(key, lambda: self._render(targets, convert).to(dtype).contiguous())

    def _render(self, targets: Sequence[Placement], convert: str) -> Tensor:
        rendered = [render(g.images, to) for g, to in zip(self._groups, targets, strict=True)]
        if len(rendered) == 1 and convert == "first":
            return rendered[0]
        whole = rendered[0].new_empty(len(self.prompts), *rendered[0].shape[1:])
        for group, part, target in zip(self._groups, rendered, targets, strict=True):
            whole[group.places] = part
            for place in self._originals.keys() & group.places if convert != "first" else ():
                own = render_original(self._originals[place], target, convert)
                whole[place] = own.to(whole.device)
        return whole

    def embed_prompts(self, encode: Encoder) -> Tensor:
        """float32 embeddings [B, D] of the prompts, each unique one encoded at most once."""
        return self._texts.rows(encode, self.prompts)


def _grouped(images: Images, device: str | torch.device | None) -> list[Group]:
    """The images by size, in the order of first appearance, on the device that scores."""
    if isinstance(images, Tensor):
        _check(images, 4)
        return [Group(list(range(len(images))), images.to(device or images.device))]
    if not images:
        raise ValueError("no images")
    places: dict[tuple[int, ...], list[int]] = {}
    pixels = [image.rgb if isinstance(image, Picture) else image for image in images]
    for place, image in enumerate(pixels):
        _check(image, 3)
        places.setdefault(tuple(image.shape), []).append(place)
    return [
        Group(same, torch.stack([pixels[place] for place in same]).to(device or pixels[0].device))
        for same in places.values()
    ]


def _check(image: Tensor, axes: int) -> None:
    if image.dtype != torch.uint8 or image.ndim != axes or image.shape[-3] != 3 or not len(image):
        wanted = "[B, 3, H, W]" if axes == 4 else "[3, H, W] each"
        raise ValueError(f"images are {image.dtype} {list(image.shape)}, not torch.uint8 {wanted}")


class RewardModel(Protocol):
    """Scores images against their prompts; higher is better."""

    @property
    def name(self) -> str:
        """The column of its scores."""
        ...

    @property
    def version(self) -> str:
        """Which weights these are, in words."""
        ...

    @property
    def unit(self) -> str:
        """What a score is a number of."""
        ...

    @property
    def checkpoint_sha256(self) -> str:
        """Checksum of the weights as they lie on disk."""
        ...

    def score(self, batch: Batch) -> Tensor:
        """float32 [B] on the batch's device."""
        ...


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What decides a model's scores beside the images; it travels with every score column.

    `model` is the id of the published model whose architecture and formula this is; `version`
    says whether the weights are its own. `files` are the sha256 of the small files that matter
    too (configuration, tokenizer). `networks` hold the weights; they are what is compiled.
    """

    name: ClassVar[str]
    model: ClassVar[str]
    unit: ClassVar[str]
    usual_range: ClassVar[tuple[float, float]]

    version: str
    checkpoint_sha256: str
    dtype: str
    preprocessing: str
    files: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[nn.Module, ...] = field(default=(), repr=False)


def describe(model: RewardModel) -> dict[str, Any]:
    """What decides a model's scores, as plain JSON values; absent parts are left out."""
    parts = (
        "name",
        "model",
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
