"""The training loop of the world's builder: small, resumable, the same bytes for the same seed.

Under torchrun every rank takes an equal share of each batch and gradients are averaged: two
processes of one thread train small convolutions nearly twice as fast as one process of two.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from tqdm import tqdm

BUILD = Path("data/world/build")  # intermediate state: git-ignored, safe to delete
SEED = 2605

Loss = Callable[[np.random.Generator, torch.Generator], Tensor]


def ranks() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) without torchrun."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def share(batch: int) -> int:
    """This rank's part of a batch."""
    return batch // ranks()[1]


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Rank 0 goes through the block first (and writes files), the others after it (and read)."""
    rank, count = ranks()
    if rank > 0:
        distributed.barrier()
    yield
    if rank == 0 and count > 1:
        distributed.barrier()


def step_rng(name: str, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """Generators of (name, step, rank) and nothing else, so that a resumed run is exact."""
    key = int.from_bytes(name.encode()[:8].ljust(8, b"\0"), "little")
    numbers = np.random.default_rng([SEED, key, step, ranks()[0]])
    return numbers, torch.Generator().manual_seed(int(numbers.integers(2**62)))


def _rate(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, then a cosine down to 5 %."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _save(path: Path, state: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def fit(
    name: str,
    module: nn.Module,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    warmup: int = 100,
    weight_decay: float = 0.01,
    average: float = 0.0,
    save_every_seconds: float = 60.0,
) -> nn.Module:
    """Minimise `loss` over the parameters of `module`.

    Args:
        name: the run's name; its state lies in `data/world/build/<name>.pt` and is continued.
        module: is trained in place.
        loss: from the generators of one step to a scalar.
        steps: optimiser steps in all.
        learning_rate: the highest; linear warm-up to it, then a cosine down to 5 %.
        warmup: steps of the warm-up.
        weight_decay: AdamW's.
        average: decay of an exponential moving average of the weights, which then is the result.
        save_every_seconds: at most this much work is lost when the run is killed.

    Returns:
        `module`, in evaluation mode.
    """
    path = BUILD / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    weights: list[Tensor] = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True
    )
    mean = [weight.detach().clone() for weight in weights]
    first = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        mean, first = state["mean"], state["step"]
    module.train()
    saved = time.monotonic()
    quiet = ranks()[0] > 0
    with tqdm(
        total=steps, initial=first, desc=name, unit="step", mininterval=5, disable=quiet
    ) as bar:
        for step in range(first, steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _rate(step, steps, warmup)
            value = loss(*step_rng(name, step))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            _average_gradients(weights)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            with torch.no_grad():
                decay = min(average, (1 + step) / (10 + step))
                torch._foreach_lerp_(mean, weights, 1 - decay)
            bar.update()
            if step % 50 == 0:
                bar.set_postfix(loss=f"{value.item():.4f}", refresh=False)
            due = time.monotonic() - saved > save_every_seconds or step + 1 == steps
            if due and ranks()[0] == 0:
                _save(path, _state(module, optimizer, mean, step + 1))
                saved = time.monotonic()
    with torch.no_grad():
        torch._foreach_copy_(weights, mean)
    return module.eval()


def _average_gradients(weights: list[Tensor]) -> None:
    """The mean over ranks, in one message; every rank then takes the same step."""
    count = ranks()[1]
    if count == 1:
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = (flat / count).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _state(
    module: nn.Module, optimizer: torch.optim.Optimizer, mean: list[Tensor], step: int
) -> dict[str, object]:
    return {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "mean": mean,
        "step": step,
    }
