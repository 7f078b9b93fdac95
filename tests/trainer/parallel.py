"""Training runs of several processes, forked from a server with all imports done."""

from __future__ import annotations

import multiprocessing as mp
import os
from functools import partialmethod
from pathlib import Path
from typing import Any

from tests.workspace import free_port


def forking() -> Any:
    """A multiprocessing context whose new processes have the imports done and share no state."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.imports"])
    return context


def capturing(graphs: list[Any]) -> Any:
    """A `Module.compile` that lists the graphs and generates no code, which would take minutes."""
    import torch
    from torch._dynamo.backends.debugging import aot_eager

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    return partialmethod(torch.nn.Module.compile, backend=backend)


def announced(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment that torchrun gives a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def run(
    size: int, root: Path, model: Path, name: str = "run", **options: Any
) -> list[list[list[int]]]:
    """Train on ``size`` processes; for each of them the rows of each of its steps."""
    context = forking()
    port = free_port()
    queue = context.Queue()
    arguments = (queue, size, port, root, model, name, options)
    processes = [context.Process(target=_train, args=(rank, *arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=500) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [found[rank] for rank in range(size)]


def _train(
    rank: int,
    queue: Any,
    size: int,
    port: int,
    root: Path,
    model: Path,
    name: str,
    options: dict[str, Any],
) -> None:
    import torch

    from tests.trainer.miniature import Place, make_settings
    from tgo.trainer import train
    from tgo.trainer.learner import Learner

    os.environ |= announced(rank, size, port)
    seen: list[list[int]] = []
    original = Learner.step

    def noting(self: Learner, number: int, batch: Any) -> None:
        seen.append(batch.rows.tolist())
        original(self, number, batch)

    Learner.step = noting  # type: ignore[method-assign]
    torch.nn.Module.compile = capturing([])  # type: ignore[method-assign]
    place = Place(root)
    train.run(make_settings(model, **options), place.paths(name))
    queue.put((rank, seen))
