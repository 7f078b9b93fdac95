"""Scored and labelled shards: Parquet files with checksums, and nothing else in their folder.

A scored shard has one row an image: where it comes from, the picture, what training consumes
(`latents`) and one float32 column per reward model. `datasets.load_dataset(folder)` opens the
folder and shows the pictures. A labelled shard has the same name and rows, without pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tgo.pipeline import read_errors
from tgo.pipeline.config.columns import SCORED as FIXED_COLUMNS
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import canonical, replacing
from tgo.pipeline.storage.shard_writer import writing

if TYPE_CHECKING:
    from tgo.pipeline.storage.atomic import Commits

LABEL_ROWS_PER_GROUP = 1 << 16
LABEL_PAGE_BYTES = 1 << 16  # before compression: pages that stay in cache cost a sixth less
BATCH_ROWS = 1 << 18  # read at a time: a column of them fits into a core's cache
LABELLED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("score", pa.float32()),  # null where a row has none
        pa.field("threshold", pa.float32(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),  # 1, 0, or -1: excluded from training
        pa.field("weight", pa.float32(), nullable=False),
    ]
)
"""What cannot be missing says so: to write that nothing is missing would take time."""
_TEXTS = ("prompt", "prompt_id", "domain", "status", "error")
_TYPES = {field.name: field.type for field in LABELLED_SCHEMA} | dict.fromkeys(_TEXTS, pa.string())
pa.set_memory_pool(pa.system_memory_pool())
"""The others return freed pages between batches; getting them anew costs a tenth of stage two."""
_NAME = re.compile(r"shard-(\d{5})-of-(\d{5})\.parquet")


def shard_name(index: int, count: int) -> str:
    """File name of shard `index`, from 0, of `count`."""
    return f"shard-{index:05d}-of-{count:05d}.parquet"


def shard_paths(folder: Path) -> list[Path]:
    """All shards of a finished folder in order; InputError if none or not all are there."""
    paths = present(folder)
    if not paths:
        raise InputError(f"{folder}: holds no shards; run the stage that writes it (`dvc repro`)")
    count = int(_NAME.fullmatch(paths[0].name)[2])  # type: ignore[index]
    wanted = [shard_name(index, count) for index in range(count)]
    missing = sorted(set(wanted) - {path.name for path in paths})
    if missing or len(paths) != count:
        what = f"{missing[0]} is missing" if missing else f"{paths[-1].name} does not belong there"
        raise InputError(
            f"{folder}: {what}; run the stage that writes it again, it completes the folder"
        )
    return paths


def present(folder: Path) -> list[Path]:
    """The shards that are there, complete set or not, in the order of their names."""
    return sorted(path for path in folder.glob("shard-*.parquet") if _NAME.fullmatch(path.name))


def is_name(name: str) -> bool:
    """Whether a file is named as a shard is."""
    return _NAME.fullmatch(name) is not None


def is_whole(folder: Path) -> bool:
    """Whether every shard that the names speak of is there."""
    paths = present(folder)
    return bool(paths) and all(
        path.name == shard_name(number, len(paths)) for number, path in enumerate(paths)
    )


def index_of(path: Path) -> int:
    """The number of a shard, from 0, by its name."""
    return int(_NAME.fullmatch(path.name)[1])  # type: ignore[index]


def parts_of(path: Path) -> int:
    """How many shards its folder has when it is whole, by its name."""
    return int(_NAME.fullmatch(path.name)[2])  # type: ignore[index]


def scored_schema(
    rewards: Sequence[str],
    latent_shape: Sequence[int],
    metadata: Mapping[str, Any],
    counts: Sequence[str] = (),
    texts: Sequence[str] = (),
    *,
    several_sizes: bool = False,
) -> pa.Schema:
    """Arrow schema of a scored shard.

    Each reward's column carries its entry of `tgo.rewards` as well, so that it keeps it when it is
    copied into another table.

    Args:
        rewards: Names of the float32 columns of scores.
        latent_shape: Of one image's latents, such as [4, 64, 64]; they are stored flat.
        metadata: Goes into the file as canonical JSON values.
        counts: Further columns of whole numbers.
        texts: Further columns of text.
        several_sizes: Whether other shards of the folder hold images of other sizes. Their
            schemas must agree, so latents are then lists of any length.

    Returns:
        The schema, with `datasets` features and the metadata in it.
    """
    from datasets import Features, Image, List, Value

    text = Value("string")
    kinds: dict[str, Any] = dict.fromkeys(FIXED_COLUMNS, text)
    kinds |= {"replicate": Value("int32"), "seed": Value("int64"), "image": Image()}
    stored = metadata.get("tgo.latents", {}).get("dtype", "float16")
    length = -1 if several_sizes else int(np.prod(latent_shape))
    kinds["latents"] = List(Value(stored), length=length)
    kinds |= {reward: Value("float32") for reward in rewards}
    kinds |= {count: Value("int32") for count in counts} | dict.fromkeys(texts, text)
    schema = Features(kinds).arrow_schema
    own = {key: canonical(value) for key, value in metadata.items()}
    schema = annotated(schema, metadata.get("tgo.rewards", {}))
    return schema.with_metadata({**schema.metadata, **own})


def latents_column(
    latents: np.ndarray, missing: np.ndarray | None = None, *, several_sizes: bool = False
) -> pa.Array:
    """The column `latents` of a scored shard.

    Args:
        latents: ``[n, *latent_shape]`` in their stored type.
        missing: bool ``[n]``, which rows have none.
        several_sizes: As of `scored_schema`.

    Returns:
        Their values as lists, row by row.
    """
    flat = latents.reshape(len(latents), -1)
    mask = None if missing is None else pa.array(missing)
    if not several_sizes:
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1], mask=mask)
    there = np.ones(len(flat), bool) if missing is None else ~missing
    ends = np.cumsum([0, *there]) * flat.shape[1]
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(flat[there].ravel()), mask=mask
    )


def annotated(schema: pa.Schema, facts: Mapping[str, Any]) -> pa.Schema:
    """The schema with what is known of each reward model on its column, under `tgo.reward`."""
    for name in facts:
        index = schema.get_field_index(name)
        if index >= 0:
            metadata = {"tgo.reward": canonical(facts[name])}
            schema = schema.set(index, schema.field(index).with_metadata(metadata))
    return schema


def write_shard(path: Path, table: pa.Table) -> None:
    """Write a shard that is there as a whole; otherwise as `writing`."""
    with writing(path, table.schema) as shard:
        shard.add(table)


def write_labels(
    path: Path, tables: Iterable[pa.Table], schema: pa.Schema, commits: Commits | None = None
) -> None:
    """Write a labelled shard under its final name in one step, table by table.

    Scores and weights are not compressed, since they would hardly shrink; labels are packed into
    three bits, which is faster and smaller than compressing them; ids have no statistics, since
    nobody looks for a range of them. Row groups are large: a reader wants columns.
    """
    plain = ("score", "label", "weight")
    squeezed = [name for name in schema.names if name not in plain]
    with (
        replacing(path, commits) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression=dict.fromkeys(squeezed, "zstd") | dict.fromkeys(plain, "none"),
            compression_level=dict.fromkeys(squeezed, 1),
            use_dictionary=False,
            column_encoding={"label": "DELTA_BINARY_PACKED"},
            data_page_size=LABEL_PAGE_BYTES,
            data_page_version="2.0",
            write_statistics=[name for name in schema.names if name != "id"],
            write_page_checksum=True,
            write_page_index=True,
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table, LABEL_ROWS_PER_GROUP)


def read_shard(
    path: Path, columns: Sequence[str] | None = None, row_group: int | None = None
) -> pa.Table:
    """Columns (all if None) of a shard or of one of its row groups, checksums verified.

    Raises InputError naming the file when it is missing, truncated or damaged, and naming the
    column when that is absent.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _require(path, columns or (), file.schema_arrow)
            names = None if columns is None else list(columns)
            if row_group is None:
                return _complete(file.read(names), file.metadata.num_rows)
            # a small part: handing it to other threads costs more than they save
            table = file.read_row_group(row_group, names, use_threads=False)
            return _complete(table, file.metadata.row_group(row_group).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def batches(path: Path, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """Columns of a shard in tables of whole row groups, `rows` rows or one row group at a time.

    Strings other than ids come dictionary-coded, as they are stored: no row costs a string.
    Otherwise as `read_shard`, on the calling thread.
    """
    try:
        with pq.ParquetFile(
            path,
            page_checksum_verification=True,
            read_dictionary=[name for name in columns if name != "id"],  # numbers stay numbers
        ) as file:
            for groups in _runs(file.metadata, rows):
                table = file.read_row_groups(groups, list(columns), use_threads=False)
                yield _complete(table, sum(file.metadata.row_group(n).num_rows for n in groups))
    except KeyError as error:
        raise _absent(path, error.args[0].decode()) from None
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def _complete(table: pa.Table, rows: int) -> pa.Table:
    """The table itself if it has `rows` rows: a damaged page header drops rows without a word."""
    if table.num_columns and len(table) != rows:
        raise pa.ArrowInvalid(f"{len(table)} rows where the footer counts {rows}")
    return table


def count_rows(paths: Sequence[Path]) -> int:
    """Rows of some shards, from their footers; InputError as for `read_shard`."""
    total = 0
    for path in paths:
        try:
            total += pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from None
    return total


def _runs(metadata: pq.FileMetaData, rows: int) -> Iterator[list[int]]:
    """Numbers of consecutive row groups, together at least `rows` rows (but for the last)."""
    run, held = [], 0
    for number in range(metadata.num_row_groups):
        run.append(number)
        held += metadata.row_group(number).num_rows
        if held >= rows:
            yield run
            run, held = [], 0
    if run:
        yield run


def read_metadata(path: Path) -> dict[str, Any]:
    """The project's own metadata of a shard (keys `tgo.*`); InputError as for `read_shard`."""
    try:
        with pq.ParquetFile(path) as file:
            raw = file.schema_arrow.metadata or {}
        return {
            key.decode(): json.loads(value) for key, value in raw.items() if key.startswith(b"tgo.")
        }
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from None


def read_schema(path: Path) -> pa.Schema:
    """The columns of a shard; InputError as for `read_shard`."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def read_scores(folder: Path, reward: str) -> pa.Table:
    """id, prompt_id, domain, status and `reward` of every row of a scored folder, in order."""
    columns = ["id", "prompt_id", "domain", "status", reward]
    return pa.concat_tables(read_shard(path, columns) for path in shard_paths(folder))


def read_latents(
    path: Path, row_group: int | None = None, rows: np.ndarray | None = None
) -> np.ndarray:
    """Latents of a scored shard or of one of its row groups.

    Args:
        path: The shard.
        row_group: Which of its row groups; all for None.
        rows: Places of the wanted rows among them, int64 [n]. For None all come, those of images
            that failed as NaN (tokens as 0), so that every row keeps its place.

    Returns:
        ``[n, *latent_shape]`` in the stored type: float16 latents or int32 tokens.

    Raises:
        InputError: One of `rows` has no latents; otherwise as for `read_shard`.
    """
    table = read_shard(path, ["latents"], row_group)
    column = table["latents"].combine_chunks()
    if rows is not None and pc.any(column.take(pa.array(rows)).is_null()).as_py():
        raise InputError(f"{path}: a labelled row has no latents; run `tgo label` again")
    latents = _unpacked(column, json.loads(table.schema.metadata[b"tgo.latents"])["shape"])
    if rows is not None:
        return latents[rows]
    if column.null_count:
        latents = latents.copy()
        latents[np.asarray(column.is_null())] = np.nan if latents.dtype.kind == "f" else 0
    return latents


def _unpacked(column: pa.Array, shape: Sequence[int]) -> np.ndarray:
    """Latents ``[n, *shape]`` of a column; any numbers where a row has none."""
    if not pa.types.is_fixed_size_list(column.type):
        known = np.asarray(column.is_valid())
        values = column.flatten().to_numpy(zero_copy_only=False)
        latents = np.zeros((len(column), *shape), values.dtype)
        latents[known] = values.reshape(-1, *shape)
        return latents
    # not flatten(), which leaves out missing rows and shifts all that follow
    size = column.type.list_size
    values = column.values.slice(column.offset * size, len(column) * size)
    bare = pa.Array.from_buffers(
        values.type, len(values), [None, values.buffers()[1]], offset=values.offset
    )
    unpacked: np.ndarray = bare.to_numpy().reshape(len(column), *shape)
    return unpacked


def _require(path: Path, columns: Sequence[str], schema: pa.Schema) -> None:
    """Each column is there, those of the contract with its type: no checksum covers a footer."""
    absent = set(columns) - set(schema.names)
    if absent:
        raise _absent(path, sorted(absent)[0])
    for name in columns or schema.names:
        found = schema.field(name).type
        if found != _TYPES.get(name, found):
            raise pa.ArrowInvalid(f"column {name} is {found} where {_TYPES[name]} was written")


def _absent(path: Path, column: str) -> InputError:
    return InputError(
        f"{path}: has no column {column!r}; run `tgo score` again with that reward model in "
        "params.yaml"
    )


def damaged(path: Path, error: Exception) -> InputError:
    """What to say of a shard that cannot be read; a DamagedError where its bytes are at fault."""
    return read_errors.explain(
        path, error, "run the stage that writes it again, it makes this shard anew"
    )
