"""Does TGO find the tilted optimum? Two cases solved exactly, and what each shortcut costs.

    python -m benchmarks.theory        prints the tables of docs/theory.md (a few seconds, CPU)

KL-regularised alignment has the optimum ``pi* = pi_ref exp(r / beta) / Z``, at which
``rhat = beta log(pi* / pi_ref) = r - tau*``, ``tau* = beta log Z``. The loss trained here is the
shipped one (``trainer.objectives.labels.tgo``), and expectations over data from the reference are
sums or quadrature: no sampling noise, no optimizer noise. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from tgo.trainer.objectives.labels import tgo

T = 1e-3


# ---- one token of a small vocabulary, several prompts


class Tokens(NamedTuple):
    """Prompts that each draw one of K tokens; all ``[C, K]``."""

    reference: Tensor
    """Probabilities."""
    reward: Tensor
    """In the units of rhat."""
    beta: float

    @property
    def optimum(self) -> Tensor:
        """``pi_ref exp(r / beta) / Z``."""
        return torch.softmax(self.reference.log() + self.reward / self.beta, dim=1)

    @property
    def baseline(self) -> Tensor:
        """The oracle's ``tau*(c) = beta log Z(c)``, ``[C, 1]``."""
        exponent = self.reference.log() + self.reward / self.beta
        return self.beta * torch.logsumexp(exponent, dim=1, keepdim=True)

    @property
    def median(self) -> Tensor:
        """The global threshold: the median reward of the reference's samples, a scalar."""
        order = self.reward.flatten().argsort()
        mass = self.reference.flatten()[order].cumsum(0) / len(self.reference)
        return self.reward.flatten()[order][torch.searchsorted(mass, 0.5)]


def tokens(prompts: int = 8, size: int = 6, *, beta: float = 1.0, seed: int = 0) -> Tokens:
    """A random case; mean rewards differ between prompts with standard deviation 1."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    reference = torch.softmax(normal(prompts, size), dim=1)
    return Tokens(reference, normal(prompts, 1) + normal(prompts, size), beta)


def soft(case: Tokens, threshold: Tensor) -> Tensor:
    """Targets ``sigmoid(r - threshold)``."""
    return torch.sigmoid(case.reward - threshold)


def hard(case: Tokens, threshold: Tensor) -> Tensor:
    """Labels ``1[r >= threshold]``."""
    return (case.reward >= threshold).double()


def fit(case: Tokens, target: Tensor, weight: Tensor | None = None, rounds: int = 6) -> Tensor:
    """The policy ``[C, K]`` that minimises TGO's expected loss, by L-BFGS on its logits.

    With hard labels there is no minimum to reach; ``rounds`` of 50 steps then decide how far the
    negatives are driven.
    """
    logits = case.reference.log().clone().requires_grad_()
    weight = torch.ones_like(target) if weight is None else weight
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=50,
        tolerance_grad=1e-14,
        tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        ratio = torch.log_softmax(logits, dim=1) - case.reference.log()
        loss = (case.reference * tgo(ratio, target, weight, beta=case.beta)).sum()
        loss.backward()
        return loss

    for _ in range(rounds):
        optimizer.step(closure)
    return torch.softmax(logits.detach(), dim=1)


def descend(case: Tokens, label: Tensor, steps: int, rate: float = 1.0) -> Tensor:
    """The policy after ``steps`` of plain gradient descent on the logits: early stopping.

    The gradient is written out: ``g = pi_ref beta (sigmoid(rhat) - l)`` for the log-ratios, and
    ``g - pi sum(g)`` for the logits.
    """
    reference, target = case.reference.numpy(), label.numpy()
    logits = np.log(reference)
    for _ in range(steps):
        policy = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        reward = case.beta * np.log(policy / reference)
        slope = reference * case.beta * (1 / (1 + np.exp(-reward)) - target)
        logits = logits - rate * (slope - policy * slope.sum(axis=1, keepdims=True))
    return torch.softmax(torch.tensor(logits), dim=1)


def filtered(case: Tokens, threshold: Tensor) -> Tensor:
    """The reference restricted to positives (all of it where a prompt has none)."""
    kept = case.reference * hard(case, threshold)
    mass = kept.sum(dim=1, keepdim=True)
    return torch.where(mass > 0, kept / mass.clamp(min=1e-300), case.reference)


class Compared(NamedTuple):
    """A policy against the optimum, means over prompts."""

    distance: float
    """Total variation to the optimum."""
    gain: float
    """Rise of the expected reward over the reference, as a share of the optimum's rise."""
    divergence: float
    """``KL(pi || pi_ref)``; not 0 at the optimum either."""
    value: float
    """Rise of ``E r - beta KL``, what alignment maximises, as a share of the optimum's rise."""
    reach: float
    """Largest ``|rhat|``."""


