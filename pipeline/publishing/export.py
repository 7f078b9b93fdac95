"""`tgo export`: the tuned model, its card with scores and what they rest on, ready for the hub.

A folder of its own, because models/tuned is an output that DVC and the metrics know by its
checksum: a card written into it after the evaluation would make both out of date.

    models/export/README.md   the model card, with scores before and after
    models/export/...         the diffusers folder, or pytorch_lora_weights.safetensors alone
    models/export/tgo/        metrics.json, threshold.json, params.yaml, sample images
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

from tgo.pipeline import layout
from tgo.pipeline.cards import model_card, threshold_facts
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import model_sha256
from tgo.pipeline.storage import results
from tgo.pipeline.storage.results import FACTS
from tgo.pipeline.training_log import sample_strips

EVIDENCE = "tgo"


Kind = Literal["auto", "full", "lora"]
"""What is exported: ``auto`` is the adapters where training made some."""


def run(settings: Settings, params: Path, output: Path, kind: Kind = "auto") -> Path:
    """Write the folder ``output`` anew and return it.

    Raises:
        InputError: there is no tuned model, no metrics, or metrics of another model; no adapters
            where ``kind`` asks for them; or ``output`` is a folder that was not exported.
    """
    tuned = layout.TUNED
    if not (tuned / "model_index.json").is_file():
        raise InputError(f"{tuned}: holds no trained model; run `tgo train` first")
    has_adapters = (tuned / layout.LORA).is_file()
    if kind == "lora" and not has_adapters:
        raise InputError(
            f"{tuned}/{layout.LORA}: is missing; train with train.lora, or use --kind full"
        )
    lora = has_adapters and kind != "full"
    metrics, threshold = results.evaluation(), threshold_facts.read()
    _check_same(settings, metrics)
    if output.exists() and not (output / EVIDENCE).is_dir():
        raise InputError(f"{output}: exists and is no earlier export; choose another --output")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if lora:
        partial.mkdir(parents=True)
        shutil.copyfile(tuned / layout.LORA, partial / layout.LORA)
    else:
        shutil.copytree(tuned, partial, ignore=shutil.ignore_patterns(layout.LORA))
    pipeline = model_card.pipeline_of(tuned)
    card = model_card.render(settings, threshold, metrics, pipeline=pipeline, lora=lora)
    (partial / model_card.NAME).write_text(card, encoding="utf-8")
    _evidence(params, partial / EVIDENCE)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(partial, output)
    print(f"export: {output}; upload it with `hf upload USER/NAME {output}`")
    return output


def _check_same(settings: Settings, metrics: dict[str, Any]) -> None:
    """Scores in a card must be this model's."""
    found = model_sha256(settings.generator, layout.TUNED)
    if metrics[FACTS]["tuned_sha256"] != found:
        raise InputError(
            f"{layout.EVALUATION}: is of another model than {layout.TUNED}; run `tgo evaluate`"
        )


def _evidence(params: Path, folder: Path) -> None:
    folder.mkdir()
    shutil.copyfile(layout.EVALUATION, folder / "evaluation.json")
    shutil.copyfile(layout.THRESHOLD, folder / "threshold.json")
    shutil.copyfile(params, folder / "params.yaml")
    if sample_strips.paths(layout.SAMPLES):
        shutil.copytree(layout.SAMPLES, folder / "samples")
