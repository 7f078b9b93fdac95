"""What each objective needs, so that settings it cannot follow are refused before anything loads.

The objectives themselves are in `trainer/objectives/`, which imports torch; a test holds this table
against them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from tgo.pipeline.generators import MASKED

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train


class Needs(NamedTuple):
    """What an objective is given."""

    rows: Literal["labelled rows", "positives", "pairs"] = "labelled rows"
    reference: bool = True
    """Whether the reference model is asked, too."""
    follows_beta: bool = False
    """Whether `beta: auto` has a sigmoid to follow."""
    predictions: bool = False
    """Whether it compares predictions, which a masked family does not have."""


NEEDS = {
    "tgo": Needs(follows_beta=True),
    "sft": Needs("positives", reference=False),
    "csft": Needs(reference=False),
    "kto": Needs(follows_beta=True),
    "bco": Needs(follows_beta=True),
    "dpo": Needs("pairs", follows_beta=True),
    "dspo": Needs("pairs", predictions=True),
    "mapo": Needs("pairs", reference=False),
    "rwr": Needs(reference=False),
    "lair": Needs(),
    "nft": Needs(predictions=True),
}


def refuse_impossible(train: Train, family: str) -> None:
    """Check that an objective can do what is asked of it.

    Args:
        train: the settings of stage three.
        family: `generator.family`.

    Raises:
        ValueError: with the key, what is wrong and what to set.
    """
    if train.objective not in NEEDS:
        raise ValueError(
            f"train.objective: unknown objective {train.objective!r}; choose one of "
            f"{', '.join(NEEDS)}"
        )
    for fault in _faults(train, family, NEEDS[train.objective]):
        raise ValueError(fault)


def unequal_parts(train: Train, processes: int = 1) -> str | None:
    """What is wrong if a batch cannot be shared equally by processes and micro batches."""
    pairs = NEEDS[train.objective].rows == "pairs"
    parts = processes * train.gradient_accumulation_steps * (2 if pairs else 1)
    if train.batch_size % parts == 0:
        return None
    what = f"{processes} processes x " if processes > 1 else ""
    what += f"{train.gradient_accumulation_steps} micro batches{' of pairs' if pairs else ''}"
    return (
        f"train.batch_size = {train.batch_size} cannot be divided by {what} (objective "
        f"{train.objective}); make it a multiple of {parts}"
    )


def _faults(train: Train, family: str, needs: Needs) -> Iterator[str]:
    name = train.objective
    if isinstance(train.beta, str) and not needs.follows_beta:
        yield f"train.beta: auto follows the sigmoid of rhat, which {name} has not; set a number"
    if train.reference == "epoch" and not needs.reference:
        yield (
            f"train.reference: {name} uses no reference, so there is none to renew; set it to "
            "initial"
        )
    if train.positives is not None and needs.rows != "labelled rows":
        yield f"train.positives: {name} takes {needs.rows}, not both classes; set it to null"
    if fault := unequal_parts(train):
        yield fault
    if family in MASKED and needs.predictions:
        yield (
            f"train.objective: {name} compares the predictions of two networks, which the family "
            f"{family} has not; choose another one"
        )
    drawn = train.timesteps
    if family in MASKED and not (drawn.draw == "family" and drawn.snr_gamma is None):
        yield (
            f"train.timesteps: the family {family} draws its own; set draw to family and snr_gamma "
            "to null"
        )
    if needs.reference and train.reference_cache is not None:
        yield from _cache_faults(train, needs)


def _cache_faults(train: Train, needs: Needs) -> Iterator[str]:
    """What a fixed set of corruptions of whole prompts cannot serve."""
    if needs.predictions:
        yield (
            f"train.reference_cache: {train.objective} needs the reference's predictions, and "
            "likelihoods alone are kept; set it to null"
        )
    for key, wrong, value in (
        ("train.reference", train.reference != "initial", "initial"),
        ("train.prompt_dropout", train.prompt_dropout > 0, "0"),
        ("train.positives", train.positives is not None, "null"),
        ("train.draws", train.draws > 1, "1"),
        ("train.timesteps.draw", train.timesteps.draw != "family", "family"),
        ("train.timesteps.snr_gamma", train.timesteps.snr_gamma is not None, "null"),
    ):
        if wrong:
            yield (
                f"train.reference_cache: what it keeps holds for {key} = {value} alone; set that, "
                "or the cache to null"
            )
