"""How masked generation hides tokens and brings them back (MaskGIT, Chang et al. 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURES = (2.0, 0.0)
"""Of the noise on confidences, from the first step to the last, as aMUSEd and Meissonic sample."""


def cosine_share(progress: Tensor) -> Tensor:
    """Share of tokens hidden, from all at progress 0 to none at progress 1."""
    return torch.cos(progress * math.pi / 2)


def draw_masks(size: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Masks bool [size, *shape], True where a token is hidden; at least one in every sample.

    The progress is uniform in 0 to 1, and which tokens are hidden is uniform given how many: so
    training meets the masks that sampling will.
    """
    tokens = math.prod(shape)
    share = cosine_share(torch.rand(size, generator=generator))
    hidden = (share * tokens).round().clamp(min=1)
    ranks = torch.rand(size, tokens, generator=generator).argsort(dim=1).argsort(dim=1)
    return (ranks < hidden[:, None]).view(size, *shape)


def hidden_counts(steps: int, tokens: int) -> list[int]:
    """How many tokens are hidden before each of `steps` steps, and after the last: none.

    Every step reveals at least one, and one is left for the last.
    """
    shares = cosine_share(torch.arange(1, steps) / steps)
    counts = [tokens]
    for planned in (shares * tokens).floor().int().tolist():
        counts.append(max(1, min(counts[-1] - 1, planned)))
    return [*counts, 0]


def draw_tokens(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token a place by its probability, and the log-probability it had.

    The inverse of the distribution function: one uniform number a place decides, so a sample
    needs no table of noise over the codebook (8,192 times as much).

    Args:
        logits: float32 [B, K, H, W].
        uniform: float32 [B, H, W] in [0, 1).

    Returns:
        Tokens int64 [B, H, W] and log-probabilities float32 [B, H, W].
    """
    log_probabilities = logits.log_softmax(dim=1)
    below = log_probabilities.exp().cumsum(dim=1)
    tokens = (below <= uniform[:, None] * below[:, -1:]).sum(dim=1).clamp(max=logits.shape[1] - 1)
    return tokens, log_probabilities.gather(1, tokens[:, None])[:, 0]


def least_confident(
    log_probability: Tensor, hidden: Tensor, uniform: Tensor, temperature: float, count: int
) -> Tensor:
    """Which `count` tokens to hide again, bool [B, H, W]: those drawn with least confidence.

    Confidence is the log-probability with Gumbel noise of `temperature`. What was not `hidden`
    stays revealed.
    """
    noise = -(-uniform.clamp(min=1e-20).log()).clamp(min=1e-20).log()
    confidence = (log_probability + temperature * noise).masked_fill(~hidden, torch.inf)
    lowest = confidence.flatten(1).topk(count, dim=1, largest=False).indices
    return torch.zeros_like(hidden).flatten(1).scatter(1, lowest, True).view_as(hidden)
