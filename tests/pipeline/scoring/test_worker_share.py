from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline.errors import InputError
from tgo.pipeline.scoring.worker_share import ALL, Share, from_environment


def test_without_a_launcher_one_process_takes_all() -> None:
    assert from_environment({}) == ALL
    assert ALL.is_all


def test_torchrun_and_slurm_arrays_say_who_a_worker_is() -> None:
    assert from_environment({"RANK": "3", "WORLD_SIZE": "8"}) == Share(3, 8)
    array = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}
    assert from_environment({"SLURM_ARRAY_TASK_ID": "4", **array}) == Share(3, 4)
    stepped = array | {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_STEP": "2"}
    assert from_environment(stepped) == Share(2, 4)
    assert str(Share(3, 8)) == "worker 4 of 8"


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 40))
def test_shares_are_disjoint_and_leave_nothing_out(tasks: int, ranks: int, shards: int) -> None:
    shares = [
        from_environment(
            {
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_COUNT": str(tasks),
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
            }
        )
        for task in range(tasks)
        for rank in range(ranks)
    ]
    taken = [number for share in shares for number in range(shards)[share.rank :: share.count]]
    assert sorted(taken) == list(range(shards))


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RANK": "1"}, "WORLD_SIZE: is not set"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK = 'x' is no whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "worker 2 of 2 cannot be"),
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "2"}, "must have no gaps"),
    ],
)
def test_what_cannot_be_is_named(environment: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        from_environment(environment)
