"""Training objectives: pure functions of a few tensors, and what each asks of the loop.

A family turns ``(network, latents, prompt, corruption)`` into a log-likelihood per sample; an
objective turns log-likelihoods, labels, weights or scores into a loss and knows nothing of the
family.
"""

from tgo.trainer.objectives.base import Objective, Outcome, State, Terms
from tgo.trainer.objectives.registry import OBJECTIVES, load_objective

__all__ = ["OBJECTIVES", "Objective", "Outcome", "State", "Terms", "load_objective"]
