"""A training run, for a process of its own, that kills itself with SIGKILL at a chosen place."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.trainer.miniature import Place, make_settings
from tgo.pipeline.generators.diffusion import Diffusion
from tgo.trainer import checkpoints, train
from tgo.trainer.learner import Learner


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_run(
    root: Path, model: Path, workers: int, where: str, number: int, **changes: Any
) -> None:
    """Dies at `where`.

    In the middle of `step` ``number``, half through the `save` of its checkpoint, at `publish`,
    while the model folder is written, or `never`.
    """
    if where == "step":
        original_terms = Learner.terms

        def terms(self: Learner, step: int, *rest: Any) -> Any:
            if step == number:
                die()
            return original_terms(self, step, *rest)

        Learner.terms = terms  # type: ignore[method-assign,assignment]
    elif where == "save":
        original_write = checkpoints.Checkpoints._write

        def write(self: checkpoints.Checkpoints, checkpoint: Any, folder: Path) -> None:
            if checkpoint.step == number:
                checkpoints.torch.save = die
            original_write(self, checkpoint, folder)

        checkpoints.Checkpoints._write = write  # type: ignore[method-assign]
    elif where == "publish":
        Diffusion.save = die  # type: ignore[method-assign]
    settings = make_settings(model, workers=workers, steps=30, log_every=4, **changes)
    place = Place(root)
    train.run(settings, place.paths())
