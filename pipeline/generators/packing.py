"""Squares of 2 x 2 latent pixels as tokens: what FLUX.1, Chroma and Qwen-Image read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.generators.flow import Flow

SIDE = 2
"""Latent pixels a side of a token."""


def packed(latents: Tensor) -> Tensor:
    """Tokens [B, H/2 W/2, 4 C] from latents [B, C, H, W]."""
    squares = latents.unflatten(3, (-1, SIDE)).unflatten(2, (-1, SIDE))  # B, C, H/2, 2, W/2, 2
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """Latents [B, C, H, W] from tokens [B, H/2 W/2, 4 C]; undoes `packed`.

    Args:
        tokens: what `packed` gave.
        shape: of one sample's latents: C, H, W.

    Returns:
        The latents.
    """
    channels, height, width = shape
    squares = tokens.view(len(tokens), height // SIDE, width // SIDE, channels, SIDE, SIDE)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), *shape)


class PackedFlow(Flow):
    """Flows whose network reads packed tokens; their latents are [C, H, W] everywhere else."""

    def _channels(self) -> int:
        return super()._channels() // SIDE**2

    def _default_side(self) -> int:
        return 128  # 1024 pixels, as their pipelines make

    def _two_passes(
        self, latents: Tensor, timestep: Tensor, given: Conditions, empty: Conditions
    ) -> tuple[Tensor, Tensor]:
        """Velocities [B, C, H, W] of the prompts and of the empty one, each by a pass of its own.

        As pipelines make them whose prompts differ in length.
        """
        repeated = {name: value.expand(len(latents), *value.shape) for name, value in empty.items()}
        conditional, baseline = (
            self._velocity(latents, timestep, conditions) for conditions in (given, repeated)
        )
        return conditional, baseline

    def _places(self) -> dict[tuple[int, ...], Tensor]:
        """Image index, row and column of each token, float32 [H/2 W/2, 3], by [H, W]."""
        sides = {shape[-2:] for shape in self.latent_shapes.values()}
        return {
            (height, width): torch.cartesian_prod(
                *(torch.arange(float(n)) for n in (1, height // SIDE, width // SIDE))
            ).to(self._device)
            for height, width in sides
        }
