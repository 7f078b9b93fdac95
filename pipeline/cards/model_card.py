"""The model card: README.md of a tuned model, for the reader and, by its header, for the hub.

Training writes one beside the weights that says what went in. What came out is known only after
the evaluation, and then models/tuned must stay as it is (DVC and the metrics know it by its
checksum): the card with scores is written by `tgo export` (pipeline/publishing/export.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tgo.pipeline.cards.licence import licence_of
from tgo.pipeline.cards.threshold_facts import threshold_facts
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators.base_model import adapted_model, base_of
from tgo.pipeline.layout import LORA
from tgo.pipeline.storage import label_record
from tgo.pipeline.storage.results import FACTS, GOLD, TRUTH, UTILITY, shown
from tgo.pipeline.templates import template
from tgo.pipeline.wording import TITLES, Formats

NAME = "README.md"


def write(folder: Path, settings: Settings, threshold: Path) -> None:
    """Write the card of a tuned model into its folder; ``threshold`` may be missing."""
    facts = label_record.read(threshold) if threshold.is_file() else None
    lora = LORA if base_of(folder) else None
    text = render(settings, facts, pipeline=pipeline_of(folder), lora=lora)
    (folder / NAME).write_text(text, encoding="utf-8")


def pipeline_of(folder: Path) -> str:
    """The diffusers class that loads a model folder, or the base model of adapters."""
    if base := base_of(folder):
        return base.pipeline
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return str(index["_class_name"])


def render(
    settings: Settings,
    threshold: Mapping[str, Any] | None,
    metrics: Mapping[str, Any] | None = None,
    *,
    pipeline: str,
    outcome: str | None = None,
    lora: str | None = None,
    lora_format: str = "diffusers",
    licence: str | None = None,
    strips: Collection[tuple[int, str]] = (),
) -> str:
    """Write the card of a model for the hub.

    Args:
        settings: those of the run; the card tells what was trained on what, and how.
        threshold: data/labelled/threshold.json; None where labels came without one.
        metrics: reports/evaluation.json, for scores before and after.
        pipeline: the diffusers class that loads the model (or, for ``lora``, its base model).
        outcome: the evaluation in a sentence.
        lora: the file of a card of adapters alone; None for a whole model.
        lora_format: the program that the file is for: diffusers, comfyui or kohya.
        licence: of the model, by the hub's name; None for that of the base model, if it is known.
        strips: sample images of training beside the card, as (step, file).

    Returns:
        The text: a YAML header and Markdown.
    """
    import diffusers
    from huggingface_hub import ModelCardData

    source = adapted_model(settings.generator.model) if lora else settings.compared_base
    base = _public(source)
    stock = getattr(diffusers, pipeline, None)
    tags = ["diffusers", "tgo", settings.train.objective, *(["lora"] if lora else [])]
    tables = _tables(metrics, settings.label.reward)
    formats = _formats(tables)
    header = ModelCardData(
        **({"license": licence} if licence else licence_of(source)),
        model_name=model_name(settings),
        base_model=base if _is_repository(source) else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=tags,
        eval_results=_results(tables, formats) if metrics else None,
    )
    return template("model_card.md.j2").render(
        header=header.to_yaml(),
        base=base,
        generator=settings.generator,
        prompts=_public(str(settings.prompts.train)),
        imported=settings.imported,
        outcome=outcome,
        badge=badge(settings),
        stand_ins=settings.stand_ins,
        train=settings.train,
        own=_own_settings(settings),
        threshold=[] if threshold is None else threshold_facts(threshold),
        checkpoints={
            name: _public(settings.rewards[name].source or settings.rewards[name].module or "")
            for name in settings.label.reward
            if name in settings.rewards
        },
        title=score_title,
        metrics=tables,
        formats=formats,
        strips=strips,
        licence=header.license,
        facts=metrics[FACTS] if metrics else None,
        pipeline=pipeline,
        stock=stock is not None,
        loads_adapters=hasattr(stock, "load_lora_weights"),
        lora=lora,
        lora_format=lora_format,
    )


def model_name(settings: Settings) -> str:
    """What the tuned model is called: its base and the objective."""
    return f"{Path(settings.compared_base).name}-{settings.train.objective}"


def badge(settings: Settings) -> str | None:
    """What must not be taken for the real thing; None where everything is real."""
    told = []
    if "generator" in settings.stand_ins:
        told.append("toy world")
    if any(name != "generator" for name in settings.stand_ins):
        told.append("miniature stand-ins for the reward models, not the published weights")
    return ", ".join(told) or None


def score_title(score: str) -> str:
    """A score's name in print; the judge's are named by what they measure."""
    if score.startswith(UTILITY):
        return f"Truth: utility for {TITLES[score.removeprefix(UTILITY)]}'s raters"
    return {TRUTH: "Truth: attributes correct", GOLD: "Truth: all attributes correct"}.get(
        score, TITLES[score]
    )


def _public(source: str) -> str:
    """A source as it may leave this machine: an absolute path by its last part."""
    path = Path(source).expanduser()
    return path.name if path.is_absolute() else source


def _is_repository(source: str) -> bool:
    """Whether a model is named by its hub id: only then does the hub accept it as a base model."""
    return source.count("/") == 1 and not Path(source).exists() and source[0] not in "./~"


def _own_settings(settings: Settings) -> dict[str, Any]:
    """Settings that only the chosen objective has."""
    own = getattr(settings.train.objectives, settings.train.objective, None)
    return own.model_dump() if own is not None else {}


def _tables(
    metrics: Mapping[str, Any] | None, feedback: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Rows by test set and score, without the facts about the generator."""
    return {
        name: {score: rows[score] for score in shown(rows, feedback)}
        for name, rows in (metrics or {}).items()
        if name != FACTS
    }


def _formats(tables: Mapping[str, Mapping[str, Any]]) -> Formats:
    """Every score to about a hundredth of its shortest interval."""
    widths: dict[str, list[float]] = {}
    for rows in tables.values():
        for score, row in rows.items():
            widths.setdefault(score, []).append(row["high"] - row["low"])
    shortest = {
        score: min((width for width in found if width > 0), default=0.0)
        for score, found in widths.items()
    }
    return Formats(shortest)


def _results(tables: Mapping[str, Mapping[str, Any]], formats: Formats) -> list[Any]:
    """Scores of the tuned model, as the hub's leaderboards read them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type="prompts",
            dataset_name=name,
            dataset_split=name,  # the hub's library takes those of one split together
            metric_type=score,
            metric_name=score_title(score),
            metric_value=formats.rounded(row["tuned"], score),
        )
        for name, rows in tables.items()
        for score, row in rows.items()
    ]
