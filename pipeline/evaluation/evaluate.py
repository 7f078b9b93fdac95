"""The tuned model against the model it came from: same prompts, same seeds, every reward model.

Both models are sampled and scored by the code that made the training images, into scored shards
of their own, so an evaluation resumes where it was killed and the base model's images are made
once, however many tuned models are compared with them.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import (
    compared,
    hyperparameters,
    paired_images,
    pairs_table,
    people,
    verdict,
)
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.generators.base_model import is_model
from tgo.pipeline.generators.sizes import Size
from tgo.pipeline.seeds import evaluation_seed
from tgo.pipeline.sources import prompts
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage import aside, results, shards
from tgo.pipeline.storage.atomic import write_json
from tgo.pipeline.storage.results import FACTS, TRUTH, UTILITY

log = logging.getLogger(__name__)

Split = Literal["tests", "validation"]
BASE, TUNED = "base", "tuned"
EMBEDDINGS = "prompt_embeddings"
VALIDATION_METRICS = layout.REPORTS / "validation.json"


def run(settings: Settings, split: Split = "tests") -> dict[str, Any]:
    """Stage `evaluate`: compare models/tuned with the base model and write what was found.

    Of the test sets every pair goes to reports/pairs.parquet, every figure to
    reports/evaluation.json, and about a dozen of them to reports/metrics.json; of the validation
    prompts the figures go to reports/validation.json.
    """
    metrics, pairs = _compare(settings, layout.TUNED, TUNED, split)
    if split == "tests":
        metrics[FACTS]["people"] = people.read(layout.COMPARED, metrics[FACTS])
        _set_other_sets_aside(settings.prompts.tests)
        pairs_table.write(layout.PAIRS, pairs, metrics[FACTS])
        write_json(layout.EVALUATION, metrics)
        headline = compared.headline(metrics, settings.shown_reward)
        write_json(layout.METRICS, headline)
        if "tensorboard" in settings.train.loggers:
            name = f"evaluation-{metrics[FACTS]['tuned_sha256'][:8]}"
            hyperparameters.write(settings, headline, layout.REPORTS / "tensorboard" / name)
    else:
        write_json(VALIDATION_METRICS, metrics)
    print_table(metrics)
    log.info("evaluate: %s", verdict.sentence(metrics, settings.shown_reward))
    return metrics


def compare(
    settings: Settings, tuned_model: Path, name: str = TUNED, split: Split = "tests"
) -> dict[str, Any]:
    """Evaluate any tuned model folder against ``evaluate.base`` of the settings.

    Args:
        settings: name the base model, the reward models and the prompt sets.
        tuned_model: a pipeline folder as the train stage writes it.
        name: the folder of the tuned model's images, beside "base". Images of other weights
            under the same name are made anew; the base model's are made once for all names.
        split: the test sets, or the validation prompts on which settings are chosen.

    Returns:
        ``{set: {score: figures}, "generator": facts}``; figures as ``compared.rows`` says. The
        judge, if there is one, is never asked about validation prompts: no setting may be chosen
        by it.

    Raises:
        InputError: the model, a prompt set, a reward checkpoint or the judge cannot be used.
    """
    return _compare(settings, tuned_model, name, split)[0]


def compare_folders(
    base: Path, tuned: Path, rewards: Sequence[str], judge: paired_images.Judge | None, seed: int
) -> tuple[dict[str, compared.Row], dict[str, int]]:
    """Compare two evaluated folders: figures by score, and pair counts."""
    joined = paired_images.read_pairs(base, tuned, rewards, judge)
    return compared.rows(joined, seed), _counts(joined)


def rows_of(metrics: Mapping[str, Any]) -> dict[str, dict[str, compared.Row]]:
    """The figures by test set, without the facts beside them."""
    return {name: rows for name, rows in metrics.items() if name != FACTS}


def _compare(
    settings: Settings, tuned_model: Path, name: str, split: Split
) -> tuple[dict[str, Any], dict[str, Pairs]]:
    if name in (BASE, EMBEDDINGS):
        raise ValueError(f"{name!r} is taken; give the tuned model's images another name")
    sets = prompt_sets(settings, split)
    dotted = settings.evaluate.judge
    judge = load_judge(dotted) if dotted and split == "tests" else None
    if judge:
        try_judge(judge, settings.generator.sizes, next(iter(sets.values()))[0].text)
    if not is_model(tuned_model):
        raise InputError(f"{tuned_model}: holds no trained model; run `tgo train` first")
    base = settings.evaluate.base
    models = {BASE: Path(base) if base else None, name: tuned_model}
    made = _generate(settings, models, sets, split)
    pairs = {
        set_name: paired_images.read_pairs(
            folder(split, BASE, set_name),
            folder(split, name, set_name),
            list(settings.rewards),
            judge,
        )
        for set_name in sets
    }
    facts = _facts(settings, made[BASE], made[name]) | {"tuned": str(tuned_model)}
    return summarise(settings, pairs, facts), pairs


def summarise(
    settings: Settings, pairs: Mapping[str, Pairs], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of all sets, with ``facts`` and those of the domains beside them."""
    seed = settings.seed
    told = [name for name in (settings.shown_reward, TRUTH) if name]
    domains = {
        name: compared.by_domain(joined, [s for s in told if s in joined.base], seed)
        for name, joined in pairs.items()
    }
    more = {
        "feedback": list(settings.label.reward),
        "judge": settings.evaluate.judge,
        "sets": {name: _counts(joined) for name, joined in pairs.items()},
        "domains": {name: found for name, found in domains.items() if found},
    }
    return {name: compared.rows(joined, seed) for name, joined in pairs.items()} | {
        FACTS: dict(facts) | more
    }