def compare(case: Tokens, policy: Tensor) -> Compared:
    """How far ``policy`` is from the optimum."""

    def reward(probability: Tensor) -> float:
        return float((probability * case.reward).sum(dim=1).mean())

    def divergence(probability: Tensor) -> float:
        ratio = (probability.clamp(min=1e-300) / case.reference).log()
        return float((probability * ratio).sum(dim=1).mean())

    base, best = reward(case.reference), reward(case.optimum)
    value = reward(policy) - case.beta * divergence(policy) - base
    ratio = (policy.clamp(min=1e-300) / case.reference).log()
    return Compared(
        float((policy - case.optimum).abs().sum(dim=1).mean() / 2),
        (reward(policy) - base) / (best - base),
        divergence(policy),
        value / (best - case.beta * divergence(case.optimum) - base),
        float((case.beta * ratio).abs().max()),
    )


def token_rows(case: Tokens) -> dict[str, Compared]:
    """Every way of labelling, by name."""
    oracle, median = case.baseline, case.median
    weight = 1 + 5 * (case.reward - median).abs() / case.reward.std()
    found = {
        "optimum": case.optimum,
        "soft targets, oracle baseline": fit(case, soft(case, oracle)),
        "soft targets, global median": fit(case, soft(case, median)),
        "hard labels, oracle baseline, to the end": fit(case, hard(case, oracle)),
        "hard labels, global median, to the end": fit(case, hard(case, median)),
        "the same with weights, c = 5": fit(case, hard(case, median), weight),
        "reference restricted to positives": filtered(case, median),
    }
    for steps in (10, 100, 1000, 10000):
        name = f"hard labels, global median, {steps} steps"
        found[name] = descend(case, hard(case, median), steps)
    return {name: compare(case, policy) for name, policy in found.items()}


# ---- a Gaussian diffusion: data N(0, 1), policies N(m, 1), reward slope * x


class Gaussian(NamedTuple):
    """Reference N(0, 1), exact denoisers of N(m, 1), reward ``slope * x`` in units of rhat.

    The optimum among all distributions is N(slope / beta, 1), so the policies can express it.
    """

    slope: float
    beta: float

    @property
    def optimum(self) -> float:
        return self.slope / self.beta

    @property
    def baseline(self) -> float:
        """``beta log E exp(slope x / beta) = slope^2 / (2 beta)``."""
        return self.slope**2 / (2 * self.beta)


