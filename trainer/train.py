"""Stage three: fine-tune the generator on the labelled shards.

``run`` is the stage. A run that ended early is continued by running it again: batch order and
noise follow from (seed, update), all else lies in the newest checkpoint, and on the CPU the
result is that of an uninterrupted run to the bit.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
from tgo.pipeline import layout, runtime
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.config.train_settings import Train
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.pipeline.generators.base import Family
from tgo.pipeline.storage.locks import hold
from tgo.pipeline.training_log import health
from tgo.trainer.checkpoints import Checkpoint, Checkpoints
from tgo.trainer.classes import ClassStream
from tgo.trainer.distributed import World, joined
from tgo.trainer.fingerprint import fingerprint
from tgo.trainer.journal import Log, summary
from tgo.trainer.learner import Learner
from tgo.trainer.loggers import load_loggers
from tgo.trainer.objectives import load_objective
from tgo.trainer.order import Position
from tgo.trainer.publish import publish
from tgo.trainer.quality import prefixed_tables
from tgo.trainer.reference_cache import load_cache
from tgo.trainer.rows import LabelledRows
from tgo.trainer.samples import Samples
from tgo.trainer.shares import check_world, make_stream
from tgo.trainer.signals import StopRequest, stop_requests
from tgo.trainer.speed import UNKNOWN, Speed, peak
from tgo.trainer.stream import START, Batch, Stream
from tqdm import tqdm


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
    if train.compile:
        runtime.require_compiler("train.compile")
    with (
        joined(device, train.parallel) as world,
        hold(checkpoints) if world.leads else nullcontext(),
        stop_requests() as stop,
    ):
        say = _say if world.leads else _silent
        check_world(train, objective, world)
        rows = LabelledRows(
            scored,
            labelled,
            embeddings,
            rows=objective.rows,
            signal=objective.signal,
            seeds=train.noise == "tracked",
        )
        family = _load_family(settings, rows, world.device)
        if objective.negative_prefix is not None:
            folder = checkpoints / ("conditions" if world.leads else f"conditions-{world.rank}")
            rows.condition_negatives(
                prefixed_tables(family, objective.negative_prefix, scored, embeddings, folder)
            )
        stream = make_stream(rows, train, world)
        identity = fingerprint(train, family, rows, sharded=world.sharded)
        cache = load_cache(references, rows, family, objective, train)
        dtype = getattr(torch, settings.generator.dtype)
        learner = Learner(
            family,
            objective,
            train,
            rows.unconditional,
            world,
            noise_dtype=dtype,
            cache=cache,
        )
        if cache is not None:
            cache.fill(learner.measure, world)
        store = Checkpoints(checkpoints, identity, say, world)
        found = store.newest(at_most=train.updates)
        done = found.update if found else 0
        with (
            _own(settings, log, samples, world) as (told_of, log, samples),
            closing(load_loggers(told_of, log.parent, continues=done > 0)) as loggers,
            closing(Samples(told_of, family, samples, loggers, done=done, say=say)) as drawn,
        ):
            told = Log(log, found.log if found else "", loggers)
            session = Session(train, learner, store, found, told, drawn, world)
            session.train(stream, stop)
        publish(settings, family, learner, tuned, labelled, world)
    return tuned


class CollapsedError(InputError):
    """A run that was stopped because its model forgot what is good."""


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
        world: World,
    ) -> None:
        self._train, self._learner, self._world = train, learner, world
        self._checkpoints, self._log, self._samples = checkpoints, log, samples
        self._update, self._position = 0, START
        self._speed = UNKNOWN
        if found:
            self._update, self._position = found.update, Position(*found.progress["position"])
            learner.load(found)
            learner.statistics.reset(found.progress["sums"])
            if world.leads:
                _say(f"continuing after update {found.update} of {train.updates}")

    def train(self, stream: Stream | ClassStream, stop: StopRequest) -> None:
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
                received = self._world.highest(stop.received or 0)
                if (due or received) and not self._collapsing():
                    self._save()
                if received:
                    self._leave(signal.Signals(received))
        # what is left for a last line stays in the last checkpoint, for a longer run to continue
        if self._update % train.log_every:
            self._tell()

    def _step(self, batch: Batch) -> None:
        if self._speed is UNKNOWN and not self._world.sharded:
            began = time.monotonic()
            one = peak(self._world.device)
            total = None if one is None else one * self._world.size
            self._speed = Speed(self._counted(batch), total)
            self._log.pause(time.monotonic() - began)
        self._update += 1
        self._learner.update(self._update, batch)
        if self._train.reference == "epoch" and batch.position.epoch > self._position.epoch:
            self._learner.renew_reference()
        self._position = batch.position

    def _counted(self, batch: Batch) -> float | None:
        """FLOPs of an image's share of an update; None where memory does not allow to count."""
        try:
            return self._learner.flops(batch)
        except torch.OutOfMemoryError:  # activations are all held for this, whatever is set
            torch.cuda.empty_cache()
            if self._world.leads:
                _say("not enough memory to count FLOPs, so the log has no tflops and no mfu")
            return None

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
            raise CollapsedError(
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
        if self._world.leads:
            _say(
                f"{received.name}: stopped {saved} after update {self._update}; run again to go on"
            )
        raise SystemExit(128 + received)

    def _bar(self) -> tqdm:
        size = self._train.batch_size
        return tqdm(
            desc="train",
            total=self._train.updates * size,
            initial=self._update * size,
            unit="img",
            mininterval=1,
            disable=not self._world.leads,
        )


def _load_family(settings: Settings, rows: LabelledRows, device: torch.device) -> Family:
    """The model to train, in float32 whatever type it samples in, checked against the latents."""
    exact = settings.generator.model_copy(update={"dtype": "float32"})
    family = load_generator(exact, device=str(device))
    if tuple(family.latent_shape) != rows.latent_shape:
        raise InputError(
            f"generator.model: {settings.generator.model} works on latents of shape "
            f"{tuple(family.latent_shape)}, the scored shards hold {rows.latent_shape}; "
            "run `tgo score` with this model"
        )
    return family


@contextmanager
def _own(
    settings: Settings, log: Path, samples: Path, world: World
) -> Iterator[tuple[Settings, Path, Path]]:
    """Settings and places for what a process tells; of several only the first one is heard.

    What the others write lies in a folder of their own, which goes with them.
    """
    if world.leads:
        yield settings, log, samples
        return
    train = settings.train.model_copy(update={"loggers": [], "samples": None})
    with TemporaryDirectory() as folder:
        yield settings.model_copy(update={"train": train}), Path(folder, log.name), Path(folder)


def _silent(line: str) -> None:
    """What every process would say, the first one has said."""


def _say(line: str) -> None:
    print(f"tgo train: {line}", file=sys.stderr)
