"""The tuned model against the model it came from: same prompts, same seeds, every reward model.

Both models are sampled and scored by the code that made the training images, into scored shards
of their own, so an evaluation resumes where it was killed and the base model's images are made
once, however many tuned models are compared with them.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import paired_images, stats
from tgo.pipeline.seeds import evaluation_seed
from tgo.pipeline.sources import prompts
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage.atomic import write_json
from tgo.pipeline.storage.results import FACTS, GOLD

Split = Literal["tests", "validation"]
BASE, TUNED = "base", "tuned"
EMBEDDINGS = "prompt_embeddings"
VALIDATION_METRICS = layout.REPORTS / "validation.json"


def run(settings: Settings, split: Split = "tests") -> dict[str, Any]:
    """Stage `evaluate`: compare models/tuned with the base model and write the metrics file.

    The test sets go to reports/metrics.json, the validation prompts to reports/validation.json.
    """
    metrics = compare(settings, layout.TUNED, TUNED, split)
    target = VALIDATION_METRICS
    if split == "tests":
        _remove_other_sets(settings.prompts.tests)
        target = layout.METRICS
    write_json(target, metrics)
    print_table(metrics)
    print(f"evaluate: {target}")
    return metrics


def compare(
    settings: Settings, tuned_model: Path, name: str = TUNED, split: Split = "tests"
) -> dict[str, Any]:
    """Evaluate any tuned model folder against ``settings.generator.model``.

    Args:
        tuned_model: a pipeline folder as the train stage writes it.
        name: the folder of the tuned model's images, beside "base". Images of other weights
            under the same name are made anew; the base model's are made once for all names.
        split: the test sets, or the validation prompts on which settings are chosen.

    Returns:
        ``{set: {reward: {base, tuned, difference, low, high, win_rate, win_low, win_high}},
        "generator": facts}`` with means over prompts and 95 % bootstrap intervals over prompts;
        with a judge also ``{set: {"gold": {base, tuned, difference, low, high}}}``, shares of
        images in which everything is right. The judge is never asked about validation prompts:
        no setting may be chosen by it.

    Raises:
        InputError: the model, a prompt set, a reward checkpoint or the judge cannot be used.
    """
    if name in (BASE, EMBEDDINGS):
        raise ValueError(f"{name!r} is taken; give the tuned model's images another name")
    sets = prompt_sets(settings, split)
    dotted = settings.evaluate.judge
    judge = load_judge(dotted) if dotted and split == "tests" else None
    if not (tuned_model / "model_index.json").is_file():
        raise InputError(f"{tuned_model}: holds no trained model; run `tgo train` first")
    made = _generate(settings, {BASE: None, name: tuned_model}, sets, split)
    metrics: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for set_name in sets:
        metrics[set_name], counts[set_name] = compare_folders(
            folder(split, BASE, set_name),
            folder(split, name, set_name),
            list(settings.rewards),
            judge,
            settings.seed,
        )
    facts = _facts(settings, made[BASE], made[name])
    return metrics | {FACTS: facts | {"tuned": str(tuned_model), "sets": counts}}


def compare_folders(
    base: Path, tuned: Path, rewards: Sequence[str], judge: paired_images.Judge | None, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Compare two evaluated folders: metrics by reward model (and "gold"), and pair counts."""
    joined = paired_images.read_pairs(base, tuned, rewards)
    metrics = compare_rewards(joined, seed)
    if judge:
        metrics[GOLD] = _compare_gold(joined, (base, tuned), judge, seed)
    counts = {
        "prompts": len(set(joined.prompt_ids)),
        "images": len(joined),
        "excluded": joined.excluded,
    }
    # six decimals: finer than any of these is known, and stable to read in a diff
    rounded = {
        name: {key: round(value, 6) for key, value in row.items()} for name, row in metrics.items()
    }
    return rounded, counts


def prompt_sets(settings: Settings, split: Split) -> dict[str, list[Prompt]]:
    """The prompts of a split's sets: the first `evaluate.prompts` of each file."""
    if split == "validation":
        files = {"validation": settings.prompts.validation}
    else:
        files = settings.prompts.tests
    if FACTS in files:
        raise InputError(f"prompts.tests.{FACTS}: the metrics use this name; rename the test set")
    return {name: prompts.read(found, settings.evaluate.prompts) for name, found in files.items()}


def folder(split: Split, name: str, set_name: str) -> Path:
    """Where a model's images of a set lie.

    Those of base and tuned model on the test sets are the stage's output, which choosing settings
    or comparing other models must leave alone.
    """
    return _root(split, name) / name / set_name


def _root(split: Split, name: str) -> Path:
    of_stage = split == "tests" and name in (BASE, TUNED)
    return layout.EVALUATED if of_stage else layout.VALIDATED