def nodes(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite points and weights of N(0, 1), ``[count]`` each."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.tensor(points), torch.tensor(weights / weights.sum())


def error(mean: float, x: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """``eps - eps_theta`` of the exact denoiser of N(mean, 1) at ``alpha^2 = signal``.

    With ``alpha^2 + s^2 = 1`` and ``x_t = alpha x + s eps`` the denoiser predicts
    ``eps_theta = s (x_t - alpha mean)``.
    """
    alpha, s = signal.sqrt(), (1 - signal).sqrt()
    return noise - s * (alpha * x + s * noise - alpha * mean)


def true_ratio(mean: float, x: Tensor) -> Tensor:
    """``log N(x; mean, 1) - log N(x; 0, 1)``."""
    return mean * x - mean**2 / 2


def scale(signal: Tensor) -> Tensor:
    """Ratio of the noise-averaged surrogate log-ratio to the true one: ``2 (alpha s)^2 / T``."""
    return 2 * signal * (1 - signal) / T


def surrogate(mean: float, x: Tensor, noise: Tensor, signal: Tensor, draws: int = 1) -> Tensor:
    """``(error_ref^2 - error_theta^2) / T`` averaged over ``draws`` of noise.

    In closed form ``scale * true_ratio - 2 alpha^3 s mean eps / T``, so averaging divides the
    ``noise`` by ``sqrt(draws)``. D independent coordinates under one mean do what D draws do.
    """
    spread = 2 * signal.sqrt() ** 3 * (1 - signal).sqrt() * mean / T / draws**0.5
    return scale(signal) * true_ratio(mean, x) - spread * noise


def schedule(count: int = 20) -> Tensor:
    """``alpha^2`` at ``count`` even timesteps of Stable Diffusion's scaled-linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)[:: 1000 // count]


def best_mean(
    ratio: Callable[[float], Tensor], target: Tensor, weight: Tensor, *, beta: float
) -> float:
    """The mean at which TGO's loss, averaged by ``weight``, is least; broadcasts its tensors."""

    def loss(mean: float) -> float:
        values = tgo(ratio(mean), target, torch.ones_like(target), beta=beta)
        return float((weight * values).sum())

    found = minimize_scalar(loss, bounds=(-2, 10), method="bounded", options={"xatol": 1e-12})
    return float(found.x)


def gaussian_rows(case: Gaussian) -> dict[str, float]:
    """The mean that each way of training ends at, by name; the optimum's is ``slope / beta``."""
    x, mass = nodes(100)
    noise, share = nodes(40)
    soft_target = torch.sigmoid(case.slope * x - case.baseline)
    half, steps = torch.tensor(0.5, dtype=torch.float64), schedule()
    matched, mean_scale = case.beta / float(scale(half)), float(scale(steps).mean())

    def exact(target: Tensor) -> float:
        return best_mean(lambda mean: true_ratio(mean, x), target, mass, beta=case.beta)

    def drawn(count: int) -> float:
        both, target = mass[:, None] * share, soft_target[:, None].expand(-1, 40)
        return best_mean(
            lambda mean: surrogate(mean, x[:, None], noise, half, count), target, both, beta=matched
        )

    def over_time(count: int) -> float:
        weight = (mass[:, None] * share)[..., None].expand(-1, -1, len(steps)) / len(steps)
        return best_mean(
            lambda mean: surrogate(mean, x[:, None, None], noise[:, None], steps, count),
            soft_target[:, None, None].expand_as(weight),
            weight,
            beta=case.beta / mean_scale,
        )

    return {
        "optimum": case.optimum,
        "true log-ratio, soft targets, oracle baseline": exact(soft_target),
        "baseline 0.5 too low": exact(torch.sigmoid(case.slope * x - case.baseline + 0.5)),
        "baseline 0.5 too high": exact(torch.sigmoid(case.slope * x - case.baseline - 0.5)),
        "hard labels, oracle baseline": exact((case.slope * x >= case.baseline).double()),
        "hard labels, median": exact((x >= 0).double()),
        "surrogate averaged over noise, beta / scale": best_mean(
            lambda mean: scale(half) * true_ratio(mean, x), soft_target, mass, beta=matched
        ),
        **{f"surrogate, noise averaged over {n}": drawn(n) for n in (1, 4, 16, 64, 1024)},
        "surrogate over all timesteps, noise averaged over 1": over_time(1),
        "surrogate over all timesteps, noise averaged over 1024": over_time(1024),
    }


def main() -> None:
    """The command line; see the module."""
    case = tokens()
    print(
        f"{'tokens':48} {'TV to optimum':>14} {'gain':>8} {'KL':>8} {'value':>8} {'max |rhat|':>11}"
    )
    for name, row in token_rows(case).items():
        print(
            f"{name:48} {row.distance:14.6f} {row.gain:8.3f} {row.divergence:8.3f} "
            f"{row.value:8.3f} {row.reach:11.3g}"
        )
    print(f"\n{'Gaussian, slope 1, beta 1':58} {'mean':>9}")
    for name, mean in gaussian_rows(Gaussian(1.0, 1.0)).items():
        print(f"{name:58} {mean:9.5f}")
    print(f"\n{'elements of a latent':24} {'beta in nats at beta 1, T 1e-3':>32}")
    for title, size in (("1", 1), ("4 x 16 x 16", 1024), ("4 x 64 x 64", 16384)):
        print(f"{title:24} {float(scale(torch.tensor(0.5))) / size:32.4f}")


if __name__ == "__main__":
    main()
