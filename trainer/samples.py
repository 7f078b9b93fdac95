"""Sample images of a few fixed prompts during training.

    reports/samples/prompts.json          prompts, seeds, sampler: what the images are of
    reports/samples/step-00000100.png   their images side by side, by the averaged weights

Prompts are the first of ``prompts.validation`` and noise is that of `tgo evaluate`, so the strips
begin with the base model's images and end near what the evaluation will see. Drawing follows from
the weights alone and touches no state of training. A killed run keeps those up to its checkpoint.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tgo.pipeline.generators.sizes import choose
from tgo.pipeline.scoring import sampling
from tgo.pipeline.seeds import evaluation_seed
from tgo.pipeline.sources import prompts
from tgo.pipeline.training_log import sample_strips

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Settings
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.learner import Learner
    from tgo.trainer.loggers import Loggers

logger = logging.getLogger(__name__)


class Samples:
    """The sample images of a run in ``folder``.

    Args:
        settings: those of the run; ``train.samples`` says how many and how often.
        family: the generator.
        folder: where the images go.
        loggers: are shown every image, those of an earlier process first.
        done: steps done by an earlier process; images of later ones go.

    Raises:
        InputError: there are fewer validation prompts, or a strip is damaged.
    """

    def __init__(
        self,
        settings: Settings,
        family: Family,
        folder: Path,
        loggers: Loggers,
        *,
        done: int,
    ) -> None:
        self._family, self._folder, self._loggers = family, folder, loggers
        chosen = settings.train.samples
        self._every = chosen.every if chosen else 0
        wanted = prompts.read(settings.prompts.validation, chosen.prompts) if chosen else []
        seed = evaluation_seed(settings.seed)
        self._rows = sampling.rows_of(wanted, seed=seed, images_per_prompt=1)
        self._texts = [prompt.text for prompt in wanted]
        sizes = list(family.latent_shapes)
        self._sizes = [choose(prompt.id, sizes, prompt.size) for prompt in wanted]
        self._batch_size = min(len(wanted), settings.score.batch_size)
        self._writer = ThreadPoolExecutor(1, "tgo-samples")
        self._pending: list[Future[None]] = []
        self._keep(self._facts(settings), done)
        if wanted:
            # as stage one stores them, so that the images are those of the evaluation
            self._conditions = sampling.embed(family, self._texts, self._batch_size)
            family.text_encoders.release()
        for step, images in sample_strips.read(folder):
            loggers.pictures(step, dict(zip(self._texts, images, strict=True)))

    def due(self, step: int) -> bool:
        """Whether images are wanted after this many steps (also after none)."""
        return self._every > 0 and step % self._every == 0

    def draw(self, step: int, learner: Learner) -> None:
        """Make the images after ``step`` steps; a thread encodes and writes them."""
        made = {}
        with learner.averaging():
            for size in dict.fromkeys(self._sizes):
                rows = [
                    row for row, own in zip(self._rows, self._sizes, strict=True) if own == size
                ]
                given = (self._family, rows, self._conditions, self._batch_size, size)
                made[size] = list(sampling.sample(*given))
        images = {
            size: iter(torch.cat([sampling.decode(self._family, batch) for batch in batches]))
            for size, batches in made.items()
        }
        shown = [next(images[size]).permute(1, 2, 0).numpy() for size in self._sizes]
        self._pending.append(self._writer.submit(sample_strips.write, self._folder, step, shown))
        self._loggers.pictures(step, dict(zip(self._texts, shown, strict=True)))

    def flush(self) -> None:
        """Return once everything drawn is on disk: a checkpoint promises it."""
        for write in self._pending:
            write.result()
        self._pending.clear()

    def close(self) -> None:
        """End the thread that writes."""
        self._writer.shutdown()
        self.flush()

    def _facts(self, settings: Settings) -> dict[str, Any]:
        """All that decides the images beside the weights."""
        generator = settings.generator.model_dump(include={"steps", "guidance_scale"})
        facts = {"prompts": self._texts, "seeds": [row.seed for row in self._rows], **generator}
        if len(self._family.latent_shapes) > 1:
            facts["sizes"] = [list(size) for size in self._sizes]  # as JSON gives them back
        return facts

    def _keep(self, facts: dict[str, Any], done: int) -> None:
        """Leave in the folder what belongs to this run and nothing else."""
        same = done > 0 and sample_strips.facts(self._folder) == facts
        for step, path in sample_strips.paths(self._folder):
            if not (same and step <= done and self.due(step)):
                path.unlink()
        sample_strips.describe(self._folder, facts)
        there = {step for step, _ in sample_strips.paths(self._folder)}
        wanted = range(0, done + 1, self._every) if self._every and done else ()
        if missing := [step for step in wanted if step not in there]:
            logger.warning(
                "train: %s: images after %s steps are of other settings or gone, and their weights "
                "with them; the later ones follow",
                self._folder,
                ", ".join(map(str, missing)),
            )
