"""Stage three: fine-tune the generator on the labelled shards.

``run`` is the stage. A run that ended early is continued by running it again: batch order and
noise follow from (seed, update), all else lies in the newest checkpoint, and on the CPU the
result is that of an uninterrupted run to the bit.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from pipeline import health, layout, model_card, runtime
from pipeline.errors import InputError
from pipeline.generators import load_generator
from pipeline.generators.base import Family
from pipeline.locks import hold
from pipeline.settings import Settings
from pipeline.train_settings import Train
from trainer.checkpoints import Checkpoint, Checkpoints
from trainer.fingerprint import fingerprint
from trainer.journal import Log, summary
from trainer.learner import Learner
from trainer.loggers import load_loggers
from trainer.objectives import load_objective
from trainer.order import Position
from trainer.quality import prefixed_tables
from trainer.reference_cache import load_cache
from trainer.rows import LabelledRows
from trainer.samples import Samples
from trainer.signals import StopRequest, stop_requests
from trainer.speed import UNKNOWN, Speed, peak
from trainer.stream import START, Batch, Stream


def run(
    settings: Settings,
    *,
    scored: Path = layout.SCORED,
    labelled: Path = layout.LABELLED,
    embeddings: Path = layout.EMBEDDINGS,
    checkpoints: Path = layout.CHECKPOINTS,
    tuned: Path = layout.TUNED,
    log: Path = layout.TRAIN_LOG,
    samples: Path = layout.SAMPLES,
    references: Path = layout.REFERENCES,
) -> Path:
    """Stage `train`: from labelled shards to the model folder ``tuned``, which is returned.

    Args:
        scored, labelled, embeddings: what the stages `score` and `label` wrote.
        checkpoints: what a killed run continues from; checkpoints of other settings that lie
            there are named and removed.
        tuned: the model folder to write, with the averaged (EMA) weights.
        log: JSON lines, one every ``train.log_every`` updates; timings and the folders of
            ``train.loggers`` go beside it.
        samples: images of fixed prompts, a strip every ``train.samples.every`` updates.
        references: the reference's answers where ``train.reference_cache`` keeps them.

    Raises:
        InputError: input is bad or missing, another run holds the folder, or the loss diverged.
        SystemExit: SIGTERM or SIGINT came; the update was finished and a checkpoint written.
    """
    train = settings.train
    objective = load_objective(train)
    device = torch.device(runtime.prepare(settings))
    with hold(checkpoints), stop_requests() as stop:
        rows = LabelledRows(
            scored, labelled, embeddings, rows=objective.rows, signal=objective.signal
        )
        stream = Stream(
            rows,
            seed=train.seed,
            batch_size=train.batch_size,
            workers=train.workers,
            pin=device.type == "cuda",
        )
        family = _load_family(settings, rows, device)
        if objective.negative_prefix is not None:
            folder = checkpoints / "conditions"
            rows.condition_negatives(
                prefixed_tables(family, objective.negative_prefix, scored, embeddings, folder)
            )
        identity = fingerprint(train, family, rows)
        cache = load_cache(references, rows, family, objective, train)
        learner = Learner(family, objective, train, rows.unconditional, device, cache)
        if cache is not None:
            cache.fill(learner.measure)
        store = Checkpoints(checkpoints, identity, _say)
        found = store.newest(at_most=train.updates)
        done = found.update if found else 0
        with (
            closing(load_loggers(settings, log.parent, continues=done > 0)) as loggers,
            closing(Samples(settings, family, samples, loggers, done=done, say=_say)) as drawn,
        ):
            told = Log(log, found.log if found else "", loggers)
            Session(train, learner, store, found, told, drawn).train(stream, stop)
        publish(settings, family, learner, tuned, labelled)
    return tuned


class Session:
    """This process's part of a run: from the newest checkpoint to the last update or a signal."""

    def __init__(
        self,
        train: Train,
        learner: Learner,
        checkpoints: Checkpoints,
        found: Checkpoint | None,
        log: Log,
        samples: Samples,
    ) -> None:
        self._train, self._learner = train, learner
        self._checkpoints, self._log, self._samples = checkpoints, log, samples
        self._update, self._position = 0, START
        self._speed = UNKNOWN
        if found:
            self._update, self._position = found.update, Position(*found.progress["position"])
            learner.load(found)
            learner.statistics.reset(found.progress["sums"])
            _say(f"continuing after update {found.update} of {train.updates}")

    def train(self, stream: Stream, stop: StopRequest) -> None:
        """Do the updates that are left, logging and saving on the way."""
        train = self._train
        if self._update == 0:
            self._draw()
        with self._bar() as bar, closing(stream.batches(self._position)) as batches:
            while self._update < train.updates:
                self._step(next(batches))
                bar.update(train.batch_size)
                if self._update % train.log_every == 0:
                    bar.set_postfix(self._tell())
                self._draw()
                due = self._update % train.checkpoint_every == 0 or self._update == train.updates
                if (due or stop.received) and not self._collapsing():
                    self._save()
                if stop.received:
                    self._leave(stop.received)
        # what is left for a last line stays in the last checkpoint, for a longer run to continue
        if self._update % train.log_every:
            self._tell()

    def _step(self, batch: Batch) -> None:
        if self._speed is UNKNOWN:
            began = time.monotonic()
            self._speed = Speed(self._learner.flops(batch), peak(self._learner.device))
            self._log.pause(time.monotonic() - began)
        self._update += 1
        self._learner.update(self._update, batch)
        if self._train.reference == "epoch" and batch.position.epoch > self._position.epoch:
            self._learner.renew_reference()
        self._position = batch.position

    def _draw(self) -> None:
        """Sample images where they are due; their time is not training's."""
        if self._samples.due(self._update):
            began = time.monotonic()
            self._samples.draw(self._update, self._learner)
            self._log.pause(time.monotonic() - began)

    def _tell(self) -> dict[str, str]:
        """Write the log line of the updates since the one before; returns its gist."""
        statistics = self._learner.statistics
        sums = statistics.read()
        statistics.reset()
        size = self._train.batch_size
        values = summary(sums)
        line: dict[str, Any] = {
            "update": self._update,
            "images": self._update * size,
            "epoch": self._position.epoch,
            **values,
        }
        line["unhealthy"] = health.unhealthy([*self._log.lines, line])
        timing = self._log.write(line, int(sums["updates"]) * size, self._speed)
        self._stop_if_collapsed()
        shown = {key: values.get(key) for key in ("loss", "margin", "right_side")}
        shown |= {"img/s": timing["images_per_second"], "mfu": timing["mfu"]}
        return {key: f"{value:.3g}" for key, value in shown.items() if value is not None}

    def _collapsing(self) -> bool:
        """Whether the last line shows the model forgetting: then no checkpoint is written."""
        lines = self._log.lines
        return bool(lines) and bool(health.collapsing(lines, self._train.collapse))

    def _stop_if_collapsed(self) -> None:
        """End a run that forgets what is good; the last checkpoint is from before it began."""
        if reason := health.collapsed(self._log.lines, self._train.collapse):
            raise InputError(
                f"train: collapsed by update {self._update}: {reason}; lower train.learning_rate "
                "or raise train.beta (train.collapse has the limits); the last good checkpoint "
                "is kept"
            )

    def _save(self) -> None:
        """Write a checkpoint, unless the loss has diverged: then the one before is the last."""
        sums = self._learner.statistics.read()
        self._samples.flush()
        progress = {"position": list(self._position), "sums": list(sums.values())}
        self._checkpoints.save(
            Checkpoint(self._update, progress, log=self._log.text(), **self._learner.state())
        )

    def _leave(self, received: signal.Signals) -> NoReturn:
        saved = "unsaved, as the model is collapsing," if self._collapsing() else "and saved"
        _say(f"{received.name}: stopped {saved} after update {self._update}; run again to go on")
        raise SystemExit(128 + received)

    def _bar(self) -> tqdm:
        size = self._train.batch_size
        return tqdm(
            desc="train",
            total=self._train.updates * size,
            initial=self._update * size,
            unit="img",
            mininterval=1,
        )


def publish(
    settings: Settings, family: Family, learner: Learner, tuned: Path, labelled: Path
) -> None:
    """Write the averaged weights and a card as a model folder, named so once it is complete."""
    temporary, before = (tuned.with_name(f".{tuned.name}.{end}") for end in ("partial", "before"))
    try:
        tuned.parent.mkdir(parents=True, exist_ok=True)
        family.save(learner.averaged(), temporary)
        model_card.write(temporary, settings, labelled / layout.THRESHOLD.name)
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


def _load_family(settings: Settings, rows: LabelledRows, device: torch.device) -> Family:
    """The model to train, in float32 whatever type it samples in, checked against the codes."""
    exact = settings.generator.model_copy(update={"dtype": "float32"})
    family = load_generator(exact, device=str(device))
    if tuple(family.code_shape) != rows.code_shape:
        raise InputError(
            f"generator.model: {settings.generator.model} works on codes of shape "
            f"{tuple(family.code_shape)}, the scored shards hold {rows.code_shape}; "
            "run `tgo score` with this model"
        )
    return family


def _say(line: str) -> None:
    print(f"tgo train: {line}", file=sys.stderr)
