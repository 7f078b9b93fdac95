from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.miniature import Place, make_settings
from tests.trainer.test_train import CrashError, crash_at, make_learner, run, same
from tgo.pipeline.config.settings import Settings, validate
from tgo.pipeline.errors import InputError
from tgo.pipeline.training_log import sample_strips

TEXTS = ["a red circle", "a blue square", "a green triangle"]


def sampling(model: Path, root: Path, prompts: int = 2, every: int = 3, **train: Any) -> Settings:
    """Settings with sample images of the first validation prompts."""
    path = root / "validation.jsonl"
    path.write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in TEXTS))
    chosen = make_settings(model, samples={"prompts": prompts, "every": every}, **train)
    values = chosen.model_dump(mode="json")
    values["prompts"]["validation"] = str(path)
    return validate(values, origin="test")


def images(place: Place, name: str) -> dict[str, bytes]:
    folder = place.paths(name).samples
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_samples_change_nothing_of_training_and_survive_a_crash(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(make_settings(model), place, "plain")
    settings = sampling(model, place.root)
    whole = run(settings, place, "whole")
    assert same(whole, plain)
    expected = [
        "prompts.json",
        "result.json",
        *(f"step-{step:08d}.png" for step in (0, 3, 6, 9, 12)),
    ]
    assert list(images(place, "whole")) == expected
    with monkeypatch.context() as patch:
        crash_at(patch, 8)  # the last checkpoint is of step 5, so the image of 6 is made again
        with pytest.raises(CrashError):
            run(settings, place)
    assert same(run(settings, place), whole)
    assert images(place, "run") == images(place, "whole")


def test_the_first_images_are_the_base_models_as_stage_one_makes_them(
    model: Path, place: Place
) -> None:
    from diffusers import StableDiffusionPipeline

    settings = sampling(model, place.root, prompts=3, steps=1)
    run(settings, place)
    folder = place.paths().samples
    ((step, shown),) = sample_strips.read(folder)
    assert step == 0
    facts = sample_strips.facts(folder)
    assert facts["prompts"] == TEXTS
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    stock = pipe(
        TEXTS,
        num_inference_steps=settings.generator.steps,
        guidance_scale=settings.generator.guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in facts["seeds"]],
        output_type="np",
    ).images
    # ours went through float16 latents and embeddings
    np.testing.assert_allclose(np.stack(shown) / 255, stock, atol=2.5 / 255)


def test_averaging_gives_the_parameters_back_to_the_bit(model: Path, place: Place) -> None:
    learner, stream = make_learner(make_settings(model, ema_decay=0.5), place)
    learner.step(1, next(stream.batches()))
    state = learner.state()
    before = {kind: {n: t.clone() for n, t in state[kind].items()} for kind in ("network", "ema")}
    with learner.averaging():
        inside = {name: t.clone() for name, t in learner.state()["network"].items()}
    after = learner.state()
    assert all(torch.equal(inside[name], value) for name, value in before["ema"].items())
    assert not all(torch.equal(inside[name], value) for name, value in before["network"].items())
    for kind, values in before.items():
        assert all(torch.equal(after[kind][name], value) for name, value in values.items())


def test_other_prompts_or_a_fresh_run_leave_no_image_of_before(
    model: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    run(sampling(model, place.root, prompts=2), place)
    run(sampling(model, place.root, prompts=3, steps=15), place)  # continues after step 12
    assert list(images(place, "run")) == [
        "prompts.json",
        "result.json",
        "step-00000015.png",
    ]
    assert "images after 0, 3, 6, 9, 12 steps are of other settings or gone" in caplog.text
    run(sampling(model, place.root, prompts=3, seed=9), place)
    fresh = images(place, "run")
    run(sampling(model, place.root, prompts=3, seed=9), place, "fresh")
    assert fresh == images(place, "fresh")
    run(make_settings(model, seed=9), place)  # no samples any more
    assert list(images(place, "run")) == ["prompts.json", "result.json"]


def test_too_few_prompts_are_named(model: Path, place: Place) -> None:
    with pytest.raises(InputError, match=r"validation\.jsonl"):
        run(sampling(model, place.root, prompts=4), place)
