"""What a run is, and one run from shards to scores."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.changes import changed
from benchmarks.claims import spending, stars
from benchmarks.claims.captured import Captured
from benchmarks.claims.measure import Asked, Measured, ask, measure
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.pipeline.labelling import label
from tgo.pipeline.scoring import local_engine
from tgo.pipeline.scoring.load_models import load_panel
from tgo.pipeline.scoring.shard_builder import Job
from tgo.pipeline.scoring.worker_share import ALL, Share
from tgo.pipeline.sources import prompts as prompt_lists
from tgo.pipeline.storage.atomic import canonical
from tgo.pipeline.training_log import health
from tgo.trainer.distributed import Ranks
from tgo.trainer.learner import Learner
from tgo.trainer.metrics import summary
from tgo.trainer.objectives import load_objective
from tgo.trainer.paths import Paths
from tgo.trainer.training_data import condition_negatives, load_rows, make_stream

Split = Literal["validation", "tests"]
VALIDATION = "validation"


@dataclass(frozen=True)
class Run:
    """A model trained with some settings changed, and measured on the prompts of a split.

    Attributes:
        paradigm: whose preset the settings start from.
        changes: settings by dotted name; None trains nothing: the base model.
        prompts, images: training data: number of prompts, and of images for each.
        rounds: how often new images are made by the model so far and trained on.
        reference: for later rounds: the base model or the previous round's model.
        replay: whether later rounds train on the images of the earlier ones, too.
        measured: images a prompt that are measured.
        guidances: additional guidance scales at which the model is sampled and measured.
        best_of: names of validation runs; the best of them gives its changes, before `changes`,
            and its rounds. So a method comes to its settings without a look at a test set.
        stars: how stars of simulated raters are joined, where they are the feedback (stars.py).
        spend: by which rule some of the images are chosen; None takes all (spending.py).
        budget: how many are chosen.
    """

    name: str
    paradigm: str = "diffusion"
    split: Split = "validation"
    changes: Mapping[str, Any] | None = field(default_factory=dict)
    prompts: int = 512
    images: int = 4
    rounds: int = 1
    reference: Literal["first", "last"] = "last"
    replay: bool = False
    measured: int = 2
    guidances: tuple[float, ...] = ()
    best_of: tuple[str, ...] = ()
    stars: str | None = None
    spend: spending.Rule | None = None
    budget: int = 512

    def facts(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """The models of one paradigm, loaded once, on one device."""

    def __init__(self, root: Path, settings: Settings, device: str) -> None:
        self.root, self.settings, self.device = root, settings, torch.device(device)
        exact = settings.generator.model_copy(update={"dtype": "float32"})
        self.family = load_generator(exact, device=device)
        self.panel = load_panel(settings, device)
        self._base = {k: v.clone() for k, v in self.family.network.state_dict().items()}
        # images drawn at once; a GPU takes more than a CPU's cache
        self._batch_size = 256 if device == "cuda" else settings.score.batch_size
        self._asked: dict[tuple[Split, int], dict[str, Asked]] = {}

    def data(self, prompts: int, images: int) -> Path:
        return self.root / "data" / f"{prompts}x{images}"

    def make(self, prompts: int, images: int, share: Share = ALL, *, seed: int = 0) -> Path:
        """Make this worker's share of the base model's images of the first `prompts` prompts."""
        chosen = prompt_lists.read(self.settings.prompts.train, prompts)
        return self._make(self.data(prompts, images), chosen, images, share, seed)

    def _make(self, folder: Path, chosen: Any, images: int, share: Share, seed: int) -> Path:
        # small shards, so that several workers share the work
        per_shard = min(self.settings.score.rows_per_shard, 128)
        size = min(per_shard, self._batch_size)
        job = Job(self.family, self.panel, seed, images, size, False)
        plan = local_engine.plan_run(
            job, chosen, folder / "scored", folder / "embeddings", per_shard
        )
        local_engine.make_shards(plan, share)
        return folder

    def reset(self) -> None:
        """Give the network the base model's weights."""
        self.family.network.load_state_dict(self._base)
        for parameter in self.family.network.parameters():
            parameter.grad = None

    def do(self, run: Run) -> tuple[dict[str, Any], dict[str, Measured]]:
        """Train and measure one run; returns its facts and its scores by prompt set."""
        began = time.monotonic()
        self.reset()
        facts: dict[str, Any] = run.facts() | {"device": _name(self.device)}
        if run.changes is not None:
            facts |= self._train_all(run)
        facts["train_seconds"] = round(time.monotonic() - began, 2)
        measured = {} if facts.get("collapsed") else self._measure(run)
        facts["seconds"] = round(time.monotonic() - began, 2)
        return facts, measured

    def _train_all(self, run: Run) -> dict[str, Any]:
        assert run.changes is not None
        settings = changed(self.settings, {**_QUIET, **run.changes})
        lines: list[Any] = []
        chosen = prompt_lists.read(self.settings.prompts.train)
        own = self.root / "rounds" / run.name
        made = [self.data(run.prompts, run.images)]
        for number in range(run.rounds):
            if number:
                some = chosen[number * run.prompts : (number + 1) * run.prompts]
                made.append(self._make(own / str(number), some, run.images, ALL, seed=0))
            folder = spending.join(made, own / "joined") if number and run.replay else made[-1]
            try:
                lines += self._train(settings, folder, run)
            except (InputError, FloatingPointError) as error:
                return {"collapsed": str(error), "log": lines}
        return {"log": lines}

    def _train(self, settings: Settings, folder: Path, run: Run) -> list[dict[str, Any]]:
        train = settings.train
        objective = load_objective(train)
        scored = self._feedback(folder, run, train.seed)
        paths = Paths(
            scored=scored,
            embeddings=folder / "embeddings",
            labelled=self._label(settings, scored),
            checkpoints=self.root / "conditions" / run.name,
        )
        rows = load_rows(paths, objective)
        ranks = Ranks(self.device)
        condition_negatives(rows, paths, objective, self.family, ranks)
        kind = Captured if self.device.type == "cuda" else Learner
        learner = kind(self.family, objective, train, rows.unconditional, ranks)
        if run.reference == "first" and objective.needs_reference:
            learner._networks.load_reference(self._base)
        lines: list[dict[str, Any]] = []
        began = time.monotonic()
        with closing(make_stream(rows, train, ranks).batches()) as batches:
            for number in range(1, train.steps + 1):
                learner.step(number, next(batches))
                if number % train.log_every == 0 or number == train.steps:
                    sums = learner.statistics.read()
                    learner.statistics.reset()
                    lines.append({"step": number, **summary(sums)})
                    if reason := health.collapsed(lines, train.collapse):
                        raise InputError(f"step {number}: {reason}")
        learner.averaged()
        lines[-1]["seconds"] = round(time.monotonic() - began, 2)
        if isinstance(learner, Captured) and learner.refused:
            lines[-1]["not_captured"] = learner.refused
        return [_short(line) for line in lines[:: -max(1, len(lines) // 10)]][::-1]

    def _feedback(self, folder: Path, run: Run, seed: int) -> Path:
        """The shards of `folder`; with stars as their feedback, of other raters for another seed.

        Or with some of their images alone.
        """
        if run.stars is not None:
            own = self.root / "stars" / f"{run.stars}-{seed}" / "scored"
            return stars.write(folder / "scored", run.stars, seed, own)
        if run.spend is not None:
            own = self.root / "spent" / f"{run.spend}-{run.budget}" / "scored"
            return spending.write(folder / "scored", run.spend, run.budget, own)
        return folder / "scored"

    def _label(self, settings: Settings, scored: Path) -> Path:
        """The labels of some shards by the settings' rule, made once."""
        rule = canonical(settings.label.model_dump())
        name = hashlib.sha256(rule.encode()).hexdigest()[:12]
        labelled = scored.with_name(f"labelled-{name}")
        if not (labelled / "threshold.json").exists():
            own = labelled.with_name(f"{labelled.name}-{os.getpid()}")
            label.label_folder(scored, own, settings.label, seed=settings.seed)
            try:
                own.rename(labelled)
            except OSError:  # another process was faster
                shutil.rmtree(own)
        return labelled

    def _measure(self, run: Run) -> dict[str, Measured]:
        found = {}
        family: Any = self.family  # the same for every family
        for name, asked in self.asked(run.split, run.measured).items():
            truth = run.split == "tests"
            found[name] = measure(self.family, self.panel, asked, truth=truth)
            for guidance in run.guidances:
                usual, family._guidance_scale = family._guidance_scale, guidance
                found[f"{name} guidance {guidance:g}"] = measure(
                    self.family, self.panel, asked, truth=truth
                )
                family._guidance_scale = usual
        return found

    def asked(self, split: Split, images: int) -> dict[str, Asked]:
        """The sets of prompts of a split, all of each."""
        if (split, images) not in self._asked:
            lists = {VALIDATION: self.settings.prompts.validation}
            if split == "tests":
                lists = dict(self.settings.prompts.tests)
            self._asked[split, images] = {
                name: ask(
                    self.family,
                    prompt_lists.read(found),
                    images,
                    self.settings.seed,
                    self._batch_size,
                )
                for name, found in lists.items()
            }
        return self._asked[split, images]


_QUIET: dict[str, Any] = {"train.samples": None, "train.loggers": []}


def _short(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in line.items()
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def save(path: Path, measured: Mapping[str, Measured]) -> None:
    """Write what was measured, as arrays named set/score; renamed into place when complete."""
    arrays: dict[str, Any] = {
        f"{s}/{name}": values for s, m in measured.items() for name, values in m.items()
    }
    temporary = path.with_suffix(".partial.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def load(path: Path) -> dict[str, Measured]:
    """What `save` wrote."""
    found: dict[str, Measured] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            name, _, score_name = key.partition("/")
            found.setdefault(name, {})[score_name] = arrays[key]
    return found
