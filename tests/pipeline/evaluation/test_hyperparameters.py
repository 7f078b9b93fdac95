"""TensorBoard shows settings and figures of an evaluated model."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.pipeline import finished_run
from tgo.pipeline.evaluation import hyperparameters


def test_settings_and_figures_are_there_once(tmp_path: Path) -> None:
    settings = finished_run.make_settings()
    figures = {"seen": {"won": 0.625, "gain": 0.25}, "hard": {"won": 0.5}}
    for _ in range(2):
        hyperparameters.write(settings, figures, tmp_path)
    (events,) = tmp_path.iterdir()
    found = EventAccumulator(str(events)).Reload()
    wanted = {"seen/won": 0.625, "seen/gain": 0.25, "hard/won": 0.5}
    shown = {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}
    assert {tag: [event.value for event in each] for tag, each in shown.items()} == {
        tag: [value] for tag, value in wanted.items()
    }
    tags = found.summary_metadata
    begun = plugin_data_pb2.HParamsPluginData.FromString(
        tags["_hparams_/session_start_info"].plugin_data.content
    )
    chosen = begun.session_start_info.hparams
    assert chosen["train.objective"].string_value == "tgo"
    assert chosen["train.learning_rate"].number_value == settings.train.learning_rate
    assert chosen["label.estimator"].string_value == "percentile"
