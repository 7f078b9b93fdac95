"""Stage one: prompts to shards of images, codes and scores.

The unit of work is one numbered shard whose finished name is its commit. What is there and
still right is kept, what lacks only scores is completed from its stored images, the rest is
made; so a killed run loses at most the shard in flight, and nothing stale survives a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor
from tqdm import tqdm

from pipeline import (
    card,
    embeddings,
    fingerprint,
    inventory,
    layout,
    manifest,
    origin,
    produce,
    prompts,
    shards,
)
from pipeline.atomic import remove_partials
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError
from pipeline.generators.base import Family, of_rows
from pipeline.inventory import Found, Planned
from pipeline.locks import hold
from pipeline.prompts import Prompt
from pipeline.settings import Settings
from rewards.panel import Panel, library_versions


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    shards: int
    made: int
    completed: int
    images: int

    def __str__(self) -> str:
        kept = self.shards - self.made - self.completed
        return (
            f"{self.images} images in {self.shards} shards "
            f"({self.made} made, {self.completed} completed, {kept} kept)"
        )


@dataclass(frozen=True)
class Job:
    """What makes rows, and how."""

    family: Family
    panel: Panel
    seed: int
    images_per_prompt: int
    batch_size: int

    def rows(self, shard: Planned) -> list[produce.Row]:
        return produce.rows_of(
            shard.prompts, seed=self.seed, images_per_prompt=self.images_per_prompt
        )


def run(settings: Settings) -> None:
    """Stage `score`: the first prompts of the train list into data/scored."""
    origin.require(layout.SCORED, "generated")
    chosen = prompts.read(settings.prompts.train, settings.score.prompts)
    family, panel = load_models(settings)
    summary = score_prompts(
        family,
        panel,
        chosen,
        layout.SCORED,
        embeddings_folder=layout.EMBEDDINGS,
        seed=settings.seed,
        images_per_prompt=settings.score.images_per_prompt,
        batch_size=settings.score.batch_size,
        rows_per_shard=settings.score.rows_per_shard,
    )
    card.write(layout.SCORED)
    print(f"{layout.SCORED}: {summary}")


def load_models(settings: Settings, model: Path | None = None) -> tuple[Family, Panel]:
    """The generator (or another `model` of its family) and the reward models, on the device."""
    from pipeline.generators import load_generator
    from pipeline.runtime import load_panel, prepare

    device = prepare(settings)
    family = load_generator(settings.generator, model, device=device)
    return family, load_panel(settings, device)


def score_prompts(
    family: Family,
    panel: Panel,
    chosen: Sequence[Prompt],
    folder: Path,
    *,
    embeddings_folder: Path,
    seed: int,
    images_per_prompt: int,
    batch_size: int,
    rows_per_shard: int,
) -> Summary:
    """Bring `folder` to hold the scored shards of `chosen`, doing only what is not yet done.

    Shards of `rows_per_shard` rows are the most a kill can cost; prompts never cross them.
    The folder is held meanwhile. Raises InputError when someone else holds it, the disk is
    full (finished shards stay) or a reward model gives NaN or an infinity.
    """
    job = Job(family, panel, seed, images_per_prompt, batch_size)
    with hold(folder):
        planned = inventory.plan(
            folder,
            embeddings_folder,
            chosen,
            rows_per_shard // images_per_prompt,
            fingerprint.images_part(
                family, seed=seed, images_per_prompt=images_per_prompt, batch_size=batch_size
            ),
            fingerprint.reward_parts(panel),
        )
        for place in (folder, embeddings_folder):
            remove_partials(place)
        found = inventory.survey(planned, folder)
        return _bring_up_to_date(job, planned, found, folder)


def _bring_up_to_date(
    job: Job, planned: Sequence[Planned], found: dict[Path, Found], folder: Path
) -> Summary:
    kept = {path for path, state in found.items() if state.complete}
    todo = [shard for shard in planned if shard.path not in kept]
    manifest.restrict(folder, {path.name for path in kept})
    completed = 0
    total = sum(len(shard.prompts) for shard in planned) * job.images_per_prompt
    work = sum(len(shard.prompts) for shard in todo) * job.images_per_prompt
    with tqdm(total=work, unit="image", desc=str(folder), disable=not todo) as bar:
        for shard in todo:
            if shard.path in found and _complete(job, shard, found[shard.path], bar):
                completed += 1
            else:
                _make(job, shard, bar)
    manifest.complete(folder)
    return Summary(len(planned), len(todo) - completed, completed, total)


def _make(job: Job, shard: Planned, bar: tqdm) -> None:
    """Make a shard from nothing: embeddings, images, scores."""
    job.panel.forget()
    embedded, digest = _embed(job, shard)
    rows = job.rows(shard)
    codes: list[np.ndarray] = []
    usable: list[np.ndarray] = []
    pngs: list[bytes] = []
    scores: dict[str, list[np.ndarray]] = {name: [] for name in shard.rewards}
    for made in produce.make(job.family, rows, embedded, job.batch_size):
        batch = rows[len(pngs) : len(pngs) + len(made.codes)]
        codes.append(made.codes.numpy())
        usable.append(made.usable)
        pngs += [produce.encode_png(image) for image in made.images]
        for name, values in _score(job.panel, job, batch, made.images, made.usable).items():
            scores[name].append(values)
        bar.update(len(batch))
    fine = np.concatenate(usable)
    columns = _origin(rows, fine)
    columns["image"] = _image_column(rows, pngs)
    columns["codes"] = _codes_column(np.concatenate(codes))
    for name, parts in scores.items():
        columns[name] = pa.array(np.concatenate(parts), mask=~fine)
    _write(job, shard, columns, digest)


def _complete(job: Job, shard: Planned, found: Found, bar: tqdm) -> bool:
    """Fill what a shard lacks from its stored images; False if its images must be made anew.

    That is so when its embeddings are lost and cannot be made again to the same bytes: images
    and embeddings would no longer belong together.
    """
    digest = shards.read_metadata(shard.path)["tgo.embeddings"]["sha256"]
    if not found.embeddings_intact and _embed(job, shard)[1] != digest:
        return False
    table = shards.read_shard(shard.path)
    columns = {name: table[name] for name in (*shards.FIXED_COLUMNS, *found.rewards)}
    missing = [name for name in shard.rewards if name not in found.rewards]
    if missing:
        images = [produce.decode_png(image["bytes"]) for image in table["image"].to_pylist()]
        fine = table["status"].to_numpy() == "ok"
        scores = _score(job.panel.only(missing), job, job.rows(shard), images, fine)
        columns |= {name: pa.array(values, mask=~fine) for name, values in scores.items()}
    _write(job, shard, columns, digest)
    bar.update(table.num_rows)
    return True


def _score(
    panel: Panel,
    job: Job,
    rows: Sequence[produce.Row],
    images: Sequence[np.ndarray] | Tensor,
    usable: np.ndarray,
) -> dict[str, np.ndarray]:
    """Scores per reward model [N]; InputError names a usable sample without a finite one."""
    texts = [row.prompt.text for row in rows]
    scores = produce.score(panel, images, texts, job.batch_size)
    for name, values in scores.items():
        bad = ~np.isfinite(values) & usable
        if bad.any():
            place = int(bad.argmax())
            raise InputError(
                f"{rows[place].id}: its {name} score is {values[place]}; check the checkpoint "
                f"rewards.{name} and generator.dtype (float16 may overflow). Finished shards stay"
            )
    return scores


def _embed(job: Job, shard: Planned) -> tuple[Embeddings, str]:
    """Embed and store a shard's prompts; the sha256 of the file ties shard and file together."""
    texts = [prompt.text for prompt in shard.prompts]
    encoded = embeddings.stored(produce.embed(job.family, [*texts, ""], job.batch_size))
    embedded = Embeddings(of_rows(encoded, slice(-1)), of_rows(encoded, -1))
    ids = [prompt.id for prompt in shard.prompts]
    return embedded, embeddings.write(shard.embeddings, embedded, ids)


