"""Where a training run reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tgo.pipeline import layout


@dataclass(frozen=True)
class Paths:
    """Folders and files of a run; those of the stage `train` if nothing else is said."""

    scored: Path = layout.SCORED
    """Scored shards, as the stage `score` writes them."""
    embeddings: Path = layout.EMBEDDINGS
    """The embeddings of their prompts."""
    labelled: Path = layout.LABELLED
    """Labels and threshold, as the stage `label` writes them."""
    checkpoints: Path = layout.CHECKPOINTS
    """What a killed run continues from."""
    references: Path = layout.REFERENCES
    """The reference's log-likelihoods where ``train.reference_cache`` keeps them."""
    tuned: Path = layout.TUNED
    """The model folder that comes out."""
    log: Path = layout.TRAIN_LOG
    """JSON lines; timings and the folders of ``train.loggers`` lie beside it."""
    samples: Path = layout.SAMPLES
    """Images of fixed prompts, a strip every ``train.samples.every`` steps."""
