"""Counted on models without weights: as the models themselves, and as the shipped figures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests import family_models
from tgo.pipeline.config import settings as params
from tgo.pipeline.config.settings import Generator
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.pipeline.generators.base import Family
from tgo.pipeline.tools import costs, models
from tgo.pipeline.tools.counting import Counter, part_of
from tgo.pipeline.tools.footprint import VARIANTS, variant
from tgo.trainer.speed import count_flops

FAMILY = {"sd15": "diffusion", "flux2-dev": "flux2"}


def generator(kind: str, folder: Path) -> Generator:
    told = {"model": str(folder), "family": FAMILY.get(kind, kind), "resolution": 16}
    return params.load("params.yaml").generator.model_copy(update=told)


@pytest.fixture
def without_weights(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path, Path]:
    """A kind of model, its folder, and a copy of it that has configurations alone."""
    whole = family_models.write(request.param, tmp_path / "whole")
    bare = tmp_path / "bare"
    shutil.copytree(whole, bare, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    return request.param, whole, bare


@pytest.mark.slow
@pytest.mark.parametrize(
    "without_weights",
    ["sd15", "sd3", "flux2-dev", "qwenimage", "zimage"],
    indirect=True,
)
def test_every_family_is_counted_from_its_configurations(
    without_weights: tuple[str, Path, Path],
) -> None:
    kind, whole, bare = without_weights
    chosen = generator(kind, whole)
    counter = Counter(str(bare), chosen)
    conditions = counter.conditions()
    counted = counter.cost(conditions, counter.text_encoders())
    real = load_generator(chosen)
    assert counted.side == 16
    assert counted.footprint is not None
    assert counted.footprint.network == part_of(real.network)
    assert counted.forward * 1e12 == pytest.approx(_flops(real), rel=1e-6)
    texts = [name for name in real._parts if name.startswith("text_encoder")]  # type: ignore[attr-defined]
    sizes = [part_of(real.text_encoders.part(name)).parameters for name in texts]
    assert [text.parameters for text in counted.footprint.texts] == sizes
    for one in VARIANTS:
        assert counted.footprint.training[variant(**one)] > 0


def _flops(family: Family) -> int:
    conditions = family.encode_prompts(["a prompt"])
    latents = torch.zeros(1, *next(iter(family.latent_shapes.values())))
    corruption = family.corrupt(latents, torch.Generator())
    with torch.no_grad():
        return count_flops(
            lambda: family.log_likelihood(
                family.network, latents, conditions, corruption, temperature=1.0
            )
        )


@pytest.mark.slow
def test_the_shipped_figures_are_those_that_are_counted() -> None:
    from benchmarks import published_models

    name = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    shipped = costs.known(name)
    assert shipped is not None
    assert shipped == published_models.count(name)
    assert shipped.forward == pytest.approx(0.803, rel=0.01)


def test_the_world_is_counted_as_its_figures_say(tmp_path: Path) -> None:
    world = params.load("params.yaml")
    known = models.cost_of(world)
    copy = shutil.copytree(world.generator.model, tmp_path / "copy")
    told = world.generator.model_copy(update={"model": str(copy)})
    counted = models.cost_of(world.model_copy(update={"generator": told}))
    assert known is not None
    assert counted is not None
    assert counted.forward == pytest.approx(known.forward, rel=0.02)
    assert (counted.side, counted.latents) == (known.side, known.latents)


def test_what_loading_refuses_is_refused_here(tmp_path: Path) -> None:
    world = params.load("params.yaml")
    copy = shutil.copytree(world.generator.model, tmp_path / "copy")
    index = (copy / "model_index.json").read_text()
    (copy / "model_index.json").write_text(index.replace("DDIMScheduler", "DDPMScheduler"))
    told = world.generator.model_copy(update={"model": str(copy)})
    with pytest.raises(InputError, match="DDPMScheduler draws noise at every step"):
        models.cost_of(world.model_copy(update={"generator": told}))


def test_a_model_that_is_not_here_is_unknown() -> None:
    world = params.load("params.yaml")
    told = world.generator.model_copy(update={"model": "someone/else"})
    assert models.cost_of(world.model_copy(update={"generator": told})) is None
