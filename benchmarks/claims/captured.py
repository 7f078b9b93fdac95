"""The trainer's step as one CUDA graph: a small network otherwise waits for kernel launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tgo.trainer.learner import Learner
from tgo.trainer.noise import NetworkInputs
from tgo.trainer.stream import Batch

EAGER = 3
"""Steps before the capture, in which libraries set themselves up."""


class _Held:
    """Replaces `InputBuilder`: returns inputs that stay at fixed addresses in GPU memory."""

    def __init__(self, given: NetworkInputs) -> None:
        self._given = given

    def build(self, step: int, batch: Batch) -> tuple[NetworkInputs, None]:
        return self._given, None


class Captured(Learner):
    """`Learner` on a GPU: the same step on the same draws, launched as a whole.

    Supports neither `train.reference_cache` nor `train.reference: epoch`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._draw = self._inputs
        self._schedule, self._rate = self._rate, lambda number: self._now  # type: ignore[assignment,return-value]
        self._now = torch.zeros((), device=self._device)
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=self._now,
            weight_decay=self._train.weight_decay,
            fused=True,
            capturable=True,
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        self.refused = ""
        """Why the step could not be captured and runs launch by launch; empty if it could."""
        self._side = torch.cuda.Stream()
        self._given: NetworkInputs | None = None
        self._batch: Batch | None = None

    def step(self, number: int, batch: Batch) -> None:
        given, _ = self._draw.build(number, batch)
        self._now.fill_(self._schedule(number))
        self._hold(given, batch.to(self._device))
        assert self._batch is not None
        if number > EAGER and self._graph is None and not self.refused:
            self._capture(number)
        if self._graph is not None:
            self._graph.replay()
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            super().step(number, self._batch)
        torch.cuda.current_stream().wait_stream(self._side)

    def _hold(self, given: NetworkInputs, batch: Batch) -> None:
        """Copy a step's inputs to the addresses that the graph reads."""
        if self._given is None:
            self._given, self._batch = given, batch
            self._inputs = _Held(given)  # type: ignore[assignment]
            return
        assert self._batch is not None
        into, new = _tensors(self._given, self._batch), _tensors(given, batch)
        for old, value in zip(into, new, strict=True):
            old.copy_(value)

    def _capture(self, number: int) -> None:
        assert self._batch is not None
        state, statistics = self._state, self.statistics
        first_bad = statistics._first_bad
        graph = torch.cuda.CUDAGraph()
        try:
            mode: dict[str, Any] = {"stream": self._side, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(graph, **mode):
                super().step(number, self._batch)
                # copy tensors that the step reallocated to the addresses the graph reads
                for name, value in state.items():
                    value.copy_(self._state[name])
                first_bad.copy_(statistics._first_bad)
            self._graph = graph
        except RuntimeError as error:
            self.refused = str(error).splitlines()[0]
        self._state, statistics._first_bad = state, first_bad


def _tensors(given: NetworkInputs, batch: Batch) -> list[Tensor]:
    """Everything of a step that changes from one to the next."""
    found = [
        given.latents,
        *given.corruption,
        *(given.conditions[k] for k in sorted(given.conditions)),
    ]
    found += [] if given.weight is None else [given.weight]
    return [*found, batch.target, batch.weight, batch.per_row_value]
