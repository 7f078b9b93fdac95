"""Our training loop and the passes it cannot do without, as contenders of `benchmarks.train`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.train_rows import Place, with_train
from tgo.pipeline import runtime
from tgo.pipeline.generators import load_generator
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.distributed import Ranks
from tgo.trainer.learner import Learner
from tgo.trainer.loggers import Loggers
from tgo.trainer.metrics import summary
from tgo.trainer.objectives import load_objective
from tgo.trainer.policy import PolicyAndReference
from tgo.trainer.reference_cache import load_cache
from tgo.trainer.speed import Speed, peak
from tgo.trainer.stream import Stream
from tgo.trainer.train_log import TrainLog

LOG_EVERY = 10


class Loop:
    """Our loop as `tgo train` runs it, without checkpoints; ``changes`` are to `train`."""

    def __init__(self, place: Place, device: torch.device, changes: Mapping[str, Any]) -> None:
        settings = with_train(place.settings, changes)
        train, objective = settings.train, load_objective(settings.train)
        rows = LabelledRows(place.scored, place.labelled, place.embeddings)
        family = load_generator(settings.generator, device=str(device))
        cache = load_cache(place.reports / "references", rows, family, objective, train)
        with _deterministic():
            ranks = Ranks(device)
            self._learner = Learner(
                family, objective, train, rows.unconditional, ranks, cache=cache
            )
            fill = None if cache is None else partial(cache.fill, self._learner.measure, ranks)
            self.filled = None if fill is None else _seconds(fill)
            """Seconds that the reference's answers took, where they are kept."""
        pin = device.type == "cuda"
        self.batches = Stream(
            rows, seed=0, batch_size=train.batch_size, workers=train.workers, pin=pin
        ).batches()
        self.speed = Speed(self._learner.flops(next(self.batches)), peak(device))
        self._log = TrainLog(place.reports / "train_log.jsonl", "", Loggers())
        self._size, self._done = train.batch_size, 0
        self._waited = 0.0

    def __call__(self, steps: int) -> None:
        with _deterministic():
            for _ in range(steps):
                self._done += 1
                begin = time.perf_counter()
                batch = next(self.batches)
                self._waited += time.perf_counter() - begin
                self._learner.step(self._done, batch)
                if self._done % LOG_EVERY == 0:
                    sums = self._learner.statistics.read()
                    self._learner.statistics.reset()
                    line = {"step": self._done, **summary(sums)}
                    self._log.write(line, LOG_EVERY * self._size, self.speed)

    @property
    def wait(self) -> float:
        """Seconds per step spent waiting for the data stream."""
        return self._waited / self._done


class Bare:
    """Nothing but the passes of the loop's own networks, on one batch that lies on the device."""

    def __init__(self, place: Place, device: torch.device) -> None:
        train = place.settings.train
        self._family = load_generator(place.settings.generator, device=str(device))
        self._networks = PolicyAndReference(
            self._family, train, Ranks(device), needs_reference=True
        )
        rows = LabelledRows(place.scored, place.labelled, place.embeddings)
        batch = next(Stream(rows, seed=0, batch_size=train.batch_size).batches()).to(device)
        self._latents, self._conditions = batch.latents.float(), batch.conditions
        drawn = self._family.corrupt(batch.latents.cpu(), torch.Generator().manual_seed(0))
        self._corruption = type(drawn)(*(part.to(device) for part in drawn))

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            with self._networks.reference() as network:
                reference = self._log_likelihood(network)
            found = self._log_likelihood(self._networks.policy)
            (reference - found).mean().backward()
            for parameter in self._networks.parameters:
                parameter.grad = None

    def _log_likelihood(self, network: nn.Module) -> Tensor:
        given = (self._latents, self._conditions, self._corruption)
        with self._networks.autocast():
            return self._family.log_likelihood(network, *given, temperature=1.0).values


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic algorithms, as in `tgo train`; the other contenders run without them."""
    runtime.ask_for_determinism()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
