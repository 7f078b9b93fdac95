"""Stage one in processes that may be killed: forked from a server with all imports done."""

from __future__ import annotations

import multiprocessing as mp
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

FAULTS = ("sample", "encode", "write", "fsync", "rename", "after rename")
"""Places at which a process can be told to die: what stage one does, in its order."""


class Fault(NamedTuple):
    """SIGKILL inside the `number`-th call, from 1, at one of the places."""

    where: str
    number: int


def start(root: Path, generator: Path, rewards: dict[str, str], **options: Any) -> BaseProcess:
    """Start stage one on `root` in a process of its own."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.imports"])
    process = context.Process(target=_score, args=(root, generator, rewards), kwargs=options)
    process.start()
    return process


def finish(*args: Any, **options: Any) -> int:
    """Run stage one to its end; the exit code, negative for a signal."""
    process = start(*args, **options)
    process.join(300)
    assert process.exitcode is not None, "did not end"
    return process.exitcode


def _score(
    root: Path,
    generator: Path,
    rewards: dict[str, str],
    fault: Fault | None = None,
    file_limit: int | None = None,
    log: Path | None = None,
    made: Path | None = None,
    counted: Path | None = None,
    share: tuple[int, int] = (0, 1),
    resolution: list[list[int]] | None = None,
    **sizes: int,
) -> None:
    """Run stage one; write shards begun to `made` and calls per kill place to `counted`."""
    import torch

    from tests.stage_one import PROMPTS, load_family, score_into
    from tgo.pipeline.errors import InputError
    from tgo.pipeline.scoring.worker_share import Share
    from tgo.rewards.panel import Panel

    torch.set_num_threads(1)
    counts = _watch(fault)
    if made is not None:
        _note_beginnings(made)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        family, panel = load_family(generator, resolution=resolution), Panel.load(rewards)
        score_into(root, family, panel, PROMPTS, share=Share(*share), **sizes)
    except InputError as error:
        assert log is not None
        log.write_text(str(error))
        raise SystemExit(2) from None
    if counted is not None:
        counted.write_text("\n".join(f"{where}\t{count}" for where, count in counts.items()))


def _watch(fault: Fault | None) -> dict[str, int]:
    """Count the calls at each place, and die in the one that `fault` names."""
    from tgo.pipeline.scoring import sampling
    from tgo.pipeline.storage import shard_writer

    counts = dict.fromkeys(FAULTS, 0)

    def watched(where: str, call: Callable[..., Any], half: Callable[..., Any] = _nothing) -> Any:
        def instead(*args: Any, **kwargs: Any) -> Any:
            counts[where] += 1
            if fault == (where, counts[where]):
                half(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return instead

    def write_half(file: Any, data: bytes) -> None:
        file._file.write(bytes(data)[: len(data) // 2])
        file._file.flush()

    written = shard_writer._Hashing
    written.write = watched("write", written.write, write_half)  # type: ignore[method-assign]
    sampling.decode = watched("sample", sampling.decode)
    sampling.encode_png = watched("encode", sampling.encode_png)
    os.fsync = watched("fsync", os.fsync)
    replace = os.replace
    os.replace = watched("rename", watched("after rename", replace, half=replace))
    return counts


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _note_beginnings(made: Path) -> None:
    from tgo.pipeline.scoring.shard_builder import ShardBuilder

    make = ShardBuilder._make

    def noting(self: ShardBuilder, shard: Any) -> Any:
        with made.open("a") as file:
            print(shard.path.name, file=file)
        return make(self, shard)

    ShardBuilder._make = noting  # type: ignore[method-assign]
