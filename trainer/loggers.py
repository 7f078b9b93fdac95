"""Who is told of every log line and sample image: TensorBoard, Weights & Biases, DVCLive.

The files of the run, ``train_log.jsonl`` and the sample images, are the truth. A logger is a view
of them, so a run that goes on after a kill shows each point once: TensorBoard's files (a folder a
run) and those of DVCLive are written anew from the log when a run begins, and Weights & Biases,
which keeps what it was told, is not told again. None of it is part of byte identity.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import write_json

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Settings

log = logging.getLogger(__name__)
Line = Mapping[str, Any]
Pictures = Mapping[str, np.ndarray]
"""uint8 ``[H, W, 3]`` by prompt."""
EXTRA = "install it with `pip install 'tgo[loggers]'` or take it out of train.loggers"


class Logger(Protocol):
    """A view of a run; ``last`` is the step it was told of last, by an earlier process."""

    last: int

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one log line."""
        ...

    def pictures(self, step: int, pictures: Pictures) -> None:
        """The sample images of one step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


GROUPS = {
    "progress": ("samples_seen", "epoch", "learning_rate", "beta", "unhealthy"),
    "likelihood": (
        "log_likelihood_positive",
        "log_ratio_positive",
        "log_ratio_negative",
        "likelihood_change",
        "kl",
        "kl_to_margin",
    ),
    "speed": ("images_per_second", "tflops", "mfu"),
}
"""TensorBoard's groups of curves; what is in none of them is the objective's."""
_GROUP = {name: group for group, names in GROUPS.items() for name in names}


class TensorBoard:
    """Event files in ``folder``, which is this run's own: those of others stay comparable."""

    last = -1

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for earlier in folder.glob("events.out.tfevents.*"):
            earlier.unlink()
        self._writer = SummaryWriter(str(folder))

    def line(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{_GROUP.get(name, 'objective')}/{name}", value, step)

    def pictures(self, step: int, pictures: Pictures) -> None:
        for prompt, picture in pictures.items():
            self._writer.add_image(f"samples/{prompt}", picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class DvcLive:
    """Metrics, plots and a ``dvc.yaml`` of their own in ``folder``; `dvc plots show` finds it."""

    last = -1

    def __init__(self, folder: Path) -> None:
        try:
            from dvclive import Live
        except ImportError as error:
            raise InputError(f"train.loggers: no dvclive ({error}); {EXTRA}") from None
        shutil.rmtree(folder, ignore_errors=True)
        # the experiment is DVC's own affair, and the project's dvc.yaml is not ours to rewrite
        self._live = Live(
            str(folder), dvcyaml=str(folder / "dvc.yaml"), save_dvc_exp=False, report=None
        )

    def line(self, step: int, values: Mapping[str, float]) -> None:
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def pictures(self, step: int, pictures: Pictures) -> None:
        for number, picture in enumerate(pictures.values()):
            self._live.log_image(f"samples/{step:08d}-{number}.png", picture)

    def close(self) -> None:
        self._live.end()


class WandB:
    """A run of Weights & Biases (``WANDB_MODE=offline`` keeps it in ``folder``).

    ``told.json`` beside its files holds the run's name and the last step it was told of. It is
    written first: a kill in between may cost a point, but never doubles one.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, continues: bool) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError(f"train.loggers: no wandb ({error}); {EXTRA}") from None
        self._wandb, self._told = wandb, folder / "told.json"
        told: dict[str, Any] = {"id": uuid.uuid4().hex[:12], "step": -1}
        if continues and self._told.is_file():
            told = json.loads(self._told.read_text(encoding="utf-8"))
        self._id, self.last = told["id"], told["step"]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project="tgo",
                id=self._id,
                resume="allow",
                dir=str(folder),
                config=dict(settings),
                settings=wandb.Settings(console="off"),  # the progress bar is no log
            )
        except wandb.Error as error:
            raise InputError(
                f"train.loggers: wandb cannot begin ({error}); log in with `wandb login`, set "
                "WANDB_MODE=offline, or take it out"
            ) from None

    def line(self, step: int, values: Mapping[str, float]) -> None:
        self._note(step)
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, pictures: Pictures) -> None:
        self._note(step)
        shown = [self._wandb.Image(picture, caption=text) for text, picture in pictures.items()]
        self._run.log({"samples": shown}, step=step)

    def close(self) -> None:
        self._run.finish()

    def _note(self, step: int) -> None:
        write_json(self._told, {"id": self._id, "step": step})


class Loggers:
    """All loggers of a run, told in order by a thread of their own: training never waits.

    One whose files cannot be written any more (a full disk, a folder that was moved away) is told
    nothing further, with a warning: the log file of the run is the truth.
    """

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self._loggers = list(loggers)
        self._thread = ThreadPoolExecutor(1, "tgo-log")
        self._told: list[Future[None]] = []

    def line(self, line: Line) -> None:
        """The log line and its timing, as one; words and missing values are left out."""
        values = {
            key: float(value)
            for key, value in line.items()
            if isinstance(value, int | float) and key != "step"
        }
        if isinstance(line.get("unhealthy"), list):
            values["unhealthy"] = float(len(line["unhealthy"]))
        self._tell(line["step"], lambda logger: logger.line(line["step"], values))

    def pictures(self, step: int, pictures: Pictures) -> None:
        """Sample images, uint8 ``[H, W, 3]`` by prompt."""
        self._tell(step, lambda logger: logger.pictures(step, pictures))

    def close(self) -> None:
        """Tell what is left and end them; what went wrong on the way is raised here at last."""
        try:
            self._thread.shutdown()
            self._check()
        finally:
            for logger in list(self._loggers):
                self._guarded(logger, lambda each: each.close())

    def _tell(self, step: int, message: Callable[[Logger], None]) -> None:
        self._check()
        for logger in list(self._loggers):
            if step > logger.last:
                self._told.append(self._thread.submit(self._guarded, logger, message))

    def _guarded(self, logger: Logger, message: Callable[[Logger], None]) -> None:
        if logger not in self._loggers:
            return
        try:
            message(logger)
        except OSError as error:
            self._loggers.remove(logger)
            log.warning(
                "train.loggers: %s is told nothing more (%s); the training log goes on",
                type(logger).__name__.lower(),
                error,
            )

    def _check(self) -> None:
        """Raise what a logger raised."""
        for told in [told for told in self._told if told.done()]:
            self._told.remove(told)
            told.result()


def load_loggers(settings: Settings, reports: Path, *, run: str, continues: bool) -> Loggers:
    """The loggers of ``train.loggers``, each in a folder of its own name in ``reports``.

    Args:
        settings: All settings.
        reports: The folder that holds the loggers' folders.
        run: The name of the run, the same whenever the same run goes on.
        continues: Whether an earlier process got part of the way.

    Returns:
        One object that passes everything on to each of them.
    """
    make: dict[str, Callable[[Path], Logger]] = {
        "tensorboard": lambda folder: TensorBoard(folder / run),
        "dvclive": DvcLive,
        "wandb": lambda folder: WandB(
            folder, settings.model_dump(mode="json"), continues=continues
        ),
    }
    return Loggers([make[name](reports / name) for name in settings.train.loggers])
