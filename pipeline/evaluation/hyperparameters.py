"""TensorBoard's tab HPARAMS: the settings of a tuned model beside the figures of its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tgo.pipeline.config.settings import Settings


def write(settings: Settings, figures: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """Write event files of one evaluated model; those of others stay comparable.

    Args:
        settings: the run's; those of `label` and `train` that are one value are shown.
        figures: by test set and name.
        folder: this model's own.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    chosen = {
        f"{group}.{key}": value
        for group in ("label", "train")
        for key, value in getattr(settings, group).model_dump(mode="json").items()
        if isinstance(value, str | int | float | bool)
    }
    values = {f"{name}/{key}": value for name, row in figures.items() for key, value in row.items()}
    with SummaryWriter(str(folder)) as writer:
        for summary in hparams(chosen, dict.fromkeys(values, 0.0)):
            writer.file_writer.add_summary(summary)
        for name, value in values.items():
            writer.add_scalar(name, value, settings.train.steps)
