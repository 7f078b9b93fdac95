"""The networks of a run and what one update does to them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.generators.base import Conditions, Corruption, Regressor, gaussian
from pipeline.seeds import sample_seed
from trainer.journal import Statistics
from trainer.objectives import Objective, Terms
from trainer.speed import counted
from trainer.stream import Batch

if TYPE_CHECKING:
    from pipeline.generators.base import Family
    from pipeline.train_settings import Train
    from trainer.checkpoints import Checkpoint
    from trainer.reference_cache import ReferenceCache


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
        unconditional: Conditions,
        device: torch.device,
        cache: ReferenceCache | None = None,
    ) -> None:
        self._family, self._objective, self._train = family, objective, train
        self.device = self._device = device
        self._unconditional = {name: value.to(device) for name, value in unconditional.items()}
        self._regressor = family if isinstance(family, Regressor) else None
        if objective.needs_gap and self._regressor is None:
            raise InputError(
                f"train.objective: {train.objective} compares the predictions of two networks, "
                f"which the family {family.name} has not; choose another one"
            )
        self._cache = cache
        if objective.needs_gap and cache is not None:
            raise InputError(
                f"train.reference_cache: {train.objective} needs the reference's predictions, and "
                "likelihoods alone are kept; set it to null"
            )
        # eval mode for both: dropout would make them differ before anything is learnt
        self._reference = (
            copy.deepcopy(family.network).eval()
            if objective.needs_reference and cache is None
            else None
        )
        self._policy = family.network.eval().requires_grad_(True)
        self._names, self._parameters = zip(*self._policy.named_parameters(), strict=True)
        self._ema = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self._state = objective.start(device)
        self.statistics = Statistics(device)

    def update(self, number: int, batch: Batch) -> None:
        """Update ``number`` (from 1); waits for nothing on the device."""
        terms = self.terms(number, batch)
        outcome = self._objective.loss(terms, self._state)
        self._state = outcome.state
        loss = outcome.loss.mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._train.gradient_clip)
        self._optimizer.step()
        torch._foreach_lerp_(self._ema, self._parameters, 1 - self._train.ema_decay)
        self.statistics.add(number, terms, outcome, norm)

    def terms(self, number: int, batch: Batch) -> Terms:
        """Log-likelihoods of a batch under the one corruption of update ``number``."""
        every = 2 if self._objective.pairs else 1
        kept = None if self._cache is None else self._cache.draw(number, batch, every)
        batch = batch.to(self._device)
        seed = sample_seed(self._train.seed, "update", number)
        generator = torch.Generator().manual_seed(seed)
        codes = batch.codes.float() if batch.codes.is_floating_point() else batch.codes
        if kept is None:
            corruption = self._corrupt(codes, generator)
        else:
            corruption = Corruption(*(self._send(part) for part in kept[0]))
        conditions = self._drop_conditions(batch.conditions, generator)
        given = (codes, conditions, corruption)
        policy, residual = self._log_likelihood(self._policy, *given)
        reference = None if kept is None else self._send(kept[1])
        gap = None
        if self._reference is not None:
            with torch.no_grad():
                reference, other = self._log_likelihood(self._reference, *given)
            gap = self._gap(residual, other)
        return Terms(policy, reference, batch.label, batch.weight, gap, batch.signal)

    @torch.no_grad()
    def measure(self, codes: Tensor, conditions: Conditions, corruption: Corruption) -> Tensor:
        """The policy's log-likelihoods ``[B]``: the reference's before the first update."""
        codes = codes.float() if codes.is_floating_point() else codes
        return self._log_likelihood(self._policy, codes, conditions, corruption)[0]

    def renew_reference(self) -> None:
        """Make the policy as it is now the reference (``train.reference: epoch``)."""
        if self._reference is not None:
            self._reference.load_state_dict(self._policy.state_dict())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: parameters, moving average, optimizer, what else has changed."""
        renewed = self._reference is not None and self._train.reference == "epoch"
        return {
            "network": dict(zip(self._names, self._parameters, strict=True)),
            "ema": dict(zip(self._names, self._ema, strict=True)),
            "optimizer": self._optimizer.state_dict(),
            "reference": dict(self._reference.named_parameters()) if renewed else None,  # type: ignore[union-attr]
            "objective": {name: value.item() for name, value in self._state.items()},
        }

    def load(self, found: Checkpoint) -> None:
        """Continue from what ``state`` gave."""
        self._set_parameters(found.network)
        for name, average in zip(self._names, self._ema, strict=True):
            average.copy_(found.ema[name])
        self._optimizer.load_state_dict(found.optimizer)
        self._state = self._objective.state_from(found.objective, self._device)
        if self._reference is not None and found.reference is not None:
            for name, parameter in self._reference.named_parameters():
                parameter.copy_(found.reference[name])

    @contextmanager
    def averaging(self) -> Iterator[None]:
        """The policy has the averaged parameters inside, and its own again, to the bit, after."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for parameter, average in zip(self._parameters, self._ema, strict=True):
            parameter.data, average.data = average.data, parameter.data

    def flops(self, batch: Batch) -> float:
        """Counted FLOPs of one image's share of an update; changes nothing."""
        few = batch.first(self._objective.pairs + 1)

        def update() -> None:
            outcome = self._objective.loss(self.terms(0, few), self._state)
            torch.autograd.grad(outcome.loss.mean(), self._parameters, allow_unused=True)

        return counted(update) / len(few.label)

    def averaged(self) -> nn.Module:
        """The policy with the averaged parameters in it: the result. No update may follow."""
        self._set_parameters(dict(zip(self._names, self._ema, strict=True)))
        return self._policy

    @torch.no_grad()
    def _set_parameters(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in zip(self._names, self._parameters, strict=True):
            parameter.copy_(values[name])

    def _corrupt(self, codes: Tensor, generator: torch.Generator) -> Corruption:
        """Drawn on the CPU for every device alike, and sent off without waiting.

        Both images of a pair get the same, so that only the images differ.
        """
        every = 2 if self._objective.pairs else 1
        drawn = self._family.corrupt(codes[::every], generator)
        return Corruption(*(self._send(_repeat(part, every)) for part in drawn))

    def _drop_conditions(self, conditions: Conditions, generator: torch.Generator) -> Conditions:
        """Put the empty prompt in the place of some prompts, so that guidance keeps working."""
        share = self._train.condition_dropout
        if share == 0:
            return conditions
        every = 2 if self._objective.pairs else 1
        size = len(next(iter(conditions.values())))
        drawn = torch.rand(size // every, generator=generator) < share
        dropped = self._send(_repeat(drawn, every))
        return {
            name: torch.where(dropped.view(-1, *[1] * empty.ndim), empty, conditions[name])
            for name, empty in self._unconditional.items()
        }

    def _send(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _log_likelihood(
        self, network: nn.Module, codes: Tensor, conditions: Conditions, corruption: Corruption
    ) -> tuple[Tensor, Tensor | None]:
        """Log-likelihoods ``[B]``, and the residuals they come from where the family has them."""
        temperature = self._train.temperature
        if self._regressor is None:
            found = self._family.log_likelihood(
                network, codes, conditions, corruption, temperature=temperature
            )
            return found, None
        residual = self._regressor.residual(network, codes, conditions, corruption)
        return gaussian(residual, temperature), residual

    def _gap(self, policy: Tensor | None, reference: Tensor | None) -> Tensor | None:
        """See ``Terms.gap``; without gradient where only the log wants it."""
        if policy is None or reference is None:
            return None
        apart = policy - reference if self._objective.needs_gap else policy.detach() - reference
        return -gaussian(apart, self._train.temperature)


def _repeat(tensor: Tensor, times: int) -> Tensor:
    """Every entry ``times`` times in a row; the tensor itself for once."""
    return tensor if times == 1 else tensor.repeat_interleave(times, dim=0)
