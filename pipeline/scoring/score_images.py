"""Scores for images that are already there: a folder with prompts, or any dataset.

    from tgo.pipeline.scoring.score_images import rate
    scores = rate("images", "prompts.csv", rewards={"clip": "openai/clip-vit-large-patch14"})
    print(scores.to_pandas())

A row that cannot be scored keeps its place, with status "failed" and the reason. With an output
file the work is done in parts that are kept, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.samples import Samples, open_samples
from tgo.pipeline.storage import fingerprint
from tgo.pipeline.storage.atomic import canonical, remove_partials
from tgo.pipeline.storage.locks import hold
from tgo.pipeline.storage.shards import annotated, read_metadata, read_shard, write_shard
from tgo.rewards.errors import PictureError
from tgo.rewards.panel import Panel, library_versions
from tgo.rewards.pictures import Picture, decode
from tqdm import tqdm

PART = 1024
"""Rows a part: what a kill can cost."""


class Decoded(NamedTuple):
    """A row read: a picture, or the reason why there is none."""

    picture: Picture | None
    error: str


def rate(
    data: str | Path,
    prompts: str | Path | None = None,
    *,
    rewards: Mapping[str, Any] | Panel,
    output: str | Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "float32",
    image: str = "image",
    prompt: str = "prompt",
    split: str = "train",
) -> pa.Table:
    """One row an image: id, prompt, status, error, and a float32 column per reward model.

    `data` is a folder of images, with `prompts` a file that names a prompt for each, or a dataset
    with an `image` and a `prompt` column. `rewards` are sources by name, as in params.yaml, or a
    loaded panel (`device` and `dtype` are then its own). Raises InputError for what cannot be
    read as a whole, and where a reward model gives NaN or an infinity; RewardError for
    checkpoints, and for a batch that does not fit.
    """
    samples = open_samples(data, prompts, image=image, prompt=prompt, split=split)
    panel = rewards if isinstance(rewards, Panel) else _load(rewards, device, dtype)
    with tqdm(total=len(samples), unit="image", desc=str(output or data)) as bar:
        if output is not None:
            return _rate_into(Path(output), panel, samples, batch_size, bar)
        return pa.concat_tables(_part(panel, samples, p, batch_size, bar) for p in _parts(samples))


def summary(table: pa.Table) -> str:
    """How many rows were scored, and the first reason where some were not."""
    errors = [error for error in table["error"].to_pylist() if error]
    first = f", {len(errors)} failed (the first: {errors[0]})" if errors else ""
    return f"{table.num_rows - len(errors)} images scored{first}"


def _rate_into(
    output: Path, panel: Panel, samples: Samples, batch_size: int, bar: tqdm
) -> pa.Table:
    """As `rate`, by way of parts beside `output` that outlive a kill."""
    decides = {
        "rewards": fingerprint.reward_parts(panel),
        "batch_size": batch_size,
        "code": fingerprint.code_sha256("tgo.pipeline.scoring.score_images"),
    }
    folder = output.parent / f".{output.name}.parts"
    with hold(folder):
        remove_partials(folder)
        paths = []
        for number, places in enumerate(_parts(samples)):
            paths.append(folder / f"part-{number:05d}.parquet")
            mark = decides | {"rows": _rows_sha256(samples, places)}
            if _is_done(paths[-1], mark):
                bar.update(len(places))
                continue
            part = _part(panel, samples, places, batch_size, bar)
            told = {"tgo.fingerprint": canonical(mark)}
            write_shard(paths[-1], part.replace_schema_metadata(told))
        table = pa.concat_tables(read_shard(path).replace_schema_metadata() for path in paths)
        told = {"tgo.rewards": canonical(_facts(panel)), "tgo.batch_size": str(batch_size)}
        write_shard(output, table.replace_schema_metadata(told))
        shutil.rmtree(folder)
    return table


def _parts(samples: Samples) -> Iterator[range]:
    """The places of each part."""
    for start in range(0, len(samples), PART):
        yield range(start, min(start + PART, len(samples)))


def _part(panel: Panel, samples: Samples, places: range, batch_size: int, bar: tqdm) -> pa.Table:
    """The rows of one part, decoded ahead of the models by threads."""
    panel.forget()
    errors: list[str] = []
    scores: dict[str, list[float | None]] = {name: [] for name in panel.names}
    for batch, rows in _decoded(samples, places, batch_size):
        errors += [row.error for row in rows]
        for name, values in _score(panel, samples, batch, rows).items():
            scores[name] += values
        bar.update(len(batch))
    columns = {
        "id": pa.array([samples.id(place) for place in places], pa.string()),
        "prompt": pa.array([samples.prompt(place) for place in places], pa.string()),
        "status": pa.array(["failed" if error else "ok" for error in errors], pa.string()),
        "error": pa.array(errors, pa.string()),
    } | {name: pa.array(values, pa.float32()) for name, values in scores.items()}
    table = pa.table(columns)
    return pa.table(columns, schema=annotated(table.schema, _facts(panel)))


def _decoded(
    samples: Samples, places: range, batch_size: int
) -> Iterator[tuple[range, list[Decoded]]]:
    """Batches of rows; the next one is decoded while a batch is scored."""
    batches = [
        range(start, min(start + batch_size, places.stop))
        for start in range(places.start, places.stop, batch_size)
    ]

    def begin(pool: ThreadPoolExecutor, batch: range) -> list[Future[Decoded]]:
        return [pool.submit(_read, samples, place) for place in batch]

    with ThreadPoolExecutor() as pool:
        coming = begin(pool, batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            rows, coming = coming, begin(pool, following) if following else []
            yield batch, [row.result() for row in rows]


def _read(samples: Samples, place: int) -> Decoded:
    if samples.prompt(place) is None:
        return Decoded(None, "no prompt")
    try:
        return Decoded(decode(samples.image(place)), "")
    except PictureError as error:
        return Decoded(None, str(error))
    except OSError as error:
        return Decoded(None, f"cannot be read ({error.strerror or error})")


def _score(
    panel: Panel, samples: Samples, batch: range, rows: Sequence[Decoded]
) -> dict[str, list[float | None]]:
    """Scores by model, None for rows without a picture; InputError where one is not finite."""
    fine = [place for place, row in zip(batch, rows, strict=True) if row.picture is not None]
    pictures = [row.picture for row in rows if row.picture is not None]
    columns: dict[str, list[float | None]] = {name: [None] * len(rows) for name in panel.names}
    texts = [samples.prompt(place) or "" for place in fine]
    for name, found in (panel.score(pictures, texts) if fine else {}).items():
        values = found.numpy()
        if not np.isfinite(values).all():
            at = int((~np.isfinite(values)).argmax())
            raise InputError(
                f"{samples.id(fine[at])}: its {name} score is {values[at]}; check the checkpoint "
                "of that model and the dtype (float16 may overflow)"
            )
        for place, value in zip(fine, values.tolist(), strict=True):
            columns[name][place - batch.start] = value
    return columns


def _load(rewards: Mapping[str, Any], device: str, dtype: str) -> Panel:
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Panel.load(rewards, device=device, dtype=getattr(torch, dtype))


def _facts(panel: Panel) -> dict[str, Any]:
    """What is known of each model, for its column."""
    versions = {"libraries": library_versions()}
    return {name: facts | versions for name, facts in panel.describe().items()}


def _rows_sha256(samples: Samples, places: range) -> str:
    rows = [[samples.id(p), samples.prompt(p), samples.stamp(p)] for p in places]
    return hashlib.sha256(canonical(rows).encode()).hexdigest()


def _is_done(path: Path, mark: Mapping[str, Any]) -> bool:
    """Whether a part is there, whole, and of these very rows and models."""
    try:
        return (
            path.is_file()
            and read_metadata(path) == {"tgo.fingerprint": mark}
            and (read_shard(path).num_rows > 0)
        )
    except InputError:  # truncated or damaged: it is made again
        return False
