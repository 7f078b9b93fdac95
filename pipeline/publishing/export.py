"""`tgo export`: the tuned model, its card with scores and what they rest on, ready for the hub.

A folder of its own, because models/tuned is an output that DVC and the figures know by its
checksum: a card written into it after the evaluation would make both out of date.

    models/export/README.md   the model card, with scores before and after
    models/export/...         the diffusers folder, or the adapters alone
    models/export/tgo/        evaluation.json, threshold.json, params.yaml, sample images
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tgo.pipeline import layout
from tgo.pipeline.cards import model_card
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import verdict
from tgo.pipeline.generators import load_generator, model_sha256
from tgo.pipeline.generators.base_model import base_of, is_model
from tgo.pipeline.publishing import lora_formats, private_paths
from tgo.pipeline.publishing.lora_formats import Format
from tgo.pipeline.storage import label_record, results, trained_on
from tgo.pipeline.storage.atomic import explain, write_json
from tgo.pipeline.storage.ownership import replacing_folder
from tgo.pipeline.storage.results import FACTS
from tgo.pipeline.training_log import sample_strips

log = logging.getLogger(__name__)

EVIDENCE = "tgo"
_SAMPLES = "samples"
KIND = "export"
"""What the folder is marked as: only one that is marked so, and unchanged, is replaced."""

Kind = Literal["auto", "full", "lora"]
"""What is exported: ``auto`` is the adapters where training made some."""


def run(
    settings: Settings,
    params: Path,
    output: Path,
    kind: Kind = "auto",
    format: Format = "diffusers",
    licence: str | None = None,
) -> Path:
    """Write the tuned model with its card and evidence, as a folder for the hub.

    Args:
        settings: those of the run.
        params: the file that holds them; the export has a copy without private paths.
        output: the folder to write; an earlier export there is replaced.
        kind: the whole model or its adapters; auto is the adapters where training made some.
        format: the program that reads the adapters: diffusers, comfyui or kohya.
        licence: of the model, by the hub's name; None for the base model's, as its card says it.

    Returns:
        The folder ``output``.

    Raises:
        InputError: there is no tuned model, or no figures of it; no adapters where ``kind`` or
            ``format`` asks for them; ``output`` holds what this command did not write, or cannot
            be written.
    """
    tuned = layout.TUNED
    if not is_model(tuned):
        raise InputError(f"{tuned}: holds no trained model; run `tgo train` first")
    lora = _wants_adapters(tuned, kind, format)
    if lora:
        lora_formats.check(format, settings.generator.family)
    metrics, threshold = results.evaluation(), label_record.read(layout.THRESHOLD)
    _check_same(settings, metrics)
    trained_on.check(tuned, settings.train, layout.THRESHOLD)
    card = model_card.render(
        settings,
        threshold,
        metrics,
        pipeline=model_card.pipeline_of(tuned),
        outcome=verdict.sentence(metrics, settings.shown_reward),
        lora=_adapters_name(settings, format) if lora else None,
        lora_format=format,
        licence=licence,
        strips=_shown_strips(),
    )
    try:
        with replacing_folder(output, KIND) as folder:
            if lora:
                name = _adapters_name(settings, format)
                family = settings.generator.family
                lora_formats.write(tuned / layout.LORA, folder / name, format, family)
            else:
                _write_model(settings, tuned, folder)
            (folder / model_card.NAME).write_text(card, encoding="utf-8")
            _evidence(params, folder / EVIDENCE, metrics, threshold)
    except (OSError, shutil.Error) as error:
        raise InputError(f"{output}: {explain(_first(error))}") from None
    log.info("export: %s; upload it with `hf upload USER/NAME %s`", output, output)
    return output


def _shown_strips() -> list[tuple[int, str]]:
    """The first and the last sample images, by their places in the export."""
    strips = sample_strips.paths(layout.SAMPLES)
    chosen = [*strips[:1], *strips[1:][-1:]]
    return [(step, f"{EVIDENCE}/{_SAMPLES}/{path.name}") for step, path in chosen]


def _wants_adapters(tuned: Path, kind: Kind, format: Format) -> bool:
    there = (tuned / layout.LORA).is_file()
    if (kind == "lora" or format != "diffusers") and not there:
        raise InputError(
            f"{tuned}/{layout.LORA}: is missing; train with train.lora, or export with --kind full "
            "--format diffusers"
        )
    if kind == "full" and format != "diffusers":
        raise InputError(
            f"--format {format}: is for adapters; leave out --kind full, or use --format diffusers"
        )
    return there and kind != "full"


def _adapters_name(settings: Settings, format: Format) -> str:
    return lora_formats.file_name(format, model_card.model_name(settings))


def _write_model(settings: Settings, tuned: Path, folder: Path) -> None:
    """The whole model: a copy, or the base model with the adapters added to its weights.

    Those are of the type in which the model samples, so that they are the evaluated ones.
    """
    if base_of(tuned) is None:
        _copy_model(tuned, folder)
    else:
        whole = settings.generator.model_copy(update={"quantization": None})
        family = load_generator(whole, tuned, lazy=True)
        family.save(family.network, folder)
    for path in sorted(folder.rglob("*.json")):
        private_paths.clean_config(path)


def _copy_model(tuned: Path, folder: Path) -> None:
    """The parts that model_index.json names, and nothing else that lies beside them."""
    index = json.loads((tuned / "model_index.json").read_text(encoding="utf-8"))
    for part in index:
        if not part.startswith("_") and (tuned / part).is_dir():
            shutil.copytree(tuned / part, folder / part)
    shutil.copyfile(tuned / "model_index.json", folder / "model_index.json")


def _check_same(settings: Settings, metrics: Mapping[str, Any]) -> None:
    """Scores and sample images in an export must be this model's."""
    found = model_sha256(settings.generator, layout.TUNED)
    if metrics[FACTS].get("tuned_sha256") != found:
        raise InputError(
            f"{layout.EVALUATION}: is of another model than {layout.TUNED}; run `tgo evaluate`"
        )
    if sample_strips.result(layout.SAMPLES) not in (None, found):
        raise InputError(
            f"{layout.SAMPLES}: shows the training of another model than {layout.TUNED}; run "
            "`tgo train` (or `dvc checkout`)"
        )


def _evidence(
    params: Path, folder: Path, metrics: Mapping[str, Any], threshold: Mapping[str, Any]
) -> None:
    folder.mkdir()
    write_json(folder / layout.EVALUATION.name, private_paths.cleaned(metrics))
    write_json(folder / layout.THRESHOLD.name, private_paths.cleaned(threshold))
    text = params.read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(private_paths.clean_text(text), encoding="utf-8")
    if sample_strips.paths(layout.SAMPLES):
        shutil.copytree(layout.SAMPLES, folder / _SAMPLES)


def _first(error: OSError | shutil.Error) -> OSError:
    """The reason inside what copytree gathers."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return OSError(error.args[0][0][2])
    return error
