from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.families import FLOWS, GUIDANCE, PROMPTS, SEEDS, Loaded, case, load, sample
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.flow import Flow
from tgo.pipeline.storage.embeddings import stored


@pytest.mark.parametrize("kind", FLOWS)
def test_flows_follow_a_straight_line_from_image_to_noise(
    kind: str, loaded: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = loaded(kind)
    latents, conditions, drawn = case(family)
    seen = []

    def predict(_network: Any, noisy: Any, timesteps: Any, _conditions: Any) -> torch.Tensor:
        seen.append((noisy, timesteps))
        return torch.zeros_like(noisy)

    monkeypatch.setattr(family, "_predict", predict)
    residual = family.residual(family.network, latents, conditions, drawn)
    torch.testing.assert_close(residual, drawn.noise - latents)
    noisy, timesteps = seen[0]
    for one, sigma, image, noise in zip(noisy, timesteps / 1000, latents, drawn.noise, strict=True):
        torch.testing.assert_close(one, (1 - sigma) * image + sigma * noise)


@pytest.mark.parametrize(
    ("kind", "shift"),
    # 16 tokens: mu = 0.5 - 240 * 0.65 / 3840 for the dynamic one
    [("sd3", 3.0), ("flux", math.exp(0.5 - 240 * 0.65 / 3840)), ("zimage", 6.0), ("wan", 3.0)],
)
def test_training_times_are_logit_normal_and_shifted_as_the_samplers(
    kind: str, shift: float, loaded: Callable[[str], Loaded]
) -> None:
    family = loaded(kind)
    assert isinstance(family, Flow)
    assert family._shift(family.latent_shape) == pytest.approx(shift)
    many = torch.zeros(4000, *family.latent_shape)
    drawn = family.corrupt(many, torch.Generator().manual_seed(0))
    again = family.corrupt(many, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.timesteps, again.timesteps)
    assert torch.equal(drawn.noise, again.noise)
    # the time shift multiplies the odds t / (1 - t): remove it from the logits
    logits = (drawn.timesteps / 1000).logit() - math.log(shift)
    assert float(logits.mean()) == pytest.approx(0, abs=0.06)
    assert float(logits.std()) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("kind", ["sd3"])
def test_a_residual_is_the_error_of_the_image_over_sigma(
    kind: str, loaded: Callable[[str], Loaded]
) -> None:
    family = loaded(kind)
    assert isinstance(family, Flow)
    latents, conditions, drawn = case(family)
    drawn = drawn._replace(timesteps=family.timesteps_at(torch.tensor([0.2, 0.7])))
    ratio, factor = family.signal_to_noise(drawn.timesteps)
    torch.testing.assert_close(ratio, torch.tensor([16.0, (3 / 7) ** 2]))
    sigma = torch.tensor([0.2, 0.7]).view(-1, 1, 1, 1)
    noisy = (1 - sigma) * latents + sigma * drawn.noise
    with torch.no_grad():
        residual = family.residual(family.network, latents, conditions, drawn)
        velocity = family._predict(family.network, noisy, drawn.timesteps, conditions)
    error = latents - (noisy - sigma * velocity)
    torch.testing.assert_close(
        error.square(), factor.view(-1, 1, 1, 1) * residual.square(), rtol=1e-3, atol=1e-4
    )


def test_flux_is_told_its_guidance_and_asked_once(loaded: Callable[[str], Loaded]) -> None:
    family = loaded("flux")
    seen: list[tuple[int, float]] = []
    hook = family.network.register_forward_pre_hook(
        lambda _m, _a, given: seen.append(
            (len(given["hidden_states"]), float(given["guidance"][0]))
        ),
        with_kwargs=True,
    )
    sample(family, PROMPTS, SEEDS)
    family.log_likelihood(family.network, *case(family), temperature=1.0)
    hook.remove()
    assert seen == [(2, GUIDANCE)] * 4


def test_zimage_keeps_the_range_of_bfloat16(folders: Callable[[str], Path]) -> None:
    family = load("zimage", folders("zimage"), dtype="bfloat16")
    conditions = stored(family.encode_prompts(["a red circle"]))
    assert conditions["embeddings"].dtype == torch.bfloat16
    assert conditions["mask"].dtype == torch.bool
    assert family.initial_noise([0]).dtype == torch.float32


@pytest.mark.parametrize("kind", ["sd3", "zimage"])
def test_a_sampler_that_draws_noise_is_refused(
    kind: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(folders(kind), tmp_path / "model")
    path = tmp_path / "model/scheduler/scheduler_config.json"
    text = path.read_text()
    path.write_text(text.replace('"stochastic_sampling": false', '"stochastic_sampling": true'))
    with pytest.raises(InputError, match="no sampler of flows that draws noise but once"):
        load(kind, tmp_path / "model")
