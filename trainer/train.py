"""Stage three: fine-tune the generator on the labelled shards.

``run`` is the stage. A run that ended early is continued by running it again: batch order and
noise follow from (seed, step), all else lies in the newest checkpoint, and on the CPU the
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
from tgo.pipeline.generators import load_generator, model_sha256
from tgo.pipeline.generators.base import Family
from tgo.pipeline.storage.locks import hold
from tgo.pipeline.training_log import health, sample_strips
from tgo.trainer.balanced_stream import BalancedStream, make_stream
from tgo.trainer.checkpoints import Checkpoint, Checkpoints
from tgo.trainer.csft_prompts import prefixed_tables
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.distributed import Ranks, check_settings, process_group
from tgo.trainer.fingerprint import fingerprint
from tgo.trainer.learner import Learner
from tgo.trainer.loggers import load_loggers
from tgo.trainer.metrics import summary
from tgo.trainer.objectives import load_objective
from tgo.trainer.reference_cache import load_cache
from tgo.trainer.samples import Samples
from tgo.trainer.save_model import save_model
from tgo.trainer.shuffle import Position
from tgo.trainer.signals import StopRequest, stop_requests
from tgo.trainer.speed import UNKNOWN, Speed, peak
from tgo.trainer.stream import START, Batch, Stream
from tgo.trainer.train_log import TrainLog
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
        log: JSON lines, one every ``train.log_every`` steps; timings and the folders of
            ``train.loggers`` go beside it.
        samples: images of fixed prompts, a strip every ``train.samples.every`` steps.
        references: the reference's answers where ``train.reference_cache`` keeps them.

    Raises:
        InputError: input is bad or missing, another run holds the folder, or the loss diverged.
        SystemExit: SIGTERM or SIGINT came; the step was finished and a checkpoint written.
    """
    train = settings.train
    objective = load_objective(train)
    device = torch.device(runtime.prepare(settings))
    if train.compile:
        runtime.require_compiler("train.compile")
    with (
        process_group(device, train.parallel) as ranks,
        hold(checkpoints) if ranks.is_main else nullcontext(),
        stop_requests() as stop,
    ):
        say = _say if ranks.is_main else _silent
        check_settings(train, objective, ranks)
        rows = LabelledRows(
            scored,
            labelled,
            embeddings,
            rows=objective.rows,
            per_row_value=objective.per_row_value,
            seeds=train.noise == "tracked",
        )
        family = _load_family(settings, rows, ranks.device)
        if objective.negative_prefix is not None:
            folder = checkpoints / ("conditions" if ranks.is_main else f"conditions-{ranks.rank}")
            rows.condition_negatives(
                prefixed_tables(family, objective.negative_prefix, scored, embeddings, folder)
            )
        stream = make_stream(rows, train, ranks)
        identity = fingerprint(train, family, rows, sharded=ranks.sharded)
        cache = load_cache(references, rows, family, objective, train)
        dtype = getattr(torch, settings.generator.dtype)
        learner = Learner(
            family,
            objective,
            train,
            rows.unconditional,
            ranks,
            noise_dtype=dtype,
            cache=cache,
        )
        if cache is not None:
            cache.fill(learner.measure, ranks)
        store = Checkpoints(checkpoints, identity, say, ranks)
        found = store.newest(at_most=train.steps)
        done = found.step if found else 0
        with (
            _own(settings, log, samples, ranks) as (told_of, log, samples),
            closing(load_loggers(told_of, log.parent, continues=done > 0)) as loggers,
            closing(Samples(told_of, family, samples, loggers, done=done, say=say)) as drawn,
        ):
            told = TrainLog(log, found.log if found else "", loggers)
            session = Session(train, learner, store, found, told, drawn, ranks)
            session.train(stream, stop)
        save_model(settings, family, learner, tuned, labelled, ranks)
        if ranks.is_main:
            sample_strips.belong_to(samples, model_sha256(settings.generator, tuned))
    return tuned


class CollapsedError(InputError):
    """A run that was stopped because its model forgot what is good."""