def load_judge(dotted: str) -> paired_images.Judge:
    """The gold judge named as ``package.module:function``."""
    module, _, name = dotted.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"evaluate.judge = {dotted!r} cannot be imported ({error}); "
            "name a function as package.module:name, or null for none"
        ) from None


def compare_rewards(joined: paired_images.Pairs, seed: int) -> dict[str, dict[str, float]]:
    """Means over prompts, their difference and the win rate, for every reward model."""
    result = {}
    for reward, base in joined.base.items():
        tuned = joined.tuned[reward]
        wins = stats.win_rate(base, tuned, joined.prompt_ids, seed=seed)
        result[reward] = _means(base, tuned, joined.prompt_ids, seed) | {
            "win_rate": wins.value,
            "win_low": wins.low,
            "win_high": wins.high,
        }
    return result


def _compare_gold(
    joined: paired_images.Pairs, where: tuple[Path, Path], judge: paired_images.Judge, seed: int
) -> dict[str, float]:
    right = []
    for images in where:
        verdicts = paired_images.judge_folder(images, judge, joined.ids)
        right.append(np.array([verdicts[row].all_right for row in joined.ids], float))
    return _means(right[0], right[1], joined.prompt_ids, seed)


def _means(
    base: np.ndarray, tuned: np.ndarray, prompt_ids: list[str], seed: int
) -> dict[str, float]:
    change = stats.paired_difference(base, tuned, prompt_ids, seed=seed)
    return {
        "base": float(stats.mean_by_prompt(base, prompt_ids).mean()),
        "tuned": float(stats.mean_by_prompt(tuned, prompt_ids).mean()),
        "difference": change.value,
        "low": change.low,
        "high": change.high,
    }


def _generate(
    settings: Settings,
    models: Mapping[str, Path | None],
    sets: Mapping[str, list[Prompt]],
    split: Split,
) -> dict[str, dict[str, Any]]:
    """Bring every model's folders up to date; returns what decided the images, by model."""
    from tgo.pipeline.runtime import load_family, load_panel, prepare
    from tgo.pipeline.scoring.score import score_prompts

    device = prepare(settings)
    panel = load_panel(settings, device)
    made = {}
    for name, model in models.items():  # one generator in memory at a time
        family = load_family(settings, device, model)
        made[name] = family.describe()
        for set_name, chosen in sets.items():
            score_prompts(
                family,
                panel,
                chosen,
                folder(split, name, set_name),
                embeddings_folder=_root(split, name) / EMBEDDINGS / name / set_name,
                seed=evaluation_seed(settings.seed),
                images_per_prompt=settings.evaluate.images_per_prompt,
                batch_size=settings.score.batch_size,
                rows_per_shard=settings.score.rows_per_shard,
                compiled=settings.generator.compile,
            )
    return made


def _remove_other_sets(sets: Mapping[str, Any]) -> None:
    """Images of test sets that the settings no longer name would stay beside the metrics."""
    for name in (BASE, TUNED):
        for place in (layout.EVALUATED / name, layout.EVALUATED / EMBEDDINGS / name):
            for old in sorted(place.glob("*/")):
                if old.name not in sets:
                    shutil.rmtree(old)


def _facts(settings: Settings, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """What the images depended on besides the weights that are compared."""
    shared = {key: base[key] for key in ("family", "sampler", "steps", "guidance_scale", "dtype")}
    return shared | {
        "base": settings.generator.model,
        "base_sha256": base["model_sha256"],
        "tuned_sha256": tuned["model_sha256"],
        "images_per_prompt": settings.evaluate.images_per_prompt,
        "seed": settings.seed,
        "evaluation_seed": evaluation_seed(settings.seed),
    }


def print_table(metrics: Mapping[str, Any]) -> None:
    """The comparison as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Tuned against base, same prompts and seeds; 95 % intervals over prompts",
        box=None,
        padding=(0, 2, 0, 0),  # fits a terminal of 80 columns
        pad_edge=False,
    )
    for heading in ("set", "score", "base", "tuned", "difference", "interval", "win rate"):
        table.add_column(heading, justify="left" if heading in ("set", "score") else "right")
    for set_name, rewards in metrics.items():
        if set_name == FACTS:
            continue
        for reward, row in rewards.items():
            table.add_row(
                set_name,
                reward,
                f"{row['base']:.4f}",
                f"{row['tuned']:.4f}",
                f"{row['difference']:+.4f}",
                f"{row['low']:+.4f} to {row['high']:+.4f}",
                f"{row['win_rate']:.1%}" if "win_rate" in row else "",
            )
        table.add_row()
    Console().print(table)
