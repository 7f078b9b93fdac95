from __future__ import annotations

from pathlib import Path

import yaml

from tgo.pipeline.config.train_settings import FREE, Train

STAGES = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]


def test_dvc_trains_again_when_a_setting_changes_that_decides_the_run() -> None:
    watched = {
        key.removeprefix("train.") for key in STAGES["train"]["params"] if key.startswith("train.")
    }
    assert Train.model_fields.keys() - watched <= FREE
    assert watched <= Train.model_fields.keys()
