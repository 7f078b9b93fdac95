"""What saves memory, in every combination: it trains and resumes to the bit, or is refused."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.miniature import Place
from tests.trainer.test_samples import images, sampling
from tests.trainer.test_train import run, same
from tgo.pipeline.config.settings import Settings, validate
from tgo.pipeline.errors import InputError

LORA = {"rank": 2, "alpha": 4.0, "targets": None}
METHODS = {None: "torch", "int8": "torchao", "nf4": "bitsandbytes"}
PRECISIONS = ("float32", "bfloat16")
COMBINATIONS = [
    (*weights, *both)
    for weights in product(METHODS, (None, LORA), PRECISIONS)
    for both in ((False, False), (True, True))
]
COMBINATIONS += [(None, LORA, "float32", False, True), (None, LORA, "float32", True, False)]


def settings_of(model: Path, root: Path, combination: tuple[Any, ...], steps: int) -> Settings:
    """Settings with sample images, so that text encoders and VAE are used, too."""
    quantization, lora, precision, checkpointing, waits = combination
    train = {"lora": lora, "precision": precision, "gradient_checkpointing": checkpointing}
    options = train | {"batch_size": 4, "steps": steps, "log_every": 1, "checkpoint_every": 1}
    values = sampling(model, root, prompts=1, every=2, **options).model_dump(mode="json")
    values["generator"] |= {"quantization": quantization, "offload": waits, "vae_tiling": waits}
    return validate(values, origin="test")


def name_of(combination: tuple[Any, ...]) -> str:
    quantization, lora, precision, checkpointing, waits = combination
    told = [quantization, "lora" if lora else "full", precision]
    told += ["checkpointing" if checkpointing else None, "offload and tiles" if waits else None]
    return ", ".join(filter(None, told))


@pytest.mark.slow
@pytest.mark.parametrize("combination", COMBINATIONS, ids=name_of)
@pytest.mark.usefixtures("on_any_device")
def test_a_combination_resumes_to_the_bit_or_is_refused(
    model: Path, place: Place, combination: tuple[Any, ...]
) -> None:
    quantization, lora, *_ = combination
    pytest.importorskip(METHODS[quantization])
    if quantization and not lora:
        with pytest.raises(InputError, match=r"generator\.quantization = .*so train\.lora must"):
            settings_of(model, place.root, combination, 2)
        return
    whole = run(settings_of(model, place.root, combination, 2), place, "whole")
    run(settings_of(model, place.root, combination, 1), place)
    assert same(run(settings_of(model, place.root, combination, 2), place), whole)
    assert images(place, "run") == images(place, "whole")
