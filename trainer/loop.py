"""The training loop: steps, log lines, sample images and checkpoints, until the end or a signal."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from tqdm import tqdm

from tgo.pipeline.errors import InputError
from tgo.pipeline.training_log import health
from tgo.trainer.checkpoints import Checkpoint
from tgo.trainer.metrics import DivergedError, summary
from tgo.trainer.optimizers import learning_rates
from tgo.trainer.shuffle import Position
from tgo.trainer.speed import Speed, peak
from tgo.trainer.stream import START

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.trainer.balanced_stream import BalancedStream
    from tgo.trainer.bucketed_stream import BucketedStream
    from tgo.trainer.checkpoints import Checkpoints
    from tgo.trainer.distributed import Ranks
    from tgo.trainer.held_out import HeldOut
    from tgo.trainer.learner import Learner
    from tgo.trainer.samples import Samples
    from tgo.trainer.signals import StopRequest
    from tgo.trainer.stream import Batch, Stream
    from tgo.trainer.train_log import TrainLog

logger = logging.getLogger(__name__)


class CollapsedError(InputError):
    """A run that was stopped because its model forgot what is good."""


class TrainingLoop:
    """This process's part of a run: from its newest checkpoint to the last step or a signal."""

    def __init__(
        self,
        train: Train,
        learner: Learner,
        checkpoints: Checkpoints,
        log: TrainLog,
        samples: Samples,
        ranks: Ranks,
        held_out: HeldOut | None = None,
    ) -> None:
        self._held_out = held_out
        self._train, self._learner, self._ranks = train, learner, ranks
        self._checkpoints, self._log, self._samples = checkpoints, log, samples
        self._step, self._position = 0, START
        self._rate = learning_rates(train)
        self._flops: dict[torch.Size, float | None] = {}  # of an image, by shape of latents
        self._seen: Counter[torch.Size] = Counter()  # batches since the last line, by shape

    def continue_from(self, checkpoint: Checkpoint) -> None:
        """Take up the state of an earlier process."""
        self._step = checkpoint.step
        self._position = Position(*checkpoint.progress["position"])
        self._learner.load(checkpoint, self._position.epoch)
        self._learner.statistics.reset(checkpoint.progress["sums"])
        logger.info("train: continuing after step %d of %d", self._step, self._train.steps)

    def run(self, stream: Stream | BalancedStream | BucketedStream, stop: StopRequest) -> None:
        """Do the steps that are left, logging and saving on the way.

        Args:
            stream: the labelled rows in batches.
            stop: whether a signal asked this process to end.

        Raises:
            InputError: the loss diverged, or the model collapsed.
            SystemExit: a signal asked the run to end; a checkpoint was written.
        """
        train = self._train
        if self._step == 0:
            self._draw_samples()
        with self._bar() as bar, closing(stream.batches(self._position)) as batches:
            while self._step < train.steps:
                self._take_step(next(batches))
                bar.update(train.batch_size)
                if self._step % train.log_every == 0:
                    bar.set_postfix(self._write_log_line())
                self._draw_samples()
                due = self._step % train.checkpoint_every == 0 or self._step == train.steps
                received = self._ranks.max(stop.received or 0)
                if (due or received) and not self._collapsing():
                    self._save()
                if received:
                    self._leave(signal.Signals(received))
        # what is left for a last line stays in the last checkpoint, for a longer run to continue
        if self._step % train.log_every:
            self._write_log_line()

    def _take_step(self, batch: Batch) -> None:
        shape = batch.latents.shape[1:]
        if shape not in self._flops and not self._ranks.sharded:
            self._measure_flops(shape, batch)
        self._seen[shape] += 1
        self._step += 1
        self._learner.step(self._step, batch)
        self._learner.end_of_batch(batch.position.epoch)
        self._position = batch.position

    def _measure_flops(self, shape: torch.Size, batch: Batch) -> None:
        began = time.monotonic()
        try:
            self._flops[shape] = self._learner.flops(batch)
        except torch.OutOfMemoryError:  # activations are all held for this, whatever is set
            torch.cuda.empty_cache()
            self._flops[shape] = None
            logger.warning("train: too little memory to count FLOPs: the log has no tflops and mfu")
        self._log.pause(time.monotonic() - began)

    def _speed(self) -> Speed:
        """What the images since the last log line cost, on the mean."""
        one = peak(self._ranks.device)
        known = [self._flops.get(shape) for shape in self._seen]
        flops = None
        if known and None not in known:
            total = sum((self._flops[shape] or 0) * count for shape, count in self._seen.items())
            flops = total / self._seen.total()
        self._seen.clear()
        return Speed(flops, None if one is None else one * self._ranks.size)

    def _draw_samples(self) -> None:
        """Sample images where they are due; their time is not training's."""
        if self._samples.due(self._step):
            began = time.monotonic()
            self._samples.draw(self._step, self._learner)
            self._log.pause(time.monotonic() - began)

    def _write_log_line(self) -> dict[str, str]:
        """Write the log line of the steps since the one before; returns its gist for the bar."""
        sums = self._sums()
        self._learner.statistics.reset()
        size = self._train.batch_size
        values = summary(sums)
        line: dict[str, Any] = {
            "step": self._step,
            "samples_seen": self._step * size,
            "epoch": self._position.epoch,
            "learning_rate": self._rate(self._step),
            **values,
            **(self._held_out.judge() if self._held_out else {}),
        }
        line["unhealthy"] = health.unhealthy([*self._log.lines, line])
        timing = self._log.write(line, int(sums["steps"]) * size, self._speed())
        self._stop_if_collapsed()
        shown = {key: values.get(key) for key in ("loss", "margin", "accuracy")}
        shown |= {"img/s": timing["images_per_second"], "mfu": timing["mfu"]}
        return {key: f"{value:.3g}" for key, value in shown.items() if value is not None}

    def _sums(self) -> dict[str, float]:
        """Statistics since the last line; ends a run that has diverged."""
        try:
            return self._learner.statistics.read()
        except DivergedError as error:
            raise DivergedError(f"{error}; {self._checkpoints.last_good()}") from None

    def _collapsing(self) -> bool:
        """Whether the last line shows the model forgetting: then no checkpoint is written."""
        lines = self._log.lines
        return bool(lines) and bool(health.collapsing(lines, self._train.collapse))

    def _stop_if_collapsed(self) -> None:
        """End a run that forgets what is good; the last checkpoint is from before it began."""
        if reason := health.collapsed(self._log.lines, self._train.collapse):
            raise CollapsedError(
                f"train: collapsed by step {self._step}: {reason}; lower train.learning_rate "
                "or raise train.beta (train.collapse has the limits); "
                f"{self._checkpoints.last_good()}"
            )

    def _save(self) -> None:
        """Write a checkpoint, unless the loss has diverged: then the one before is the last."""
        sums = self._sums()
        self._samples.flush()
        progress = {"position": list(self._position), "sums": list(sums.values())}
        self._checkpoints.save(
            Checkpoint(self._step, progress, log=self._log.text, **self._learner.state())
        )

    def _leave(self, received: signal.Signals) -> NoReturn:
        saved = "unsaved, as the model is collapsing," if self._collapsing() else "and saved"
        logger.warning(
            "train: %s: stopped %s after step %d; run again to go on",
            received.name,
            saved,
            self._step,
        )
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
