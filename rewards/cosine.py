"""The common score of the contrastive models: a factor times the cosine of image and text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tgo.rewards.base import Batch, Provenance
from tgo.rewards.images import View
from tgo.rewards.texts import Encoder


class ImageTower:
    """The image side of a CLIP; models that share one share its pass over a batch."""

    def __init__(
        self, encode: Callable[[Tensor], Tensor], view: View, dtype: torch.dtype, width: int
    ) -> None:
        """`encode` maps pixels [B, 3, S, S] of `dtype` to projected features [B, width]."""
        self._encode = encode
        self.view = view
        self.dtype = dtype
        self.width = width

    def embed(self, batch: Batch) -> Tensor:
        """L2-normalised embeddings, float32 [B, width]; normalised in float32."""
        return batch.once(self, lambda: self._embed(batch))

    @torch.inference_mode()
    def _embed(self, batch: Batch) -> Tensor:
        features = self._encode(batch.pixels(self.view, self.dtype))
        return normalize(features.float(), dim=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class CosineModel(Provenance):
    """`scale * cos(image, text)`, row by row: image i is compared with prompt i only."""

    tower: ImageTower = field(repr=False)
    encode_prompts: Encoder = field(repr=False)
    scale: float = 1.0

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        texts = batch.embed_prompts(self.encode_prompts)
        return self.scale * (self.tower.embed(batch) * texts).sum(-1)
