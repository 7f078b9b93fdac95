from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from tgo.pipeline.errors import InputError
from tgo.trainer import checkpoints
from tgo.trainer.checkpoints import Checkpoint, Checkpoints

RUN = {"train": {"beta": 1.0, "seed": 0}, "code": "a"}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", RUN, said.append)


def make(step: int) -> Checkpoint:
    parameter = torch.nn.Parameter(torch.full((3,), float(step)))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return Checkpoint(
        step=step,
        progress={"position": [1, step], "sums": [0.1, 2.0]},
        network={"w": parameter},
        ema={"w": parameter.detach() / 2},
        optimizer=optimizer.state_dict(),
        log=f'{{"step": {step}}}\n',
        objective={"shift": 0.1},
        reference={"w": torch.ones(3)},
    )


def folder(store: Checkpoints, step: int) -> Path:
    return store._folder / f"step-{step:08d}"


def test_a_checkpoint_comes_back(store: Checkpoints) -> None:
    saved = make(5)
    store.save(saved)
    found = store.newest(at_most=5)
    assert found is not None
    assert (found.step, found.progress, found.log) == (5, saved.progress, saved.log)
    assert torch.equal(found.network["w"], saved.network["w"])
    assert torch.equal(found.ema["w"], saved.ema["w"])
    state, expected = found.optimizer["state"][0], saved.optimizer["state"][0]
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert found.optimizer["param_groups"] == saved.optimizer["param_groups"]
    assert found.objective == saved.objective == {"shift": 0.1}
    assert found.reference is not None
    assert torch.equal(found.reference["w"], torch.ones(3))


def test_the_last_two_stay_and_the_newest_is_used(store: Checkpoints) -> None:
    assert store.newest(at_most=100) is None
    for step in (5, 10, 15):
        store.save(make(step))
    assert [path.name for path in store._complete()] == ["step-00000010", "step-00000015"]
    found = store.newest(at_most=100)
    assert found is not None
    assert found.step == 15


@pytest.mark.parametrize(
    "name",
    ["network.safetensors", "ema.safetensors", "optimizer.pt", "train_log.jsonl", "state.json"],
)
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_one_is_named_and_the_one_before_used(
    store: Checkpoints, said: list[str], name: str, harm: str
) -> None:
    store.save(make(5))
    store.save(make(10))
    path = folder(store, 10) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if harm != "remove":
        path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
    found = store.newest(at_most=100)
    assert found is not None
    assert found.step == 5
    assert len(said) == 1
    assert "step-00000010: damaged" in said[0]
    assert name in said[0]
    assert not folder(store, 10).exists()


def test_another_run_is_never_continued(store: Checkpoints, said: list[str]) -> None:
    store.save(make(5))
    store.save(make(10))
    other = Checkpoints(store._folder, RUN | {"train": {"beta": 2.0, "seed": 0}}, said.append)
    assert other.newest(at_most=100) is None
    assert len(said) == 2
    assert "step-00000010: of another run (train.beta was 1.0, is 2.0); removed" in said[0]
    assert store._complete() == []


def test_fewer_steps_use_an_earlier_one(store: Checkpoints, said: list[str]) -> None:
    store.save(make(5))
    store.save(make(10))
    found = store.newest(at_most=7)
    assert found is not None
    assert found.step == 5
    assert "step-00000010: beyond train.steps = 7; removed" in said[0]


def test_half_written_folders_are_never_used_and_go(store: Checkpoints) -> None:
    store.save(make(5))
    leftover = store._folder / ".step-00000010.tmp"
    leftover.mkdir()
    (leftover / "network.safetensors").write_bytes(b"half")
    found = store.newest(at_most=100)
    assert found is not None
    assert found.step == 5
    store.save(make(10))
    assert not leftover.exists()


def test_a_full_disk_leaves_the_one_before(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(make(5))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(InputError, match=r"step-00000010: .*No space left.* make room"):
        store.save(make(10))
    assert [path.name for path in store._folder.iterdir()] == ["step-00000005"]
