"""Every way to train: each resumes to the bit, and does what it says."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.trainer.miniature import Place, make_settings
from tests.trainer.test_train import WHOLE, CrashError, crash_at, make_learner, run, same
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.pipeline.generators.base import Family
from tgo.trainer import train
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.distributed import Ranks
from tgo.trainer.learner import Learner
from tgo.trainer.noise import BLOCK
from tgo.trainer.training_data import make_stream

LORA = {"rank": 2, "alpha": 4.0, "targets": None}
TIMES = {"draw": "logit_normal", "mean": 0.0, "std": 1.0, "snr_gamma": 5.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"lora": LORA},
    "lora, renewed": {
        "lora": LORA,
        "reference": "epoch",
        "batch_size": 50,
        "gradient_accumulation_steps": 5,
    },
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 4},
    "accumulate, whole batch": {
        "gradient_accumulation_steps": 2,
        "objective": "kto",
        "beta": "auto",
    },
    "draws": {"draws": 3, "gradient_accumulation_steps": 2, "objective": "dpo"},
    "classes": {"positives": 0.75},
    "bfloat16": {"precision": "bfloat16", "gradient_checkpointing": True, "lora": LORA},
    "adamw8bit": {"optimizer": "adamw8bit", "schedule": {"name": "cosine", "warmup": 2}},
    "adafactor": {"optimizer": "adafactor", "schedule": {"name": "constant", "warmup": 3}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_resumes_to_the_bit_with_other_workers(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("bitsandbytes" if name == "adamw8bit" else "torch")
    options = {"steps": 5, "checkpoint_every": 2, "log_every": 2} | OPTIONS[name]
    whole = run(make_settings(model, **options), place, "whole")
    with monkeypatch.context() as patch:
        crash_at(patch, 4)
        with pytest.raises(CrashError):
            run(make_settings(model, workers=2, **options), place)
    assert same(run(make_settings(model, **options), place), whole)


def gradients(learner: Learner, number: int, batch: Any) -> list[Tensor]:
    learner._backward(number, batch)
    return [parameter.grad.clone() for parameter in learner._parameters]


@pytest.mark.parametrize("objective", ["tgo", "kto", "dpo", "nft"])
def test_micro_batches_have_the_gradient_of_the_whole(
    model: Path, place: Place, objective: str
) -> None:
    found = []
    for accumulate in (1, 4):
        settings = make_settings(
            model, objective=objective, gradient_accumulation_steps=accumulate, draws=2
        )
        learner, stream = make_learner(settings, place)
        learner._networks.parameters[0].data.add_(0.05)  # the policy is no longer the reference
        found.append(gradients(learner, 1, next(stream.batches())))
    scale = max(float(gradient.abs().max()) for gradient in found[0])
    assert scale > 0
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-5 * scale)


def test_adapters_learn_alone_and_off_they_leave_the_reference(model: Path, place: Place) -> None:
    learner, stream = make_learner(make_settings(model, lora=LORA), place)
    plain, _ = make_learner(make_settings(model), place)
    batches = list(itertools.islice(stream.batches(), 3))
    before = {n: p.detach().clone() for n, p in learner._networks.network.named_parameters()}
    for number, batch in enumerate(batches, start=1):
        learner.step(number, batch)
    after = dict(learner._networks.network.named_parameters())
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert set(learner.state()["network"]) == {name for name in after if "lora_" in name}
    terms = learner.terms(9, batches[0])
    assert torch.equal(terms.reference, plain.terms(9, batches[0]).reference)  # type: ignore[arg-type]
    assert not torch.equal(terms.log_likelihood, terms.reference)  # type: ignore[arg-type]


def test_fused_adapters_compute_what_was_trained(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Learner] = []
    original = train.save_model

    def keeping(settings: Settings, family: Family, learner: Learner, *rest: Any) -> None:
        kept.append(learner)
        original(settings, family, learner, *rest)

    monkeypatch.setattr(train, "save_model", keeping)
    settings = make_settings(model, lora=LORA, steps=3, learning_rate=0.01)
    folder = run(settings, place)["folder"]
    weights = load_generator(settings.generator, folder).network.state_dict()
    base = load_file(model / WHOLE)
    assert weights.keys() == base.keys()
    assert {n.split(".")[-2] for n in base if not torch.equal(weights[n], base[n])} == {
        "to_q", "to_k", "to_v", "0",
    }  # fmt: skip
    trained = dict(kept[0].averaged().named_modules())
    for name, layer in trained.items():
        if hasattr(layer, "get_delta_weight"):
            expected = layer.get_base_layer().weight + layer.get_delta_weight("default")
            torch.testing.assert_close(weights[f"{name}.weight"], expected.detach())


@pytest.mark.parametrize("lora", [None, LORA])
def test_bfloat16_starts_at_the_reference_and_keeps_master_weights(
    model: Path, place: Place, lora: dict[str, Any] | None
) -> None:
    learner, stream = make_learner(make_settings(model, precision="bfloat16", lora=lora), place)
    batch = next(stream.batches())
    assert torch.equal(learner.terms(1, batch).log_ratio, torch.zeros(8))
    exact, _ = make_learner(make_settings(model), place)
    torch.testing.assert_close(
        learner.terms(1, batch).log_likelihood,
        exact.terms(1, batch).log_likelihood,
        rtol=0.05,
        atol=0.5,
    )
    learner.step(1, batch)
    assert {p.dtype for p in learner._parameters} == {torch.float32}
    assert {v.dtype for v in learner.state()["ema"].values()} == {torch.float32}
    if lora is None:
        kept = learner._networks._reference
        assert any(p.dtype == torch.bfloat16 for p in kept.parameters())  # type: ignore[union-attr]
    else:
        frozen = [p for p in learner._networks.network.parameters() if not p.requires_grad]
        assert {p.dtype for p in frozen} == {torch.bfloat16}


def test_gradient_checkpointing_changes_no_gradient(model: Path, place: Place) -> None:
    found = []
    for recompute in (False, True):
        settings = make_settings(model, gradient_checkpointing=recompute)
        learner, stream = make_learner(settings, place)
        found.append(gradients(learner, 1, next(stream.batches())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_several_draws_are_averaged_for_each_sample(model: Path, place: Place) -> None:
    learner, stream = make_learner(make_settings(model, draws=3), place)
    batch = next(stream.batches())
    given = learner._inputs.build(4, batch)[0]
    found = learner._log_likelihood(learner._networks.network, given).values
    terms = learner.terms(4, batch)
    assert torch.equal(terms.log_likelihood, found.view(8, 3).mean(dim=1))
    assert len({float(value) for value in found}) == 24
    assert torch.equal(given.latents[0], given.latents[2])


def test_draws_do_not_depend_on_who_asks_for_them(model: Path, place: Place) -> None:
    """Batches of more than one block, drawn at once and in parts that straddle two blocks."""
    size = BLOCK + 32
    settings = make_settings(model, batch_size=size, prompt_dropout=0.5)
    learner, stream = make_learner(settings, place)
    batch = next(stream.batches())
    sampler = learner._inputs._sampler
    whole = sampler.draw(3, 0, batch.latents)
    sampler._kept.clear()
    for first, last in ((0, 10), (60, 70), (90, size)):
        part = batch.part(first, last)
        drawn = sampler.draw(3, part.start, part.latents)
        for left, right in zip(drawn.corruption, whole.corruption, strict=True):
            assert torch.equal(left, right[first:last])
        assert torch.equal(drawn.dropped, whole.dropped[first:last])  # type: ignore[arg-type, index]


def test_noise_levels_and_their_weights(model: Path, place: Place) -> None:
    times = {"draw": "logit_normal", "mean": 2.0, "std": 0.5, "snr_gamma": 5.0}
    learner, stream = make_learner(make_settings(model, timesteps=times, batch_size=64), place)
    batch = next(stream.batches())
    given = learner._inputs.build(1, batch)[0]
    levels = given.corruption.timesteps.float() / 1000
    assert 0.8 < levels.mean() < 0.95  # sigmoid(2) = 0.88
    kept = learner._family._schedule.alphas_cumprod[given.corruption.timesteps]  # type: ignore[attr-defined]
    ratio = kept / (1 - kept)
    kind = learner._family._schedule.config.prediction_type  # type: ignore[attr-defined]
    least = ratio.clamp(max=5)
    expected = {"epsilon": least / ratio, "v_prediction": least / (ratio + 1), "sample": least}
    torch.testing.assert_close(given.weight, expected[kind])


def test_classes_come_in_the_share_that_was_asked_for(model: Path, place: Place) -> None:
    rows = LabelledRows(**place.inputs)
    settings = make_settings(model, positives=0.75)
    ranks = Ranks(torch.device("cpu"))
    stream = make_stream(rows, settings.train, ranks)
    batches = list(itertools.islice(stream.batches(), 40))
    assert all(batch.target.tolist() == [1.0] * 6 + [0.0] * 2 for batch in batches)
    negatives = torch.cat([batch.rows[6:] for batch in batches])
    positives = torch.cat([batch.rows[:6] for batch in batches])
    epoch = len(negatives) if batches[-1].position.epoch == 0 else 0
    assert len(set(negatives[:epoch].tolist())) == epoch  # none twice within its epoch
    assert not set(positives.tolist()) & set(negatives.tolist())
    resumed = stream.batches(batches[16].position)
    assert torch.equal(next(resumed).rows, batches[17].rows)
    halves = [
        make_stream(rows, settings.train, Ranks(torch.device("cpu"), rank, 2)) for rank in (0, 1)
    ]
    first, second = (next(half.batches()) for half in halves)
    assert torch.equal(torch.cat([first.rows, second.rows]), batches[0].rows)
    assert (first.start, second.start) == (0, 4)


def test_what_cannot_be_done_is_named(model: Path, place: Place) -> None:
    wrong: dict[str, dict[str, Any]] = {
        r"train\.positives: dpo takes pairs": {"objective": "dpo", "positives": 0.5},
        r"train\.positives = 0\.01 leaves a class out": {"positives": 0.01},
        r"train\.batch_size = 8 cannot be divided by 3 micro batches": {
            "gradient_accumulation_steps": 3
        },
        r"train\.lora\.targets: no module of UNet2DConditionModel is called 'to_x'": {
            "lora": LORA | {"targets": ["to_x"]}
        },
    }
    for message, options in wrong.items():
        with pytest.raises(InputError, match=message):
            run(make_settings(model, **options), place)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_the_learning_rate_warms_up_and_falls(model: Path, name: str) -> None:
    from tgo.trainer.optimizers import learning_rates

    settings = make_settings(model, steps=20, schedule={"name": name, "warmup": 4})
    rates = [learning_rates(settings.train)(step) for step in range(1, 21)]
    assert rates[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert rates[4] == pytest.approx(1e-3)
    falling = rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)
    assert falling
    assert (rates[-1] < 0.1e-3) == (name != "constant")
    plain = make_settings(model, steps=20, schedule={"name": name, "warmup": 0})
    assert learning_rates(plain.train)(1) == 1e-3
