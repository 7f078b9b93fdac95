"""What a model costs: by shipped figures, or counted from the config.json files that are here."""

from __future__ import annotations

import math
from pathlib import Path

from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators.base_model import adapted_model
from tgo.pipeline.tools import costs
from tgo.pipeline.tools.costs import Cost
from tgo.rewards.source import hub_id


def cost_of(settings: Settings) -> Cost | None:
    """The cost of the settings' model at their resolution.

    Figures of published models are shipped; those of any other folder, or of what lies in the hub's
    cache, are counted, for which torch is loaded. Nothing is fetched.

    Args:
        settings: those of the run.

    Returns:
        The cost; None where the model is neither known nor here.

    Raises:
        InputError: the family would not load the folder.
    """
    source = adapted_model(settings.generator.model)
    known = costs.known(source)
    changed = Path(source).is_dir() and settings.generator.resolution is not None
    if known is not None and not changed:
        return known.at(side_of(settings.generator.resolution))
    folder = _here(source)
    if folder is None:
        return None
    from tgo.pipeline.tools.counting import Counter

    counter = Counter(str(folder), settings.generator)
    return counter.cost(counter.conditions(), counter.text_encoders())


def side_of(resolution: int | list[list[int]] | None) -> int | None:
    """A side in pixels; of several sizes that of a square as large as the largest."""
    if isinstance(resolution, list):
        return round(math.sqrt(max(math.prod(size) for size in resolution)))
    return resolution


def _here(source: str) -> Path | None:
    """The model's folder on this machine, also in the hub's cache."""
    if Path(source).is_dir():
        return Path(source)
    if hub_id(source) is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "model_index.json")
    return Path(found).parent if isinstance(found, str) else None
