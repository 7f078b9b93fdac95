"""The bytes of scored rows: embeddings, latents, images, scores; nothing about files.

This module and all it imports are part of every shard's fingerprint: what belongs here is what
decides a value, what does not (plans, progress, files) lives in `shard_builder`. Batches have one
fixed size, the last one padded, so a row's values do not depend on how many rows follow it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tgo.pipeline.generators.base import concatenate, select_rows
from tgo.pipeline.seeds import sample_seed
from tgo.pipeline.storage.embeddings import Embeddings, stored

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Family
    from tgo.pipeline.generators.sizes import Size
    from tgo.pipeline.sources.prompts import Prompt
    from tgo.rewards.panel import Panel

T = TypeVar("T")


class Row(NamedTuple):
    """One image to be made."""

    id: str
    prompt: Prompt
    prompt_index: int  # of the prompt among the shard's prompts
    replicate: int
    seed: int


class Sampled(NamedTuple):
    """A batch as sampled: padded, so that it is decoded in the size it was sampled in."""

    latents: Tensor  # [batch size, *latent_shape] in their stored type, on the CPU
    usable: np.ndarray  # bool [rows]; False where sampling left the numbers of the stored type


def rows_of(prompts: Sequence[Prompt], *, seed: int, images_per_prompt: int) -> list[Row]:
    """The rows of a shard: prompts in their order, the images of one prompt together."""
    return [
        Row(
            f"{prompt.id}-{replicate:03d}",
            prompt,
            index,
            replicate,
            sample_seed(seed, prompt.id, replicate),
        )
        for index, prompt in enumerate(prompts)
        for replicate in range(images_per_prompt)
    ]


def embed(family: Family, texts: Sequence[str], batch_size: int) -> Embeddings:
    """Conditions [N, ...] of N texts and of the empty one, as they are stored.

    Each different text is encoded once. Images are sampled from these values, float16 for float32.
    """
    indices = {text: index for index, text in enumerate(dict.fromkeys([*texts, ""]))}
    encoded = concatenate(
        [
            select_rows(family.encode_prompts(padded), slice(size))
            for padded, size in _batches(list(indices), batch_size)
        ]
    )
    family.text_encoders.rest()
    kept = stored(encoded)
    prompts = select_rows(kept, [indices[text] for text in texts])
    return Embeddings(prompts, select_rows(kept, indices[""]))


def sample(
    family: Family,
    rows: Sequence[Row],
    embeddings: Embeddings,
    batch_size: int,
    size: Size | None = None,
) -> Iterator[Sampled]:
    """Sample rows, batch by batch, as images of one size (the model's first for None).

    Latents are rounded to their stored type before decoding, so image and latents always agree.
    """
    for padded, count in _batches(list(rows), batch_size):
        conditions = select_rows(embeddings.prompts, [row.prompt_index for row in padded])
        noise = family.initial_noise([row.seed for row in padded], size)
        sampled = family.sample(conditions, embeddings.unconditional, noise).cpu()
        latents = sampled.to(family.latent_dtype)
        # both: integers cannot say it, and float16 has less room than what was sampled
        usable = (sampled.isfinite() & latents.isfinite()).flatten(1).all(dim=1)
        latents = torch.where(usable.view(-1, *[1] * (latents.ndim - 1)), latents, 0)
        yield Sampled(latents, usable[:count].numpy())


def decode(family: Family, sampled: Sampled) -> Tensor:
    """The batch's images without its padding, uint8 [rows, 3, H, W]."""
    return family.decode(sampled.latents)[: len(sampled.usable)]


def score(
    panel: Panel, images: Sequence[np.ndarray] | Tensor, texts: Sequence[str], batch_size: int
) -> dict[str, np.ndarray]:
    """Scores float32 [N] per reward model, of images [3, H, W] uint8 for their prompts."""
    scores: dict[str, list[Tensor]] = {name: [] for name in panel.names}
    pairs = list(zip(images, texts, strict=True))
    for padded, size in _batches(pairs, batch_size):
        # contiguous: kernels chosen by memory layout would differ in the last bit
        batch = torch.stack([torch.as_tensor(image) for image, _ in padded]).contiguous()
        for name, values in panel.score(batch, [text for _, text in padded]).items():
            scores[name].append(values[:size].float())
    return {name: torch.cat(values).numpy() for name, values in scores.items()}


def encode_png(image: Tensor) -> bytes:
    """An image uint8 [3, H, W] as PNG (lossless: scores can be computed from it later)."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG", compress_level=6)
    return file.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """The uint8 [3, H, W] pixels of a stored image."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def _batches(items: list[T], size: int) -> Iterator[tuple[list[T], int]]:
    """Batches of exactly `size` items, the last padded with copies, and how many are real."""
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        yield batch + [batch[-1]] * (size - len(batch)), len(batch)