def _write(job: Job, shard: Planned, columns: dict[str, Any], embeddings_sha256: str) -> None:
    names = sorted(shard.rewards)
    facts, libraries = job.panel.describe(), {"libraries": library_versions()}
    schema = shards.scored_schema(
        names,
        job.family.code_shape,
        {
            "tgo.fingerprint": {"images": shard.images, "rewards": shard.rewards},
            "tgo.codes": {"shape": job.family.code_shape, "dtype": "float16"},
            "tgo.rewards": {name: facts[name] | libraries for name in names},
            "tgo.embeddings": {"sha256": embeddings_sha256},
            "tgo.versions": fingerprint.versions(),
        },
    )
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    shards.write_shard(shard.path, table)


def _origin(rows: Sequence[produce.Row], usable: np.ndarray) -> dict[str, Any]:
    """The columns that say where a row comes from and whether it may be used."""
    return {
        "id": [row.id for row in rows],
        "prompt": [row.prompt.text for row in rows],
        "prompt_id": [row.prompt.id for row in rows],
        "domain": [row.prompt.domain for row in rows],
        "replicate": [row.replicate for row in rows],
        "seed": [row.seed for row in rows],
        "status": pa.array(["ok" if fine else "failed" for fine in usable]),
        "error": ["" if fine else "sampling gave NaN or infinite codes" for fine in usable],
    }


def _image_column(rows: Sequence[produce.Row], pngs: Sequence[bytes]) -> list[dict[str, Any]]:
    return [{"bytes": png, "path": f"{row.id}.png"} for row, png in zip(rows, pngs, strict=True)]


def _codes_column(codes: np.ndarray) -> pa.Array:
    flat = codes.reshape(len(codes), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