class Session:
    """This process's part of a run: from the newest checkpoint to the last step or a signal."""

    def __init__(
        self,
        train: Train,
        learner: Learner,
        checkpoints: Checkpoints,
        found: Checkpoint | None,
        log: TrainLog,
        samples: Samples,
        ranks: Ranks,
    ) -> None:
        self._train, self._learner, self._ranks = train, learner, ranks
        self._checkpoints, self._log, self._samples = checkpoints, log, samples
        self._step, self._position = 0, START
        self._speed = UNKNOWN
        if found:
            self._step, self._position = found.step, Position(*found.progress["position"])
            learner.load(found)
            learner.statistics.reset(found.progress["sums"])
            if ranks.is_main:
                _say(f"continuing after step {found.step} of {train.steps}")

    def train(self, stream: Stream | BalancedStream, stop: StopRequest) -> None:
        """Do the steps that are left, logging and saving on the way."""
        train = self._train
        if self._step == 0:
            self._draw()
        with self._bar() as bar, closing(stream.batches(self._position)) as batches:
            while self._step < train.steps:
                self._take_step(next(batches))
                bar.update(train.batch_size)
                if self._step % train.log_every == 0:
                    bar.set_postfix(self._tell())
                self._draw()
                due = self._step % train.checkpoint_every == 0 or self._step == train.steps
                received = self._ranks.max(stop.received or 0)
                if (due or received) and not self._collapsing():
                    self._save()
                if received:
                    self._leave(signal.Signals(received))
        # what is left for a last line stays in the last checkpoint, for a longer run to continue
        if self._step % train.log_every:
            self._tell()

    def _take_step(self, batch: Batch) -> None:
        if self._speed is UNKNOWN and not self._ranks.sharded:
            began = time.monotonic()
            one = peak(self._ranks.device)
            total = None if one is None else one * self._ranks.size
            self._speed = Speed(self._counted(batch), total)
            self._log.pause(time.monotonic() - began)
        self._step += 1
        self._learner.step(self._step, batch)
        if self._train.reference == "epoch" and batch.position.epoch > self._position.epoch:
            self._learner.renew_reference()
        self._position = batch.position

    def _counted(self, batch: Batch) -> float | None:
        """FLOPs of an image's share of a step; None where memory does not allow to count."""
        try:
            return self._learner.flops(batch)
        except torch.OutOfMemoryError:  # activations are all held for this, whatever is set
            torch.cuda.empty_cache()
            if self._ranks.is_main:
                _say("not enough memory to count FLOPs, so the log has no tflops and no mfu")
            return None

    def _draw(self) -> None:
        """Sample images where they are due; their time is not training's."""
        if self._samples.due(self._step):
            began = time.monotonic()
            self._samples.draw(self._step, self._learner)
            self._log.pause(time.monotonic() - began)

    def _tell(self) -> dict[str, str]:
        """Write the log line of the steps since the one before; returns its gist."""
        statistics = self._learner.statistics
        sums = statistics.read()
        statistics.reset()
        size = self._train.batch_size
        values = summary(sums)
        line: dict[str, Any] = {
            "step": self._step,
            "samples_seen": self._step * size,
            "epoch": self._position.epoch,
            **values,
        }
        line["unhealthy"] = health.unhealthy([*self._log.lines, line])
        timing = self._log.write(line, int(sums["steps"]) * size, self._speed)
        self._stop_if_collapsed()
        shown = {key: values.get(key) for key in ("loss", "margin", "accuracy")}
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
                f"train: collapsed by step {self._step}: {reason}; lower train.learning_rate "
                "or raise train.beta (train.collapse has the limits); the last good checkpoint "
                "is kept"
            )

    def _save(self) -> None:
        """Write a checkpoint, unless the loss has diverged: then the one before is the last."""
        sums = self._learner.statistics.read()
        self._samples.flush()
        progress = {"position": list(self._position), "sums": list(sums.values())}
        self._checkpoints.save(
            Checkpoint(self._step, progress, log=self._log.text(), **self._learner.state())
        )

    def _leave(self, received: signal.Signals) -> NoReturn:
        saved = "unsaved, as the model is collapsing," if self._collapsing() else "and saved"
        if self._ranks.is_main:
            _say(f"{received.name}: stopped {saved} after step {self._step}; run again to go on")
        raise SystemExit(128 + received)

    def _bar(self) -> tqdm:
        size = self._train.batch_size
        return tqdm(
            desc="train",
            total=self._train.steps * size,
            initial=self._step * size,
            unit="img",
            mininterval=1,
            disable=not self._ranks.is_main,
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
    settings: Settings, log: Path, samples: Path, ranks: Ranks
) -> Iterator[tuple[Settings, Path, Path]]:
    """Settings and places for what a process tells; of several only the first one is heard.

    What the others write lies in a folder of their own, which goes with them.
    """
    if ranks.is_main:
        yield settings, log, samples
        return
    train = settings.train.model_copy(update={"loggers": [], "samples": None})
    with TemporaryDirectory() as folder:
        yield settings.model_copy(update={"train": train}), Path(folder, log.name), Path(folder)


def _silent(line: str) -> None:
    """What every process would say, the first one has said."""


def _say(line: str) -> None:
    print(f"tgo train: {line}", file=sys.stderr)
