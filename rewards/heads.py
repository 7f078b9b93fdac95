"""The published "MLP" heads of ImageReward and the Aesthetic predictor.

Both are five linear layers with dropout between and **no activation**, so in evaluation they
are one affine map. It is folded once, in float64, and applied in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """`width` - 1024 - 128 - 64 - 16 - 1; features [B, width] to raw scores [B].

    The positions in `layers` (0, 2, 4, 6, 7) are those of the published state dicts.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features).squeeze(-1)


class Affine(NamedTuple):
    """`features @ weight + bias` with float32 `weight` [D] and `bias` []."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """[B, D] to [B], in float32 whatever the towers computed in."""
        return (features.float() * self.weight).sum(-1) + self.bias  # a row sees no other row

    def to(self, device: torch.device) -> Affine:
        return Affine(self.weight.to(device), self.bias.to(device))


@torch.no_grad()
def collapse(head: LinearHead) -> Affine:
    """The affine map that `head` is in evaluation, composed in float64."""
    linears = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    weight, bias = linears[-1].weight.double(), linears[-1].bias.double()
    for layer in reversed(linears[:-1]):
        bias = bias + weight @ layer.bias.double()
        weight = weight @ layer.weight.double()
    return Affine(weight.squeeze(0).float(), bias.squeeze(0).float())
