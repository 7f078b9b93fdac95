"""Stage one in processes that may be killed: forked from one that has the imports behind it."""

from __future__ import annotations

import multiprocessing as mp
import os
import resource
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FAULTS = ("write", "fsync", "rename", "after rename")


def start(root: Path, generator: Path, rewards: dict[str, str], **options: Any) -> BaseProcess:
    """Start stage one on `root` in a process of its own."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(
        ["pipeline.score", "diffusers", "transformers", "tests.stage_one"]
    )
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
    fault: tuple[str, int] | None = None,
    file_limit: int | None = None,
    log: Path | None = None,
) -> None:
    import torch

    from pipeline.errors import InputError
    from rewards.panel import Panel
    from tests.stage_one import load_family, score_into

    torch.set_num_threads(1)
    if fault:
        _die_at(*fault)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        score_into(root, load_family(generator), Panel.load(rewards))
    except InputError as error:
        assert log is not None
        log.write_text(str(error))
        raise SystemExit(2) from None


def _die_at(where: str, number: int) -> None:
    """SIGKILL this process inside the `number`-th write, fsync or rename of a finished file."""
    import pyarrow.parquet as pq

    counts = 0

    def dying(original: Any, after: bool = False, half: bool = False) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal counts
            counts += 1
            if counts == number:
                if after:
                    original(*args, **kwargs)
                if half:
                    args[1].write(b"PAR1" + bytes(1000))
                    args[1].flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    if where == "write":
        pq.write_table = dying(pq.write_table, half=True)
    elif where == "fsync":
        os.fsync = dying(os.fsync)
    else:
        os.replace = dying(os.replace, after=where == "after rename")
