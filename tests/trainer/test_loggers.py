from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.miniature import Place, make_settings
from tests.trainer.test_samples import sampling
from tests.trainer.test_train import CrashError, crash_at, run, same
from tgo.pipeline.errors import InputError
from tgo.trainer.loggers import Loggers


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every tag, from all event files, doubled points included."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=False).Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def pictures(folder: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {
        tag: [event.step for event in found.Images(tag)] for tag in found.Tags().get("images", [])
    }


def crash_and_go_on(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch, logger: str
) -> list[dict[str, Any]]:
    """Lines of a run of 12 steps that crashed at step 11, after its checkpoint of step 5."""
    settings = sampling(model, place.root, loggers=[logger], checkpoint_every=5, log_every=2)
    with monkeypatch.context() as patch:
        crash_at(patch, 10)
        with pytest.raises(CrashError):
            run(settings, place)
    done = run(settings, place)
    assert same(done, run(make_settings(model, log_every=2), place, "plain"))
    return done["lines"]


def test_tensorboard_shows_each_point_and_image_once_after_a_crash(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = crash_and_go_on(model, place, monkeypatch, "tensorboard")
    (folder,) = (place.root / "run/tensorboard").iterdir()  # one run, so one folder
    found = scalars(folder)
    assert found["objective/loss"] == [
        (line["step"], pytest.approx(line["loss"])) for line in lines
    ]
    rates = [(line["step"], pytest.approx(line["learning_rate"])) for line in lines]
    assert found["progress/learning_rate"] == rates
    assert [step for step, _ in found["speed/images_per_second"]] == [2, 4, 6, 8, 10, 12]
    assert {"speed/tflops", "progress/unhealthy", "objective/margin"} <= found.keys()
    assert list(pictures(folder).values()) == [[0, 3, 6, 9, 12]] * 2


def test_dvclive_shows_each_point_once_after_a_crash(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = crash_and_go_on(model, place, monkeypatch, "dvclive")
    folder = place.root / "run/dvclive"
    rows = (folder / "plots/metrics/loss.tsv").read_text().splitlines()[1:]
    found = [tuple(map(float, row.split("\t")[-2:])) for row in rows]
    assert found == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    last = json.loads((folder / "metrics.json").read_text())
    assert last["loss"] == pytest.approx(lines[-1]["loss"])
    assert (folder / "dvc.yaml").is_file()
    assert len(list((folder / "plots/images/samples").glob("*.png"))) == 2 * 5


def test_weights_and_biases_is_told_each_point_once_by_one_run(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    lines = crash_and_go_on(model, place, monkeypatch, "wandb")
    folder = place.root / "run/wandb"
    sessions = sorted(folder.glob("wandb/offline-run-*"))
    assert len(sessions) == 2
    told = json.loads((folder / "told.json").read_text())
    assert all(path.name.endswith(told["id"]) for path in sessions)
    found = [row for path in sessions for row in history(path)]
    losses = [(row["_step"], row["loss"]) for row in found if "loss" in row]
    assert losses == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert [row["_step"] for row in found if "samples" in row] == [0, 3, 6, 9, 12]
    run(sampling(model, place.root, loggers=["wandb"], seed=5, steps=3), place)
    assert json.loads((folder / "told.json").read_text())["id"] != told["id"]


def history(session: Path) -> list[dict[str, Any]]:
    """What an offline run will send: its rows, in order."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (path,) = session.glob("*.wandb")
    store = DataStore()
    store.open_for_scan(str(path))
    rows = []
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {item.nested_key[0]: json.loads(item.value_json) for item in items}
            rows.append({"_step": record.history.step.num} | row)
    return rows


class Remembering:
    """A logger that keeps what it is told, and may refuse."""

    def __init__(self, last: int = -1, refuses: Exception | None = None) -> None:
        self.last, self.refuses, self.closed = last, refuses, False
        self.told: list[tuple[int, Mapping[str, Any]]] = []

    def line(self, step: int, values: Mapping[str, float]) -> None:
        if self.refuses:
            raise self.refuses
        self.told.append((step, values))

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        self.told.append((step, pictures))

    def close(self) -> None:
        self.closed = True


def test_lines_are_told_in_order_as_numbers_and_not_again() -> None:
    fresh, old = Remembering(), Remembering(last=4)
    loggers = Loggers([fresh, old])
    for step in range(1, 7):
        loggers.line({"step": step, "loss": 0.5, "margin": None, "unhealthy": ["a", "b"]})
    loggers.close()
    assert fresh.told == [(n, {"loss": 0.5, "unhealthy": 2.0}) for n in range(1, 7)]
    assert [step for step, _ in old.told] == [5, 6]
    assert fresh.closed
    assert old.closed


def test_a_logger_that_cannot_write_any_more_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, other = Remembering(refuses=OSError("no space left")), Remembering()
    loggers = Loggers([broken, other])
    for step in range(3):
        loggers.line({"step": step})
    loggers.close()
    assert [step for step, _ in other.told] == [0, 1, 2]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "train.loggers: remembering is told nothing more (no space left); the training log goes on"
    ]


def test_what_else_a_logger_raises_is_not_lost() -> None:
    loggers = Loggers([Remembering(refuses=ValueError("not a number"))])
    loggers.line({"step": 1})
    with pytest.raises(ValueError, match="not a number"):
        loggers.close()


def test_a_logger_that_is_not_installed_is_named(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(InputError, match=r"train\.loggers: no wandb .*take it out"):
        run(make_settings(model, loggers=["wandb"]), place)
