"""What comes out of a run: a model folder with the averaged weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import Tensor, nn

from tgo.pipeline import layout
from tgo.pipeline.cards import model_card
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.pipeline.storage import trained_on
from tgo.trainer import lora

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Settings
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.distributed import Ranks
    from tgo.trainer.learner import Learner
    from tgo.trainer.paths import Paths


def save_model(
    settings: Settings,
    family: Family,
    learner: Learner,
    paths: Paths,
    ranks: Ranks,
) -> None:
    """Write the averaged weights and a card as a model folder, named so once it is complete.

    Of adapters they alone are written, with the name of the model that they are for. Of several
    processes all must call; the first one writes.
    """
    tuned = paths.tuned
    averages = learner.averages()  # gathered from all processes
    if not ranks.is_main:
        return
    temporary, before = (tuned.with_name(f".{tuned.name}.{end}") for end in ("partial", "before"))
    try:
        tuned.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        if settings.train.lora is None:
            whole = _loaded_again(settings, averages) if ranks.sharded else learner.averaged()
            family.save(whole, temporary)
        else:
            family.save_adapters(lora.take(family.network, averages), temporary)
        threshold = paths.labelled / layout.THRESHOLD.name
        model_card.write(temporary, settings, threshold)
        trained_on.note(temporary, settings.train, threshold)
        shutil.rmtree(before, ignore_errors=True)
        if tuned.exists():
            os.replace(tuned, before)
        os.replace(temporary, tuned)
        shutil.rmtree(before, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{tuned}: cannot be written ({error}); make room or mend the folder, then run "
            "`tgo train` again: it only has to write the model"
        ) from error


def _loaded_again(settings: Settings, averages: Mapping[str, Tensor]) -> nn.Module:
    """The network in float32 with averaged weights, where that which was trained lies in parts."""
    exact = {"dtype": "float32", "quantization": None, "offload": False}
    generator = settings.generator.model_copy(update=exact)
    network = load_generator(generator, lazy=True).network
    network.load_state_dict(dict(averages), strict=False)
    return network