def _counts(joined: Pairs) -> dict[str, int]:
    return {
        "prompts": len(set(joined.prompt_ids)),
        "images": len(joined),
        "excluded": joined.excluded,
    }


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


def try_judge(judge: paired_images.Judge, sizes: Sequence[Size], prompt: str) -> None:
    """InputError unless the judge reads images of each size; it is shown a black one."""
    for size in sizes:
        black = np.zeros((1, size.height, size.width, 3), np.uint8)
        paired_images.ask(judge, black, [prompt], Path("generator.resolution"))


def _generate(
    settings: Settings,
    models: Mapping[str, Path | None],
    sets: Mapping[str, list[Prompt]],
    split: Split,
) -> dict[str, dict[str, Any]]:
    """Bring every model's folders up to date; returns what decided the images, by model."""
    from tgo.pipeline.runtime import prepare
    from tgo.pipeline.scoring.load_models import load_family, load_panel
    from tgo.pipeline.scoring.local_engine import score_prompts

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
        del family  # before the next one is read
    return made


def _set_other_sets_aside(sets: Mapping[str, Any]) -> None:
    """Images of test sets that the settings no longer name would stay beside the metrics."""
    for name in (BASE, TUNED):
        for root in (layout.EVALUATED / name, layout.EVALUATED / EMBEDDINGS / name):
            for old in sorted(root.glob("[!.]*/")):
                if old.name not in sets:
                    ours = shards.present(old) or any(old.glob("shard-*.safetensors"))
                    kind: aside.Kind = "superseded" if ours else "foreign"
                    reason = "not among prompts.tests of params.yaml"
                    aside.set_aside([old], root, reason, kind=kind)


def _facts(settings: Settings, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """What the images depended on besides the weights that are compared."""
    shared = {key: base[key] for key in ("family", "sampler", "steps", "guidance_scale", "dtype")}
    return shared | {
        "base": settings.compared_base,
        "base_sha256": base["model_sha256"],
        "tuned_sha256": tuned["model_sha256"],
        "prompts": settings.evaluate.prompts,
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
    for set_name, rewards in rows_of(metrics).items():
        for score in results.shown(rewards, metrics[FACTS].get("feedback", ())):
            row = rewards[score]
            table.add_row(
                set_name,
                score.partition("_")[0] if score.startswith(UTILITY) else score,
                f"{row['base']:.4f}",
                f"{row['tuned']:.4f}",
                f"{row['difference']:+.4f}",
                f"{row['low']:+.4f} to {row['high']:+.4f}",
                f"{row['win_rate']:.1%}" if "win_rate" in row else "",
            )
        table.add_row()
    Console().print(table)
