"""One step of training: likelihoods of a batch, loss, gradient, optimizer, moving average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tgo.pipeline.generators.base import LogLikelihood, gaussian_log_likelihood
from tgo.trainer import micro_batches, sharded_checkpoint
from tgo.trainer.distributed import full_tensor, gradient_sync, laid_out_as, reshard
from tgo.trainer.metrics import Statistics
from tgo.trainer.noise import InputBuilder, NetworkInputs, NoiseSampler, as_float32
from tgo.trainer.objectives import Terms
from tgo.trainer.optimizers import learning_rates, make_optimizer
from tgo.trainer.policy import PolicyAndReference
from tgo.trainer.speed import count_flops

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.pipeline.generators.base import Conditions, Corruption, Family
    from tgo.trainer.checkpoints import Checkpoint
    from tgo.trainer.distributed import Ranks
    from tgo.trainer.objectives import Objective, Outcome
    from tgo.trainer.reference_cache import ReferenceCache
    from tgo.trainer.stream import Batch


class Learner:
    """Policy, frozen reference, optimizer and moving average (weights float32).

    Nothing random is kept between steps: what step n draws follows from (train.seed, n), so a run
    that continues draws what an uninterrupted one does.

    Args:
        family: The model; its network becomes the policy.
        objective: What the loss is.
        train: The settings of the run.
        unconditional: Conditions ``[...]`` of the empty prompt.
        ranks: This process among those of the run.
        cache: The reference's log-likelihoods where they are computed beforehand.
    """

    def __init__(
        self,
        family: Family,
        objective: Objective,
        train: Train,
        unconditional: Conditions,
        ranks: Ranks,
        *,
        cache: ReferenceCache | None = None,
    ) -> None:
        self._family, self._objective, self._train = family, objective, train
        self._ranks, self._device = ranks, ranks.device
        sampler = NoiseSampler(family, train, unit=1 + objective.pairs)
        self._inputs = InputBuilder(sampler, train.draws, unconditional, ranks.device, cache)
        compares = objective.needs_reference and cache is None
        self._networks = PolicyAndReference(family, train, ranks, needs_reference=compares)
        self._parameters = self._networks.parameters
        self._ema = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer = make_optimizer(train, self._parameters)
        self._rate = learning_rates(train)
        self._state = objective.start(self._device)
        self._epoch = 0
        self.statistics = Statistics(self._device, ranks)

    def step(self, number: int, batch: Batch) -> None:
        """Step ``number`` (from 1) by this process's share of a batch.

        Waits for nothing on the device.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(number)
        self._optimizer.zero_grad(set_to_none=True)
        terms, outcome = self._backward(number, batch)
        self._state = outcome.state
        norm = full_tensor(nn.utils.clip_grad_norm_(self._parameters, self._train.max_grad_norm))
        self._optimizer.step()
        torch._foreach_lerp_(self._ema, self._parameters, 1 - self._train.ema_decay)
        self.statistics.add(number, terms, outcome, norm)

    def terms(self, number: int, batch: Batch, policy: nn.Module | None = None) -> Terms:
        """Log-likelihoods of a batch under what step ``number`` draws for it.

        ``policy`` is the network to call, where it is not the one that shares its gradients.
        """
        inputs, reference = self._inputs.build(number, batch)
        batch = batch.to(self._device)
        before = distance = None
        if reference is None and self._objective.needs_reference:
            # first, so that nothing of the policy's graph is touched where both are one network
            with self._networks.reference() as network:
                before = self._log_likelihood(network, inputs)
            reference = self.mean_over_draws(before.values)
        now = self._log_likelihood(policy or self._networks.policy, inputs)
        if before is not None and before.residual is not None and now.residual is not None:
            distance = self.prediction_distance(now.residual, before.residual, inputs)
        return Terms(
            self.mean_over_draws(now.values),
            reference,
            batch.target,
            batch.weight,
            distance,
            batch.per_row_value,
            self._ranks.mean if self._ranks.size > 1 else torch.mean,
        )

    def _log_likelihood(self, network: nn.Module, inputs: NetworkInputs) -> LogLikelihood:
        """Of the inputs ``[n K]`` under a network, each counted by its weight."""
        with self._networks.autocast():
            found = self._family.log_likelihood(
                network,
                inputs.latents,
                inputs.conditions,
                inputs.corruption,
                temperature=self._train.temperature,
            )
        return found._replace(values=_weighted(found.values, inputs))

    def prediction_distance(
        self, policy: Tensor, reference: Tensor, inputs: NetworkInputs
    ) -> Tensor:
        """See ``Terms.prediction_distance``, from residuals ``[n K, ...]``.

        Without gradient where only the log wants it.
        """
        if not self._objective.needs_prediction_distance:
            policy = policy.detach()
        distance = -gaussian_log_likelihood(policy - reference, self._train.temperature)
        return self.mean_over_draws(_weighted(distance, inputs))

    def mean_over_draws(self, values: Tensor) -> Tensor:
        """Means ``[n]`` over each sample's corruptions, from ``[n K]``."""
        draws = self._train.draws
        return values if draws == 1 else values.view(-1, draws).mean(dim=1)

    def _backward(self, number: int, batch: Batch) -> tuple[Terms, Outcome]:
        """Gradients of the mean loss of the whole batch, in as many micro batches as set."""
        parts = micro_batches.split(batch, self._train.gradient_accumulation_steps)
        loss = self._objective.loss
        if len(parts) == 1:
            terms = self.terms(number, batch)
            outcome = loss(terms, self._state)
            outcome.loss.mean().backward()
            return terms, outcome
        if self._objective.needs_full_batch:
            return self._backward_by_factors(number, parts)
        done = []
        for count, part in enumerate(parts, start=1):
            with gradient_sync(self._networks.policy, last=count == len(parts)):
                terms = self.terms(number, part)
                # what it makes of its state would be of a part of the batch, and is dropped
                value = loss(terms._replace(average=torch.mean), self._state).loss.mean()
                (value / len(parts)).backward()
            done.append(micro_batches.detached(terms))
        terms = micro_batches.joined(done)
        with torch.no_grad():
            return terms, loss(terms, self._state)

    def _backward_by_factors(self, number: int, parts: Sequence[Batch]) -> tuple[Terms, Outcome]:
        """The same for a loss that depends on all of a batch at once.

        By the chain rule its gradient is that of ``sum(factor * log_likelihood)`` with factors
        from the whole batch, so the price is a second forward pass of the policy.
        """
        with torch.no_grad():
            terms = micro_batches.joined([self.terms(number, part) for part in parts])
        leaf = terms.log_likelihood.requires_grad_()
        outcome = self._objective.loss(terms, self._state)
        factors = torch.autograd.grad(outcome.loss.mean(), leaf)[0].chunk(len(parts))
        for count, part in enumerate(parts, start=1):
            with gradient_sync(self._networks.policy, last=count == len(parts)):
                inputs, _ = self._inputs.build(number, part)
                found = self._log_likelihood(self._networks.policy, inputs)
                (self.mean_over_draws(found.values) * factors[count - 1]).sum().backward()
        return micro_batches.detached(terms), outcome._replace(loss=outcome.loss.detach())

    def end_of_batch(self, epoch: int) -> None:
        """Renew the reference where a new epoch begins (``train.reference: epoch``)."""
        if epoch > self._epoch and self._train.reference == "epoch":
            self.renew_reference()
        self._epoch = epoch

    def renew_reference(self) -> None:
        """Make the policy as it is now the reference."""
        if self._objective.needs_reference:
            self._networks.renew_reference()

    @torch.no_grad()
    def likelihood(self, inputs: NetworkInputs) -> LogLikelihood:
        """The policy's of inputs ``[n K]``, without gradient: the reference's before any step."""
        found = self._log_likelihood(self._networks.network, inputs)
        reshard(self._networks.network)
        return found

    @torch.no_grad()
    def outcome(self, terms: Terms) -> Outcome:
        """What the loss is of terms that are no step's."""
        return self._objective.loss(terms, self._state)

    @torch.no_grad()
    def measure(self, latents: Tensor, conditions: Conditions, corruption: Corruption) -> Tensor:
        """The policy's log-likelihoods ``[B]``: the reference's before the first step."""
        inputs = NetworkInputs(as_float32(latents), conditions, corruption, None)
        return self.likelihood(inputs).values

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: parameters, moving average, optimizer, what else has changed."""
        names = self._networks.names
        renewed = self._objective.needs_reference and self._train.reference == "epoch"
        return {
            "network": dict(zip(names, self._parameters, strict=True)),
            "ema": dict(zip(names, self._ema, strict=True)),
            "optimizer": sharded_checkpoint.optimizer_state(self._networks.network, self._optimizer)
            if self._ranks.sharded
            else self._optimizer.state_dict(),
            "reference": self._networks.reference_state() if renewed else None,
            "objective": {name: value.item() for name, value in self._state.items()},
        }

    def load(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Continue from what ``state`` gave, in epoch ``epoch`` of the stream.

        Weights may have lain in parts then and be whole now, or the other way round.
        """
        network, optimizer = self._networks.network, self._optimizer
        if checkpoint.shards is None:
            optimizer.load_state_dict(_laid_out(checkpoint.optimizer, self._parameters))
        else:
            state = sharded_checkpoint.optimizer_state(network, optimizer)
            known = {"optimizer": state, "objective": checkpoint.objective}
            own = replace(checkpoint, **self.state() | known)
            checkpoint = replace(own, **sharded_checkpoint.read(own.tensors, checkpoint.shards))
            sharded_checkpoint.set_optimizer(network, optimizer, checkpoint.optimizer)
        self._networks.load(checkpoint.network)
        for name, average in zip(self._networks.names, self._ema, strict=True):
            average.copy_(laid_out_as(average, checkpoint.ema[name]))
        self._state = self._objective.state_from(checkpoint.objective, self._device)
        if checkpoint.reference is not None:
            self._networks.load_reference(checkpoint.reference)
        self._epoch = epoch

    @contextmanager
    def averaging(self) -> Iterator[None]:
        """The policy has the averaged parameters inside, and its own again, to the bit, after.

        It is not compiled for the shapes it meets there.
        """
        self._networks.exchange(self._ema)
        try:
            with self._networks.autocast(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self._networks.exchange(self._ema)

    def flops(self, batch: Batch) -> float:
        """Counted FLOPs of one image's share of a step; changes nothing."""
        few = batch.part(0, self._objective.pairs + 1)

        def step() -> None:
            terms = self.terms(0, few, self._networks.network)._replace(average=torch.mean)
            outcome = self._objective.loss(terms, self._state)
            torch.autograd.grad(outcome.loss.mean(), self._parameters, allow_unused=True)

        with self._networks.plain():
            return count_flops(step) / len(few.target)

    def averaged(self) -> nn.Module:
        """The policy with the averaged parameters in it: the result. No step may follow."""
        self._networks.load(self.averages())
        return self._networks.network

    def averages(self) -> Mapping[str, Tensor]:
        """The averaged parameters by name: adapters' alone where there are any.

        Those that lie in parts are gathered on the CPU of the process that writes files.
        """
        averages = dict(zip(self._networks.names, self._ema, strict=True))
        if not self._ranks.sharded:
            return averages
        gathered = ((name, full_tensor(average)) for name, average in averages.items())
        return {name: average.cpu() for name, average in gathered if self._ranks.is_main}


def _laid_out(state: dict[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """An optimizer's whole state, its tensors in parts where the parameters are."""

    def fit(parameter: Tensor, entry: Any) -> Any:
        like = isinstance(entry, Tensor) and entry.shape == parameter.shape
        return laid_out_as(parameter, entry) if like else entry

    fitted = {
        number: {key: fit(parameters[number], entry) for key, entry in entries.items()}
        for number, entries in state["state"].items()
    }
    return state | {"state": fitted}


def _weighted(values: Tensor, inputs: NetworkInputs) -> Tensor:
    return values if inputs.weight is None else values * inputs.weight
