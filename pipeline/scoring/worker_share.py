"""Which of a run's shards this process makes: all of them, or the share of one worker of several.

Launchers tell their processes who they are by environment variables, and nothing else is needed:
shards are numbered, and each worker takes every `count`-th.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tgo.pipeline.errors import InputError


@dataclass(frozen=True)
class Share:
    """Worker `rank`, from 0, of `count`."""

    rank: int
    count: int

    @property
    def is_all(self) -> bool:
        return self.count == 1

    def __str__(self) -> str:
        return f"worker {self.rank + 1} of {self.count}"


ALL = Share(0, 1)


def from_environment(environment: Mapping[str, str] = os.environ) -> Share:
    """The share that torchrun (RANK, WORLD_SIZE) or a SLURM array gives this process.

    Where both do, each task of the array is split once more. Raises InputError naming the
    variable that is missing or impossible.
    """
    array = _slurm_array(environment)
    ranks = _pair(environment, "RANK", "WORLD_SIZE")
    return Share(array.rank * ranks.count + ranks.rank, array.count * ranks.count)


def _slurm_array(environment: Mapping[str, str]) -> Share:
    """Array ids may start anywhere and have a step: `--array=1-8`, `--array=0-14:2`."""
    id_name, count_name = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"
    if id_name not in environment and count_name not in environment:
        return ALL
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", "0")
    step = max(_number(environment, "SLURM_ARRAY_TASK_STEP", "1"), 1)
    place = (_number(environment, id_name) - first) // step
    return _checked(Share(place, _number(environment, count_name)), id_name, count_name)


def _pair(environment: Mapping[str, str], rank: str, count: str) -> Share:
    if rank not in environment and count not in environment:
        return ALL
    return _checked(Share(_number(environment, rank), _number(environment, count)), rank, count)


def _checked(share: Share, rank: str, count: str) -> Share:
    if not 0 <= share.rank < share.count:
        raise InputError(
            f"{rank}, {count}: worker {share.rank} of {share.count} cannot be (workers count from "
            "0; an array must have no gaps); correct or unset both variables"
        )
    return share


def _number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    value = environment.get(name, default)
    if value is None:
        raise InputError(f"{name}: is not set, but its partner is; set both or neither")
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{name} = {value!r} is no whole number; correct or unset it") from None
