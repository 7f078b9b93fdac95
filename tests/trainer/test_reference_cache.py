from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer import parallel
from tests.trainer.miniature import SHAPES, SIZES, Place, make_settings, write_rows
from tests.trainer.test_train import CrashError, crash_at, run, same
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators import load_generator
from tgo.pipeline.storage.shards import shard_paths
from tgo.trainer.bucketed_stream import BucketedStream
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.distributed import Ranks
from tgo.trainer.learner import Learner
from tgo.trainer.objectives import load_objective
from tgo.trainer.reference_cache import ReferenceCache, load_cache
from tgo.trainer.stream import Stream
from tgo.trainer.training_data import make_stream


def cached(model: Path, **train: Any) -> Settings:
    return make_settings(model, reference_cache=3, prompt_dropout=0.0, **train)


def prepared(
    settings: Settings, place: Place
) -> tuple[Learner, Stream | BucketedStream, ReferenceCache]:
    """A learner with a filled cache, as a run has it before its first step."""
    torch.set_num_threads(1)
    objective = load_objective(settings.train)
    rows = LabelledRows(**place.inputs, rows=objective.rows, per_row_value=objective.per_row_value)
    family = load_generator(settings.generator)
    cache = load_cache(place.root / "references", rows, family, objective, settings.train)
    assert cache is not None
    ranks = Ranks(torch.device("cpu"))
    learner = Learner(family, objective, settings.train, rows.unconditional, ranks, cache=cache)
    cache.fill(learner.measure, ranks)
    stream = make_stream(rows, settings.train, ranks)
    assert isinstance(stream, Stream | BucketedStream)
    return learner, stream, cache


@pytest.mark.parametrize("objective", ["tgo", "dpo"])
def test_what_is_kept_is_what_the_reference_says(model: Path, place: Place, objective: str) -> None:
    learner, stream, cache = prepared(cached(model, objective=objective), place)
    for number, batch in enumerate(itertools.islice(stream.batches(), 3), start=1):
        terms = learner.terms(number, batch)  # nothing is learnt yet: the policy is the reference
        torch.testing.assert_close(
            terms.reference, terms.log_likelihood.detach(), rtol=1e-4, atol=0
        )
        assert terms.prediction_distance is None
    if objective == "dpo":
        corruption, _ = cache.draw(1, batch, every=2)
        for part in corruption:
            assert torch.equal(part[0::2], part[1::2])


def test_images_of_several_sizes(model: Path, tmp_path: Path) -> None:
    place = write_rows(tmp_path, shard_rows=(80, 72, 32), several_sizes=True)
    learner, stream, _ = prepared(cached(model, resolution=SIZES), place)
    shapes = set()
    for number, batch in enumerate(itertools.islice(stream.batches(), 12), start=1):
        terms = learner.terms(number, batch)
        torch.testing.assert_close(
            terms.reference, terms.log_likelihood.detach(), rtol=1e-4, atol=0
        )
        shapes.add(batch.latents.shape[1:])
    assert shapes == set(SHAPES)


@pytest.mark.slow
def test_several_processes_fill_it_together(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "reference_cache": 3,
        "prompt_dropout": 0.0,
        "gradient_accumulation_steps": 2,
    }
    parallel.run(2, place.root, model, steps=2, **options)
    assert len(list((place.root / "references").glob("*/*"))) == len(
        shard_paths(place.root / "scored")
    )
    monkeypatch.setattr(ReferenceCache, "_measure", None)  # nothing is left to compute
    test_what_is_kept_is_what_the_reference_says(model, place, "tgo")


def test_an_image_is_seen_under_its_own_few_corruptions_only(model: Path, place: Place) -> None:
    _, stream, cache = prepared(cached(model), place)
    batch = next(stream.batches())
    seen = [cache.draw(number, batch, every=1)[0].noise for number in range(1, 40)]
    for image in range(len(batch.rows)):
        assert len({noise[image].numpy().tobytes() for noise in seen}) == 3
    again = cache.draw(7, batch, every=1)[0]
    assert torch.equal(again.noise, seen[6])


def test_runs_share_it_and_a_crash_changes_nothing(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(cached(model), place, "whole")
    files = sorted((place.root / "references").rglob("*.safetensors"))
    assert len(files) == 3
    written = [path.stat().st_mtime_ns for path in files]
    with monkeypatch.context() as patch:
        crash_at(patch, 8)
        with pytest.raises(CrashError):
            run(cached(model), place)
    assert same(run(cached(model), place), whole)
    run(cached(model, objective="dpo", beta=0.5), place, "other")
    assert [path.stat().st_mtime_ns for path in files] == written
    files[1].write_bytes(b"damaged")  # it is made again, with the same values
    assert same(run(cached(model), place, "third"), whole)
    run(cached(model, temperature=0.5), place, "warmer")
    assert len(list((place.root / "references").iterdir())) == 2
    assert "kl" not in whole["lines"][-1] or whole["lines"][-1]["kl"] is None


def test_it_trains_as_fresh_corruptions_do_at_first(model: Path, place: Place) -> None:
    lines = run(cached(model, steps=30, log_every=10), place)["lines"]
    assert lines[-1]["margin"] > lines[0]["margin"] > 0
    assert np.isfinite(lines[-1]["loss"])


def test_an_objective_without_a_reference_needs_no_cache(model: Path, place: Place) -> None:
    run(cached(model, objective="sft", steps=2), place)
    assert not (place.root / "references").exists()
