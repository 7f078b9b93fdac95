"""A training run in a process of its own that kills itself with SIGKILL at a chosen place.

    python -m tests.trainer.killed ROOT MODEL WORKERS PLACE NUMBER

PLACE is `update` (in the middle of update NUMBER), `save` (half through writing the checkpoint
of update NUMBER), `publish` (while the model folder is written) or `never`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline.generators.diffusion import Diffusion
from tests.trainer.miniature import Place, make_settings
from trainer import checkpoints, train
from trainer.learner import Learner


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(root: str, model: str, workers: str, where: str, number: str) -> None:
    if where == "update":
        original_terms = Learner.terms

        def terms(self: Learner, update: int, *rest: Any) -> Any:
            if update == int(number):
                die()
            return original_terms(self, update, *rest)

        Learner.terms = terms  # type: ignore[method-assign]
    elif where == "save":
        original_write = checkpoints.Checkpoints._write

        def write(self: checkpoints.Checkpoints, checkpoint: Any, folder: Path) -> None:
            if checkpoint.update == int(number):
                checkpoints.torch.save = die
            original_write(self, checkpoint, folder)

        checkpoints.Checkpoints._write = write  # type: ignore[method-assign]
    elif where == "publish":
        Diffusion.save = die  # type: ignore[method-assign,assignment]
    settings = make_settings(Path(model), workers=int(workers), updates=30, log_every=4)
    place = Place(Path(root))
    train.run(settings, **place.inputs, **place.outputs())


if __name__ == "__main__":
    main(*sys.argv[1:])
