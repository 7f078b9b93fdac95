from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch

from tgo.pipeline.config.train_settings import Keep
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import aside
from tgo.trainer import checkpoints
from tgo.trainer.checkpoints import Checkpoint, Checkpoints

RUN = {"train": {"beta": 1.0, "seed": 0}, "code": "a"}


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", RUN)


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
    assert [path.name for path in store.complete()] == ["step-00000010", "step-00000015"]
    found = store.newest(at_most=100)
    assert found is not None
    assert found.step == 15


@pytest.mark.parametrize(
    "name",
    ["network.safetensors", "ema.safetensors", "optimizer.pt", "train_log.jsonl", "state.json"],
)
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_one_is_named_and_the_one_before_used(
    store: Checkpoints, caplog: pytest.LogCaptureFixture, name: str, harm: str
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
    (said,) = caplog.messages
    assert "step-00000010: damaged" in said
    assert name in said
    assert not folder(store, 10).exists()
    (entry,) = aside.entries(store._folder.parent)
    assert (entry.kind, entry.names) == ("damaged", ("step-00000010",))


def test_another_run_is_never_continued_and_comes_back_with_its_settings(
    store: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(make(5))
    store.save(make(10))
    other = Checkpoints(store._folder, RUN | {"train": {"beta": 2.0, "seed": 0}})
    assert other.newest(at_most=100) is None
    assert len(caplog.messages) == 2
    reason = "step-00000010: of another run (train.beta was 1.0, is 2.0); set aside in "
    assert reason in caplog.messages[0]
    assert store.complete() == []
    other.save(make(3))
    found = store.newest(at_most=100)
    assert found is not None
    assert found.step == 10
    assert [path.name for path in store.complete()] == ["step-00000005", "step-00000010"]
    found = other.newest(at_most=100)
    assert found is not None
    assert found.step == 3


def test_fewer_steps_use_an_earlier_one_and_more_the_later_again(
    store: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(make(5))
    store.save(make(10))
    found = store.newest(at_most=7)
    assert found is not None
    assert found.step == 5
    assert "step-00000010: beyond train.steps = 7; set aside" in caplog.messages[0]
    store.save(make(7))
    found = store.newest(at_most=12)
    assert found is not None
    assert found.step == 10


def test_files_of_other_names_are_left_alone(store: Checkpoints) -> None:
    store.save(make(5))
    copy = store._folder / "step-00000005.good"
    shutil.copytree(folder(store, 5), copy)
    notes = store._folder / "step-notes.txt"
    notes.write_text("mine")
    for step in (10, 15, 20):
        store.save(make(step))
    found = store.newest(at_most=100)
    assert found is not None
    assert found.step == 20
    assert (copy / "state.json").is_file()
    assert notes.read_text() == "mine"


def test_every_so_many_steps_one_stays(tmp_path: Path) -> None:
    keep = Keep(last=1, every=10)
    store = Checkpoints(tmp_path, RUN, keep=keep)
    for step in (5, 10, 15, 20, 25):
        store.save(make(step))
    assert [int(path.name[5:]) for path in store.complete()] == [10, 20, 25]


def test_what_cannot_be_read_is_no_damage(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(make(5))

    def refuse(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoints, "file_sha256", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Input/output error\)"):
        store.newest(at_most=100)
    assert folder(store, 5).is_dir()


def test_the_last_good_one_is_named_and_never_promised(store: Checkpoints) -> None:
    assert "no checkpoint was written" in store.last_good()
    store.save(make(5))
    assert str(folder(store, 5)) in store.last_good()


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
