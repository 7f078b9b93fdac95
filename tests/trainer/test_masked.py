"""The masked family in stage three: tokens for latents, masks for noise, no regression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.masked_models import CODEBOOK, write_random_amused
from tests.trainer.miniature import SIZES, Place, make_settings, write_rows
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.trainer import train
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.distributed import Ranks
from tgo.trainer.learner import Learner
from tgo.trainer.objectives import load_objective
from tgo.trainer.stream import Stream


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_amused(tmp_path_factory.mktemp("model") / "amused")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return write_rows(tmp_path, tokens=CODEBOOK)


def settings_of(model: Path, **changes: Any) -> Settings:
    return make_settings(model, family="amused", **{"temperature": 1.0} | changes)


def run(settings: Settings, place: Place, name: str) -> tuple[dict[str, torch.Tensor], str]:
    paths = place.paths(name)
    folder = train.run(settings, paths)
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    return weights, paths.log.read_text()


class CrashError(Exception):
    """Stands for whatever may end a process."""


def test_images_of_several_sizes(model: Path, tmp_path: Path) -> None:
    place = write_rows(tmp_path, shard_rows=(40, 40, 40), tokens=CODEBOOK, several_sizes=True)
    settings = settings_of(model, steps=8, resolution=SIZES)
    weights, log = run(settings, place, "run")
    assert all(np.isfinite(json.loads(line)["loss"]) for line in log.splitlines())
    base = load_generator(settings.generator).network.state_dict()
    assert any(not torch.equal(value, base[name]) for name, value in weights.items())


def test_training_continues_to_the_bit_and_learns(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(model, steps=30, learning_rate=1e-3)
    weights, log = run(settings, place, "straight")
    with monkeypatch.context() as patch:
        step = Learner.step

        def crashing(self: Learner, number: int, batch: Any) -> None:
            if number == 13:
                raise CrashError
            step(self, number, batch)

        patch.setattr(Learner, "step", crashing)
        with pytest.raises(CrashError):
            run(settings, place, "broken")
    again, other = run(settings, place, "broken")
    assert other == log
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines[-1]["margin"] > lines[0]["margin"]
    assert lines[-1]["accuracy"] > 0.7
    assert load_generator(settings.generator, place.paths("straight").tuned)


def test_no_kl_is_estimated(model: Path, place: Place) -> None:
    """The KL estimate compares predictions of two Gaussians; a masked model makes none."""
    _, log = run(settings_of(model, steps=3), place, "run")
    line = json.loads(log.splitlines()[0])
    assert line.get("kl") is None
    assert np.isfinite(line["loss"])


@pytest.mark.parametrize("objective", ["nft", "dspo"])
def test_objectives_on_predictions_are_refused(model: Path, place: Place, objective: str) -> None:
    with pytest.raises(InputError) as caught:
        train.run(settings_of(model, objective=objective), place.paths())
    line = str(caught.value)
    assert f"train.objective: {objective}" in line
    assert "family amused" in line
    assert "\n" not in line


@pytest.mark.parametrize("objective", ["sft", "csft", "kto", "bco", "dpo", "mapo", "rwr", "lair"])
def test_every_other_objective_trains(model: Path, place: Place, objective: str) -> None:
    settings = settings_of(model, objective=objective)
    torch.set_num_threads(1)
    chosen = load_objective(settings.train)
    rows = LabelledRows(**place.inputs, rows=chosen.rows, per_row_value=chosen.per_row_value)
    family = load_generator(settings.generator)
    device = torch.device("cpu")
    learner = Learner(family, chosen, settings.train, rows.unconditional, Ranks(device))
    batch = next(Stream(rows, seed=0, batch_size=8).batches())
    assert batch.latents.dtype == torch.int32
    before = [parameter.clone() for parameter in family.network.parameters()]
    learner.step(1, batch)
    changed = [
        not torch.equal(old, new)
        for old, new in zip(before, family.network.parameters(), strict=True)
    ]
    assert any(changed)
