"""Optimizers and learning rates, all of them from existing libraries, by their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tgo.pipeline.errors import InputError

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train


def make_optimizer(train: Train, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that ``train.optimizer`` names, over parameters in float32.

    adamw: torch's, fused (one kernel for all parameters). adamw8bit: that of bitsandbytes, whose
    two moments take a byte each in blocks of 256; it waits for the device at each parameter.
    adafactor: that of transformers with the rate as set (no relative step), moments factored
    into rows and columns (arXiv:1804.04235).

    Raises InputError if the package that has it is not installed.
    """
    options: dict[str, Any] = {"lr": train.learning_rate, "weight_decay": train.weight_decay}
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    if train.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, scale_parameter=False, relative_step=False, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError(
            f"train.optimizer: adamw8bit needs bitsandbytes ({error}); "
            "`pip install bitsandbytes`, or set adamw"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **options)
    return optimizer


def learning_rates(train: Train) -> Callable[[int], float]:
    """The learning rate of step n, from 1, as a pure function: nothing of it is ever stored."""
    from diffusers.optimization import get_scheduler

    name, warmup = train.schedule.name, train.schedule.warmup
    if name == "constant" and warmup:
        name = "constant_with_warmup"  # type: ignore[assignment]
    # its rule is all that is taken of the scheduler: the optimizer it holds is for show
    shown = torch.optim.SGD([torch.zeros(1)], lr=train.learning_rate)
    scheduler = get_scheduler(name, shown, num_warmup_steps=warmup, num_training_steps=train.steps)
    factor = scheduler.lr_lambdas[0]
    # the rule counts steps done, from 0; the warm-up begins one later, as a rate of 0 is idle
    return lambda step: train.learning_rate * factor(step - (step > warmup))
