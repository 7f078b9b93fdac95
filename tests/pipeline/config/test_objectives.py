from __future__ import annotations

from typing import Any

import pytest

from tests.settings import changed
from tgo.pipeline.config.objectives import unequal_parts
from tgo.pipeline.errors import InputError

CACHED: dict[str, Any] = {"reference_cache": 4}
WRONG: dict[str, dict[str, Any]] = {
    r"unknown objective 'tog'; choose one of tgo, sft": {"objective": "tog"},
    r"train\.beta: auto .* rwr has not": {"objective": "rwr", "beta": "auto"},
    r"train\.reference: sft uses no reference": {"objective": "sft", "reference": "epoch"},
    r"train\.positives: dpo takes pairs": {"objective": "dpo", "positives": 0.5},
    r"train\.batch_size = 7 cannot be divided by 1 micro batches of pairs": {
        "objective": "dpo",
        "batch_size": 7,
    },
    r"train\.batch_size = 8 cannot be divided by 3 micro batches": {
        "batch_size": 8,
        "gradient_accumulation_steps": 3,
    },
    r"reference_cache: dspo needs the reference's predictions": CACHED | {"objective": "dspo"},
    r"holds for train\.reference = initial alone": CACHED | {"reference": "epoch"},
    r"holds for train\.draws = 1 alone": CACHED | {"draws": 2},
    r"holds for train\.prompt_dropout = 0 alone": CACHED | {"prompt_dropout": 0.1},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_an_objective_cannot_do_is_refused_with_the_settings(message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed({"train": WRONG[message]})


def test_processes_share_a_batch_equally_too() -> None:
    train = changed({"train": {"objective": "dpo", "batch_size": 8}}).train
    assert unequal_parts(train, processes=4) is None
    fault = unequal_parts(train, processes=3)
    assert fault is not None
    assert fault.startswith("train.batch_size = 8 cannot be divided by 3 processes x 1 micro batch")
    assert fault.endswith("make it a multiple of 6")


@pytest.mark.parametrize("objective", ["dspo", "nft"])
def test_masked_models_have_no_predictions_to_compare(objective: str) -> None:
    with pytest.raises(InputError, match=f"{objective} compares the predictions .* amused has not"):
        changed({"generator": {"family": "amused"}, "train": {"objective": objective}})


def test_masked_models_choose_what_is_hidden() -> None:
    drawn = {"draw": "uniform", "mean": 0.0, "std": 1.0, "snr_gamma": None}
    with pytest.raises(InputError, match="the family meissonic draws its own"):
        changed({"generator": {"family": "meissonic"}, "train": {"timesteps": drawn}})


def test_a_cache_that_is_not_used_may_stand_there() -> None:
    assert changed({"train": CACHED | {"objective": "sft", "draws": 2}}).train.draws == 2
