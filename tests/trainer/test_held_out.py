"""Held-out rows: never trained on, judged alike every time, at a small part of the cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.miniature import Place, make_settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.pipeline.storage import shards
from tgo.trainer import train
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.distributed import Ranks
from tgo.trainer.held_out import COST, HeldOut, apart
from tgo.trainer.learner import Learner
from tgo.trainer.objectives import load_objective
from tgo.trainer.stream import Stream

SHARE = 0.3


def prompts_of(rows: LabelledRows) -> set[tuple[int, int]]:
    return {(group.shard, number) for group in rows.groups for number in group.prompt.tolist()}


@pytest.mark.parametrize("kind", ["labelled", "all pairs"])
def test_a_prompt_is_on_one_side_whatever_else_changes(place: Place, kind: str) -> None:
    rows = LabelledRows(**place.inputs, rows=kind)  # type: ignore[arg-type]
    kept, held = rows.apart(SHARE)
    assert not prompts_of(kept) & prompts_of(held)
    assert prompts_of(kept) | prompts_of(held) == prompts_of(rows)
    assert sum(kept.sizes) + sum(held.sizes) == sum(rows.sizes)
    assert 0.1 < sum(held.sizes) / sum(rows.sizes) < 0.5
    for part in (kept, held):  # numbered anew, so that nothing refers to the other part
        numbers = [number for group in part.groups for number in group.rows.tolist()]
        assert numbers == list(range(sum(part.sizes) * rows.unit))
    assert prompts_of(rows.apart(2 * SHARE)[1]) > prompts_of(held)  # a larger share adds to it


def test_shares_that_leave_nothing(model: Path, place: Place) -> None:
    rows = LabelledRows(**place.inputs)
    with pytest.raises(
        InputError, match=r"train\.held_out: 1e-09 of the prompts holds out no rows"
    ):
        apart(rows, make_settings(model, held_out=1e-9).train)
    assert apart(rows, make_settings(model, held_out=None).train) == (rows, None)


@pytest.mark.parametrize("objective", ["tgo", "bco", "sft", "dpo", "dspo", "nft", "lair"])
def test_what_is_judged(model: Path, place: Place, objective: str) -> None:
    settings = make_settings(model, objective=objective, held_out=SHARE, draws=2, log_every=20)
    chosen, family = load_objective(settings.train), load_generator(settings.generator)
    ranks = Ranks(torch.device("cpu"))
    rows = LabelledRows(**place.inputs, rows=chosen.rows, per_row_value=chosen.per_row_value)
    kept, held = apart(rows, settings.train)
    assert held is not None
    learner = Learner(family, chosen, settings.train, rows.unconditional, ranks)
    held_out = HeldOut(held, family, chosen, settings.train, learner, ranks)
    assert held_out.images <= 4 * COST * settings.train.batch_size * settings.train.log_every
    assert held_out.images <= sum(held.sizes) * rows.unit
    first = held_out.judge()
    assert first == held_out.judge()
    assert first.get("held_out_loss_change", 0) == 0  # the untrained LAIR loss is zero itself
    if chosen.needs_reference:
        assert first["held_out_margin"] == 0  # the policy is the reference still
        assert first["held_out_accuracy"] == 0.5
    else:
        assert set(first) == {"held_out_loss", "held_out_loss_change"}
    learner.step(1, next(Stream(kept, seed=0, batch_size=8).batches()))
    assert held_out.judge() != first


def test_learning_by_heart_shows_and_ends_a_run(model: Path, place: Place) -> None:
    for path in shards.shard_paths(place.inputs["labelled"]):  # labels that mean nothing
        table = shards.read_shard(path)
        label = table["label"].to_numpy()
        random = np.where(label < 0, label, np.random.default_rng(7).integers(0, 2, len(label)))
        column = table.schema.get_field_index("label")
        shards.write_shard(
            path, table.set_column(column, table.schema.field(column), [random.astype(np.int8)])
        )
    limits = {"likelihood_fall": None, "accuracy": None, "held_out_rise": 0.1, "patience": 2}
    settings = make_settings(
        model, held_out=SHARE, learning_rate=3e-3, steps=80, log_every=8, checkpoint_every=8,
        prompt_dropout=0.0, collapse=limits,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"the loss on held-out prompts lies .* above its lowest"):
        train.run(settings, place.paths())
    lines = [json.loads(line) for line in place.paths().log.read_text().splitlines()]
    assert lines[-1]["held_out_loss"] > lines[-1]["loss"]
    assert all({"held_out_margin", "held_out_accuracy"} <= set(line) for line in lines)


def test_a_run_that_goes_on_writes_the_same_log(model: Path, place: Place) -> None:
    def run(steps: int, name: str) -> str:
        settings = make_settings(model, held_out=SHARE, steps=steps, checkpoint_every=4)
        paths = place.paths(name)
        train.run(settings, paths)
        return paths.log.read_text()

    whole = run(12, "whole")
    run(8, "parts")
    assert run(12, "parts") == whole
