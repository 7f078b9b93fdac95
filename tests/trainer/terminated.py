"""One process of a training run that torchrun starts; ROOT MODEL NAME UPDATE are its arguments.

After UPDATE the last process terminates torchrun, as a scheduler does that takes the machine back.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.trainer.miniature import Place, make_settings
from tgo.pipeline import logs
from tgo.trainer import train
from tgo.trainer.learner import Learner


def main(root: str, model: str, name: str, last: str) -> None:
    original = Learner.step

    def step(self: Learner, number: int, batch: Any) -> None:
        original(self, number, batch)
        if number == int(last) and os.environ["RANK"] == "1":
            os.kill(os.getppid(), signal.SIGTERM)

    logs.configure()
    Learner.step = step  # type: ignore[method-assign]
    place, settings = Place(Path(root)), make_settings(Path(model), steps=40, checkpoint_every=30)
    train.run(settings, place.paths(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
