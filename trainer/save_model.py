"""What comes out of a run: a model folder with the averaged weights."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import nn

from tgo.pipeline import layout
from tgo.pipeline.cards import model_card
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.trainer import lora, lora_weights

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Settings
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.distributed import Ranks
    from tgo.trainer.learner import Learner
    from tgo.trainer.paths import Paths

PLAIN = {"dtype": "float32", "quantization": None, "offload": False}
"""How the network is read that adapters are merged into."""


def save_model(
    settings: Settings,
    family: Family,
    learner: Learner,
    paths: Paths,
    ranks: Ranks,
) -> None:
    """Write the averaged weights and a card as a model folder, named so once it is complete.

    Of several processes all must call; the first one writes. Adapters are merged into the model,
    and lie beside it as a file of their own.
    """
    tuned = paths.tuned
    network, taken = _result(settings, family, learner, ranks)
    if not ranks.is_main:
        return
    temporary, before = (tuned.with_name(f".{tuned.name}.{end}") for end in ("partial", "before"))
    try:
        tuned.parent.mkdir(parents=True, exist_ok=True)
        family.save(network, temporary)
        if taken is not None:
            lora_weights.write(taken, temporary)
        model_card.write(temporary, settings, paths.labelled / layout.THRESHOLD.name)
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


def _result(
    settings: Settings, family: Family, learner: Learner, ranks: Ranks
) -> tuple[nn.Module, lora_weights.Adapters | None]:
    """The network with the averaged weights in it, plain and in float32, and adapters if any."""
    train = settings.train
    if train.lora is None and not ranks.sharded:
        return learner.averaged(), None
    averages = learner.averages()
    if not ranks.is_main:
        return family.network, None
    # what was trained has its weights in parts, or its frozen ones in bfloat16
    fresh = load_generator(settings.generator.model_copy(update=PLAIN)).network
    if train.lora is None:
        fresh.load_state_dict(dict(averages), strict=False)
        return fresh, None
    lora.add(fresh, train.lora, family, train.seed)
    lora.load(fresh, averages)
    taken = lora_weights.take(fresh)
    lora.merge(fresh)
    return fresh, taken
