"""Scores for images that are already there: a folder with prompts, or any table or dataset.

    from tgo.pipeline.scoring.score_images import score_images
    rewards = {"clip": "openai/clip-vit-large-patch14"}
    scores = score_images("images", "prompts.csv", rewards=rewards)
    print(scores.to_pandas())

A row that cannot be scored keeps its place, with status "failed" and the reason. With an output
file the work is done in parts that are kept, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from tgo.pipeline.config.columns import check_new_columns
from tgo.pipeline.errors import DamagedError, InputError
from tgo.pipeline.sources.image_table import Source
from tgo.pipeline.sources.samples import Samples, open_samples
from tgo.pipeline.storage import fingerprint, ownership
from tgo.pipeline.storage.atomic import canonical, remove_partials
from tgo.pipeline.storage.locks import hold
from tgo.pipeline.storage.shards import annotated, read_metadata, read_shard, write_shard
from tgo.rewards.errors import PictureError
from tgo.rewards.panel import Panel, library_versions
from tgo.rewards.pictures import Picture, decode

PART = 1024
"""Rows a part: what a kill can cost."""
_PARTS = "parts of score-images"
"""The kind of folder that parts lie in; only such a folder is ever removed."""


class Decoded(NamedTuple):
    """A row read: a picture, or the reason why there is none."""

    picture: Picture | None
    error: str


def score_images(
    data: str | Path | Source,
    prompts: str | Path | None = None,
    *,
    rewards: Mapping[str, Any] | Panel,
    output: str | Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "float32",
) -> pa.Table:
    """One row an image: id, prompt, status, error, and a float32 column per reward model.

    Args:
        data: A folder of images with `prompts`; or a table, dataset or tar files, as
            `ImageTable` reads them (a `Source` names their columns).
        prompts: A file that names a prompt for each image of a folder.
        rewards: Sources by name, as in params.yaml, or a loaded panel (`device` and `dtype` are
            then its own).
        output: The Parquet file to write; None writes nothing.
        batch_size: Images scored at once.
        device: auto, cpu or cuda.
        dtype: What the towers compute in.

    Returns:
        The table, its rows in the order of the data.

    Raises:
        InputError: what cannot be read as a whole, a name that no column can have, an output that
            this command did not write, or a reward model that gives NaN or an infinity.
        RewardError: a checkpoint that cannot be used, or a batch that does not fit.
    """
    source = data if isinstance(data, Source) else Source(str(data))
    check_new_columns("reward", rewards.names if isinstance(rewards, Panel) else list(rewards))
    if output is not None:
        ownership.require_replaceable_file(Path(output), _is_ours)
    samples = open_samples(source, None if prompts is None else Path(prompts))
    panel = rewards if isinstance(rewards, Panel) else _load(rewards, device, dtype)
    with tqdm(total=len(samples), unit="image", desc=str(output or source.name)) as bar:
        if output is not None:
            return _score_into(Path(output), panel, samples, batch_size, bar)
        return pa.concat_tables(
            _part(panel, samples, part, batch_size, bar) for part in _parts(samples)
        )


def count_failed(table: pa.Table) -> int:
    """Rows that could not be scored."""
    return sum(status != "ok" for status in table["status"].to_pylist())


def summary(table: pa.Table) -> str:
    """How many rows were scored, and the first reason where some were not."""
    failed = count_failed(table)
    error = next((error for error in table["error"].to_pylist() if error), "")
    first = f", {failed} failed (the first: {error})" if failed else ""
    return f"{table.num_rows - failed} images scored{first}"


def _is_ours(path: Path) -> bool:
    """Whether a file is a table of scores of this command."""
    try:
        return b"tgo.rewards" in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _score_into(
    output: Path, panel: Panel, samples: Samples, batch_size: int, bar: tqdm
) -> pa.Table:
    """As `score_images`, by way of parts beside `output` that outlive a kill."""
    decides = {
        "rewards": fingerprint.reward_parts(panel),
        "batch_size": batch_size,
        "code": fingerprint.code_sha256("tgo.pipeline.scoring.score_images"),
    }
    folder = output.resolve().parent / f".{output.name}.parts"
    with hold(folder):
        ownership.require_replaceable(folder, _PARTS)
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)
        paths = []
        for number, part in enumerate(_parts(samples)):
            paths.append(folder / f"part-{number:05d}.parquet")
            identity = decides | {"rows": _rows_sha256(samples, part)}
            if _is_done(paths[-1], identity):
                bar.update(len(part))
                continue
            table = _part(panel, samples, part, batch_size, bar)
            metadata = {"tgo.fingerprint": canonical(identity)}
            write_shard(paths[-1], table.replace_schema_metadata(metadata))
            ownership.mark(folder, _PARTS)
        table = pa.concat_tables(read_shard(path).replace_schema_metadata() for path in paths)
        metadata = {"tgo.rewards": canonical(_facts(panel)), "tgo.batch_size": str(batch_size)}
        write_shard(output, table.replace_schema_metadata(metadata))
        ownership.mark(folder, _PARTS)
        ownership.remove_folder(folder, _PARTS)
    return table


def _parts(samples: Samples) -> Iterator[range]:
    """The indices of the rows of each part."""
    for start in range(0, len(samples), PART):
        yield range(start, min(start + PART, len(samples)))


def _part(panel: Panel, samples: Samples, part: range, batch_size: int, bar: tqdm) -> pa.Table:
    """The rows of one part, decoded ahead of the models by threads."""
    panel.forget()
    errors: list[str] = []
    scores: dict[str, list[float | None]] = {name: [] for name in panel.names}
    for batch, rows in _decoded(samples, part, batch_size):
        errors += [row.error for row in rows]
        for name, values in _score(panel, samples, batch, rows).items():
            scores[name] += values
        bar.update(len(batch))
    columns = {
        "id": pa.array([samples[index].id for index in part], pa.string()),
        "prompt": pa.array([samples[index].prompt for index in part], pa.string()),
        "status": pa.array(["failed" if error else "ok" for error in errors], pa.string()),
        "error": pa.array(errors, pa.string()),
    } | {name: pa.array(values, pa.float32()) for name, values in scores.items()}
    table = pa.table(columns)
    return pa.table(columns, schema=annotated(table.schema, _facts(panel)))


def _decoded(
    samples: Samples, part: range, batch_size: int
) -> Iterator[tuple[range, list[Decoded]]]:
    """Batches of rows; the next one is decoded while a batch is scored."""
    batches = [
        range(start, min(start + batch_size, part.stop))
        for start in range(part.start, part.stop, batch_size)
    ]

    def begin(pool: ThreadPoolExecutor, batch: range) -> list[Future[Decoded]]:
        return [pool.submit(_read, samples, index) for index in batch]

    with ThreadPoolExecutor() as pool:
        coming = begin(pool, batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            rows, coming = coming, begin(pool, following) if following else []
            yield batch, [row.result() for row in rows]


def _read(samples: Samples, index: int) -> Decoded:
    if samples[index].prompt is None:
        return Decoded(None, "no prompt")
    try:
        return Decoded(decode(samples.image(index)), "")
    except PictureError as error:
        return Decoded(None, str(error))
    except OSError as error:
        return Decoded(None, f"cannot be read ({error.strerror or error})")


def _score(
    panel: Panel, samples: Samples, batch: range, rows: Sequence[Decoded]
) -> dict[str, list[float | None]]:
    """Scores by model, None for rows without a picture; InputError where one is not finite."""
    fine = [index for index, row in zip(batch, rows, strict=True) if row.picture is not None]
    pictures = [row.picture for row in rows if row.picture is not None]
    columns: dict[str, list[float | None]] = {name: [None] * len(rows) for name in panel.names}
    texts = [samples[index].prompt or "" for index in fine]
    for name, scores in (panel.score(pictures, texts) if fine else {}).items():
        values = scores.numpy()
        if not np.isfinite(values).all():
            at = int((~np.isfinite(values)).argmax())
            raise InputError(
                f"{samples[fine[at]].id}: its {name} score is {values[at]}; check the checkpoint "
                "of that model and the dtype (float16 may overflow)"
            )
        for index, value in zip(fine, values.tolist(), strict=True):
            columns[name][index - batch.start] = value
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


def _rows_sha256(samples: Samples, part: range) -> str:
    rows = [[samples[index].id, samples[index].prompt, samples.stamp(index)] for index in part]
    return hashlib.sha256(canonical(rows).encode()).hexdigest()


def _is_done(path: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a part is there, whole, and of these very rows and models."""
    try:
        return (
            path.is_file()
            and read_metadata(path) == {"tgo.fingerprint": identity}
            and (read_shard(path).num_rows > 0)
        )
    except DamagedError:  # it is made again
        return False
