"""The networks of a run and what one update does to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.generators.base import Corruption
from pipeline.seeds import sample_seed
from trainer.journal import Statistics
from trainer.objectives import Objective, Terms
from trainer.stream import Batch

if TYPE_CHECKING:
    from pipeline.generators.base import Family
    from pipeline.settings import Train


class Learner:
    """Policy, frozen reference, optimizer and moving average (all float32, on one device).

    Nothing random is kept between updates: what update n draws follows from (train.seed, n), so
    a run that continues draws what an uninterrupted one does.
    """

    def __init__(
        self,
        family: Family,
        objective: Objective,
        train: Train,
        unconditional: Tensor,
        device: torch.device,
    ) -> None:
        self._family, self._objective, self._train = family, objective, train
        self._device = device
        self._unconditional = unconditional.to(device)
        # eval mode for both: dropout would make them differ before anything is learnt
        self._reference = (
            copy.deepcopy(family.network).eval() if objective.needs_reference else None
        )
        self._policy = family.network.eval().requires_grad_(True)
        self._names, self._parameters = zip(*self._policy.named_parameters(), strict=True)
        self._ema = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self.statistics = Statistics(train.beta, device)

    def update(self, number: int, batch: Batch) -> None:
        """Update ``number`` (from 1); waits for nothing on the device."""
        terms = self.terms(number, batch)
        loss = self._objective.loss(terms, self._train).mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._train.gradient_clip)
        self._optimizer.step()
        torch._foreach_lerp_(self._ema, self._parameters, 1 - self._train.ema_decay)
        self.statistics.add(number, terms, loss, norm)

    def terms(self, number: int, batch: Batch) -> Terms:
        """Log-likelihoods of a batch under the one corruption of update ``number``."""
        batch = batch.to(self._device)
        seed = sample_seed(self._train.seed, "update", number)
        generator = torch.Generator().manual_seed(seed)
        codes = batch.codes.float() if batch.codes.is_floating_point() else batch.codes
        corruption = self._corrupt(codes, generator)
        embeddings = self._drop_conditions(batch.embeddings, generator)
        policy = self._log_likelihood(self._policy, codes, embeddings, corruption)
        with torch.no_grad():
            reference = (
                None
                if self._reference is None
                else self._log_likelihood(self._reference, codes, embeddings, corruption)
            )
        return Terms(policy, reference, batch.label, batch.weight)

    def state(self) -> dict[str, Any]:
        """Parameters, moving average and optimizer state, for a checkpoint."""
        return {
            "network": dict(zip(self._names, self._parameters, strict=True)),
            "ema": dict(zip(self._names, self._ema, strict=True)),
            "optimizer": self._optimizer.state_dict(),
        }

    def load(
        self, network: Mapping[str, Tensor], ema: Mapping[str, Tensor], optimizer: Any
    ) -> None:
        """Continue from what ``state`` gave."""
        self._set_parameters(network)
        for name, average in zip(self._names, self._ema, strict=True):
            average.copy_(ema[name])
        self._optimizer.load_state_dict(optimizer)

    def averaged(self) -> nn.Module:
        """The policy with the averaged parameters in it: the result. No update may follow."""
        self._set_parameters(dict(zip(self._names, self._ema, strict=True)))
        return self._policy

    @torch.no_grad()
    def _set_parameters(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in zip(self._names, self._parameters, strict=True):
            parameter.copy_(values[name])

    def _corrupt(self, codes: Tensor, generator: torch.Generator) -> Corruption:
        """Drawn on the CPU for every device alike, and sent off without waiting."""
        drawn = self._family.corrupt(codes, generator)
        return Corruption(*(self._send(part) for part in drawn))

    def _drop_conditions(self, embeddings: Tensor, generator: torch.Generator) -> Tensor:
        """Put the empty prompt in the place of some prompts, so that guidance keeps working."""
        share = self._train.condition_dropout
        if share == 0:
            return embeddings
        dropped = self._send(torch.rand(len(embeddings), generator=generator) < share)
        return torch.where(dropped[:, None, None], self._unconditional, embeddings)

    def _send(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _log_likelihood(
        self, network: nn.Module, codes: Tensor, embeddings: Tensor, corruption: Corruption
    ) -> Tensor:
        temperature = self._train.temperature
        return self._family.log_likelihood(
            network, codes, embeddings, corruption, temperature=temperature
        )
