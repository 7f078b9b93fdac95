"""Stage three: fine-tune the generator on the labelled shards.

``run`` is the stage. A run that ended early is continued by running it again: batch order and
noise follow from (seed, step), all else lies in the newest checkpoint, and on the CPU the result
is that of an uninterrupted run to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from tgo.pipeline import runtime
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator, model_sha256
from tgo.pipeline.storage.aside import key_of
from tgo.pipeline.storage.label_record import check_labels, written_by_label
from tgo.pipeline.storage.locks import hold
from tgo.pipeline.training_log import sample_strips
from tgo.trainer.checkpoints import Checkpoints
from tgo.trainer.distributed import check_settings, process_group
from tgo.trainer.fingerprint import fingerprint
from tgo.trainer.held_out import HeldOut, apart
from tgo.trainer.learner import Learner
from tgo.trainer.loggers import load_loggers
from tgo.trainer.loop import TrainingLoop
from tgo.trainer.objectives import load_objective
from tgo.trainer.paths import Paths
from tgo.trainer.samples import Samples
from tgo.trainer.save_model import save_model
from tgo.trainer.signals import stop_requests
from tgo.trainer.train_log import TrainLog
from tgo.trainer.training_data import condition_negatives, load_cache, load_rows, make_stream

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Settings
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.dataset import LabelledRows
    from tgo.trainer.distributed import Ranks


def run(settings: Settings, paths: Paths | None = None) -> Path:
    """Stage `train`: from labelled shards to a model folder with the averaged (EMA) weights.

    Args:
        settings: All settings; ``train`` decides most.
        paths: Where to read and write; the project's own folders by default.

    Returns:
        The model folder, ``paths.tuned``.

    Raises:
        InputError: input is bad or missing, another run holds the folder, or the loss diverged.
        SystemExit: SIGTERM or SIGINT came; the step was finished and a checkpoint written.
    """
    paths = paths or Paths()
    train = settings.train
    objective = load_objective(train)
    device = torch.device(runtime.prepare(settings))
    if train.compile:
        runtime.require_compiler("train.compile", len(settings.generator.sizes))
    if written_by_label(paths.labelled):
        check_labels(paths.scored, paths.labelled, settings.label)
    with (
        process_group(device, train.parallel) as ranks,
        hold(paths.checkpoints) if ranks.is_main else nullcontext(),
    ):
        check_settings(train, ranks)
        rows = load_rows(paths, objective)
        family = _load_family(settings, rows, ranks)
        condition_negatives(rows, paths, objective, family, ranks)
        rows, held = apart(rows, train)
        stream = make_stream(rows, train, ranks)
        cache = load_cache(paths.references, rows, family, objective, train)
        identity = fingerprint(train, family, rows)
        learner = Learner(family, objective, train, rows.unconditional, ranks, cache=cache)
        if cache is not None:
            cache.fill(learner.measure, ranks)
        held_out = None
        if held is not None:  # now, while the policy is the reference
            held_out = HeldOut(held, family, objective, train, learner, ranks)
        checkpoints = Checkpoints(paths.checkpoints, identity, ranks, train.keep)
        checkpoint = checkpoints.newest(at_most=train.steps)
        done = checkpoint.step if checkpoint else 0
        name = f"{train.objective}-{key_of(identity)[:8]}"
        with (
            _outputs(settings, paths, ranks) as (visible, log_path, strips),
            closing(
                load_loggers(visible, log_path.parent, run=name, continues=done > 0)
            ) as loggers,
            closing(Samples(visible, family, strips, loggers, done=done)) as samples,
        ):
            log = TrainLog(log_path, checkpoint.log if checkpoint else "", loggers)
            loop = TrainingLoop(train, learner, checkpoints, log, samples, ranks, held_out)
            if checkpoint:
                loop.continue_from(checkpoint)
            with stop_requests() as stop:  # before and after it a signal ends the run at once
                loop.run(stream, stop)
        save_model(settings, family, learner, paths, ranks)
        if ranks.is_main:
            checksum = model_sha256(settings.generator, paths.tuned)
            sample_strips.belong_to(paths.samples, checksum)
    return paths.tuned


def _load_family(settings: Settings, rows: LabelledRows, ranks: Ranks) -> Family:
    """The model to train, checked against the latents, whatever type it samples in.

    What is trained is float32. Under adapters the model is frozen, so it is read in the type that
    computes, and in no other.
    """
    frozen = settings.train.lora is not None
    dtype = settings.train.precision if frozen else "float32"
    generator = settings.generator.model_copy(update={"dtype": dtype})
    family = load_generator(generator, device=str(ranks.device), lazy=True)
    known = set(family.latent_shapes.values())
    if unknown := rows.latent_shapes - known:
        made = ", ".join(map(str, sorted(known)))
        raise InputError(
            f"generator.model: {settings.generator.model} works on latents of shape {made}, the "
            f"scored shards hold {min(unknown)}; run `tgo score` with this model and "
            "generator.resolution"
        )
    return family


@contextmanager
def _outputs(
    settings: Settings, paths: Paths, ranks: Ranks
) -> Iterator[tuple[Settings, Path, Path]]:
    """Settings, log file and folder of sample images; of several processes only the main one's.

    What the others write lies in a temporary folder of their own.
    """
    if ranks.is_main:
        yield settings, paths.log, paths.samples
        return
    train = settings.train.model_copy(update={"loggers": [], "samples": None})
    with TemporaryDirectory() as folder:
        yield settings.model_copy(update={"train": train}), Path(folder, "log.jsonl"), Path(folder)
