"""A batch cut into micro batches, and what was found of them joined again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tgo.trainer.objectives import Terms

if TYPE_CHECKING:
    from tgo.trainer.stream import Batch


def split(batch: Batch, count: int) -> list[Batch]:
    """A batch in ``count`` equal parts."""
    if count == 1:
        return [batch]
    size = len(batch.target) // count
    return [batch.part(at * size, (at + 1) * size) for at in range(count)]


def _mapped(change: Callable[..., Tensor], *several: Terms) -> Terms:
    """Terms of which every tensor is what ``change`` makes of those in its place."""
    columns = zip(*several, strict=True)
    changed: list[Any] = [change(*c) if isinstance(c[0], Tensor) else c[0] for c in columns]
    return Terms(*changed)


def detached(terms: Terms) -> Terms:
    """The same without gradients."""
    return _mapped(lambda tensor: tensor.detach(), terms)


def joined(parts: Sequence[Terms]) -> Terms:
    """Terms of the whole batch."""
    return _mapped(lambda *tensors: torch.cat(tensors), *parts)
