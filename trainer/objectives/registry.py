"""Every objective by its name, made from the settings of a run.

A new one is a pure function in a module beside this one, an entry in ``OBJECTIVES``, and one in
``NEEDS`` of `pipeline/config/objectives.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tgo.trainer.objectives import labels, pairs, scores
from tgo.trainer.objectives.base import Objective, Outcome, State, Terms
from tgo.trainer.objectives.beta import Beta

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import PairChoice, Train
    from tgo.trainer.objectives.base import Rows

Loss = Callable[[Terms, State], Outcome]

SHIFT = "shift"


def load_objective(train: Train) -> Objective:
    """The objective that ``train.objective`` names, as its settings have it.

    The settings were checked when they were read (`tgo.pipeline.config.objectives`).
    """
    return OBJECTIVES[train.objective](train)


def _beta(train: Train) -> Beta:
    """``train.beta`` for an objective that feeds rhat to a sigmoid: a number, or auto."""
    if isinstance(train.beta, str):
        return Beta(train.auto_beta.start, train.auto_beta)
    return Beta(train.beta)


def _fixed(train: Train) -> Beta:
    """``train.beta`` for one that cannot follow ``auto``, which its settings refuse."""
    return Beta(float(train.beta))


def _pair_rows(choice: PairChoice) -> Rows:
    return "all pairs" if choice == "all" else "extreme pairs"


def _tgo(train: Train) -> Objective:
    beta, decay = _beta(train), train.objectives.tgo.shift_decay

    def loss(terms: Terms, state: State) -> Outcome:
        now = beta.now(state)
        shift, after = _shift(terms, state, now, decay)
        values = labels.tgo(terms.log_ratio, terms.target, terms.weight, beta=now, shift=shift)
        logit = (now * terms.log_ratio - shift).detach()
        return Outcome(values, beta.next(after, logit, terms.average), now, logit, terms.target)

    if decay is None:
        return Objective(loss, beta=beta)
    return Objective(loss, needs_full_batch=True, beta=beta, state={SHIFT: 0.0})


def _bco(train: Train) -> Objective:
    beta, decay = _beta(train), train.objectives.bco.shift_decay

    def loss(terms: Terms, state: State) -> Outcome:
        now = beta.now(state)
        shift, after = _shift(terms, state, now, decay)
        values = labels.bco(terms.log_ratio, terms.target, beta=now, shift=shift)
        logit = (now * terms.log_ratio - shift).detach()
        return Outcome(values, beta.next(after, logit, terms.average), now, logit, terms.target)

    return Objective(loss, needs_full_batch=True, beta=beta, state={SHIFT: 0.0})


def _shift(
    terms: Terms, state: State, beta: Tensor | float, decay: float | None
) -> tuple[Tensor | float, State]:
    """The running shift with this batch in it, and the state that holds it."""
    if decay is None:
        return 0.0, state
    reward = terms.average((beta * terms.log_ratio).detach())
    shift = labels.running_mean(state[SHIFT], reward, decay=decay)
    return shift, state | {SHIFT: shift}


def _kto(train: Train) -> Objective:
    beta = _beta(train)

    def loss(terms: Terms, state: State) -> Outcome:
        now = beta.now(state)
        divergence = labels.divergence(terms.average(terms.log_ratio.detach()))
        values = labels.kto(terms.log_ratio, terms.target, beta=now, divergence=divergence)
        logit = (now * (terms.log_ratio - divergence)).detach()
        return Outcome(values, beta.next(state, logit, terms.average), now, logit, terms.target)

    return Objective(loss, needs_full_batch=True, beta=beta)


def _dpo(train: Train) -> Objective:
    beta = _beta(train)

    def loss(terms: Terms, state: State) -> Outcome:
        now = beta.now(state)
        logit = (now * pairs.margin(terms.log_ratio)).detach()
        after = beta.next(state, logit, terms.average)
        values = pairs.dpo(terms.log_ratio, beta=now)
        return Outcome(values, after, now, logit, torch.ones_like(logit))

    return Objective(loss, _pair_rows(train.objectives.dpo.pairs), beta=beta)


def _dspo(train: Train) -> Objective:
    own = train.objectives.dspo
    scale = {"beta": own.beta, "temperature": train.temperature}

    def loss(terms: Terms, state: State) -> Outcome:
        policy, reference = terms.log_likelihood, terms.require("reference")
        values = pairs.dspo(policy, reference, terms.require("prediction_distance"), **scale)
        logit = pairs.dspo_logit(policy, reference, **scale).detach()
        return Outcome(values, state, logit=logit, target=torch.ones_like(logit))

    return Objective(loss, _pair_rows(own.pairs), needs_prediction_distance=True)


def _mapo(train: Train) -> Objective:
    own = train.objectives.mapo
    scale = {"scale": own.scale, "steps": own.steps, "temperature": train.temperature}

    def loss(terms: Terms, state: State) -> Outcome:
        values = pairs.mapo(terms.log_likelihood, beta=own.beta, **scale)
        logit = pairs.mapo_logit(terms.log_likelihood, **scale).detach()
        return Outcome(values, state, logit=logit, target=torch.ones_like(logit))

    return Objective(loss, _pair_rows(own.pairs), needs_reference=False)


def _sft(train: Train) -> Objective:
    return Objective(_mean_squared_error(train), "positives", needs_reference=False)


def _csft(train: Train) -> Objective:
    return Objective(
        _mean_squared_error(train),
        needs_reference=False,
        negative_prefix=train.objectives.csft.negative_prefix,
    )


def _mean_squared_error(train: Train) -> Loss:
    def loss(terms: Terms, state: State) -> Outcome:
        return Outcome(labels.sft(terms.log_likelihood, temperature=train.temperature), state)

    return loss


def _rwr(train: Train) -> Objective:
    def per_row_value(found: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        return scores.rwr_weights(found, beta=train.objectives.rwr.beta)

    def loss(terms: Terms, state: State) -> Outcome:
        weight = terms.require("per_row_value")
        values = scores.rwr(terms.log_likelihood, weight, temperature=train.temperature)
        return Outcome(values, state)

    return Objective(loss, needs_reference=False, per_row_value=per_row_value)


def _lair(train: Train) -> Objective:
    beta, penalty = _fixed(train), train.objectives.lair.penalty

    def loss(terms: Terms, state: State) -> Outcome:
        advantage = terms.require("per_row_value")
        values = scores.lair(terms.log_ratio, advantage, beta=beta.value, penalty=penalty)
        return Outcome(values, state, beta.value)

    return Objective(loss, per_row_value=scores.advantages)


def _nft(train: Train) -> Objective:
    own = train.objectives.nft

    def per_row_value(found: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        return scores.optimality(found, prompts, clip=own.clip)

    def loss(terms: Terms, state: State) -> Outcome:
        values = scores.nft(
            terms.log_likelihood,
            *(
                terms.require(name)
                for name in ("reference", "prediction_distance", "per_row_value")
            ),
            mix=own.mix,
            temperature=train.temperature,
        )
        return Outcome(values, state)

    return Objective(loss, needs_prediction_distance=True, per_row_value=per_row_value)


OBJECTIVES: dict[str, Callable[[Train], Objective]] = {
    "tgo": _tgo,
    "sft": _sft,
    "csft": _csft,
    "kto": _kto,
    "bco": _bco,
    "dpo": _dpo,
    "dspo": _dspo,
    "mapo": _mapo,
    "rwr": _rwr,
    "lair": _lair,
    "nft": _nft,
}
