from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.shard_writer import ROWS_PER_GROUP

SHAPE = (4, 2, 2)


def picture(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 255 - value)).save(file, "PNG")
    return file.getvalue()


def scored_table(rows: int, first: int = 0) -> pa.Table:
    schema = shards.scored_schema(
        ["clip"], SHAPE, {"tgo.latents": {"shape": SHAPE}, "tgo.fingerprint": {"b": 1, "a": "ä"}}
    )
    numbers = range(first, first + rows)
    latents = np.arange(rows * 16, dtype=np.float16)
    return pa.table(
        {
            "id": [f"p{n}-000" for n in numbers],
            "prompt": [f"prompt {n}" for n in numbers],
            "prompt_id": [f"p{n}" for n in numbers],
            "domain": ["all"] * rows,
            "replicate": [0] * rows,
            "seed": [2**62 + n for n in numbers],
            "status": ["ok"] * rows,
            "error": [""] * rows,
            "image": [{"bytes": picture(n % 256), "path": f"p{n}-000.png"} for n in numbers],
            "latents": pa.FixedSizeListArray.from_arrays(pa.array(latents), 16),
            "clip": pa.array([n / 7 for n in numbers], pa.float32()),
        },
        schema=schema,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(2):
        path = tmp_path / "scored" / shards.shard_name(index, 2)
        shards.write_shard(path, scored_table(70, first=70 * index))
    return tmp_path / "scored"


def test_a_shard_comes_back_as_it_was_written(folder: Path) -> None:
    first, _ = shards.shard_paths(folder)
    table, written = shards.read_shard(first), scored_table(70)
    assert table.equals(written)
    assert table.schema.metadata == written.schema.metadata
    assert shards.read_shard(first, ["clip"], row_group=1).num_rows == 70 - ROWS_PER_GROUP
    assert shards.read_metadata(first)["tgo.fingerprint"] == {"a": "ä", "b": 1}
    latents = shards.read_latents(first)
    assert latents.shape == (70, *SHAPE)
    assert latents.dtype == np.float16
    np.testing.assert_array_equal(latents.ravel(), np.arange(70 * 16, dtype=np.float16))
    np.testing.assert_array_equal(shards.read_latents(first, row_group=1), latents[64:])


def test_the_same_rows_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.parquet"
    shards.write_shard(again, scored_table(70))
    assert again.read_bytes() == shards.shard_paths(folder)[0].read_bytes()


def test_rows_without_codes_keep_their_place(tmp_path: Path) -> None:
    table = scored_table(5)
    some = [
        None if row == 2 else latents for row, latents in enumerate(table["latents"].to_pylist())
    ]
    at = table.schema.get_field_index("latents")
    column = pa.array(some, table.schema.field(at).type)
    path = tmp_path / shards.shard_name(0, 1)
    shards.write_shard(path, table.set_column(at, table.schema.field(at), column))
    latents = shards.read_latents(path)
    assert np.isnan(latents[2]).all()
    np.testing.assert_array_equal(latents[3], np.arange(48, 64, dtype=np.float16).reshape(SHAPE))
    np.testing.assert_array_equal(shards.read_latents(path, 0, np.array([4, 1])), latents[[4, 1]])
    with pytest.raises(InputError, match="a labelled row has no latents"):
        shards.read_latents(path, 0, np.array([1, 2]))


def test_missing_tokens_leave_the_others_whole_numbers(tmp_path: Path) -> None:
    schema = pa.schema(
        [("latents", pa.list_(pa.int32(), 4))], metadata={"tgo.latents": '{"shape": [2, 2]}'}
    )
    for name, rows in (("some", [[1, 2, 3, 4], None]), ("none", [None, None])):
        pq.write_table(pa.table({"latents": rows}, schema=schema), tmp_path / name)
        latents = shards.read_latents(tmp_path / name)
        assert latents.dtype == np.int32
        assert latents.tolist() == [np.reshape(row or [0] * 4, (2, 2)).tolist() for row in rows]


def test_images_and_codes_are_stored_as_they_are(folder: Path) -> None:
    group = pq.ParquetFile(shards.shard_paths(folder)[0]).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for name in ("image.bytes", "latents.list.element"):
        assert columns[name].compression == "UNCOMPRESSED"
        assert "PLAIN" in columns[name].encodings
        assert not columns[name].has_dictionary_page
        assert columns[name].has_offset_index


def test_datasets_opens_the_folder_and_shows_the_images(folder: Path, tmp_path: Path) -> None:
    import datasets

    (folder / ".manifest.json").write_text("{}")
    opened = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(opened) == 140
    assert opened.features["image"] == datasets.Image()
    assert opened[3]["image"].getpixel((0, 0)) == (3, 0, 252)
    assert opened[139]["id"] == "p139-000"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_one_flipped_bit_is_found_and_the_file_named(folder: Path) -> None:
    path = shards.shard_paths(folder)[0]
    flip(path, path.read_bytes().index(b"IDAT") + 20)  # inside a picture
    with pytest.raises(InputError, match=r"shard-00000-of-00002\.parquet: is truncated or damaged"):
        shards.read_shard(path)
    assert shards.read_shard(path, ["clip"]).num_rows == 70  # other columns are not touched


@pytest.mark.parametrize("keep", [0, 3, 1000, -9])
def test_a_truncated_shard_is_found_and_named(folder: Path, keep: int) -> None:
    path = shards.shard_paths(folder)[1]
    path.write_bytes(path.read_bytes()[:keep])
    for read in (shards.read_shard, shards.read_metadata):
        with pytest.raises(InputError, match=r"shard-00001-of-00002\.parquet: is truncated"):
            read(path)


def test_a_column_of_another_type_is_found(folder: Path) -> None:
    """A flipped bit of the footer can make text of ids bytes, which no page's checksum tells."""
    path = shards.shard_paths(folder)[0]
    table = scored_table(70)
    place = table.schema.get_field_index("id")
    pq.write_table(table.set_column(place, "id", table["id"].cast(pa.binary())), path)
    with pytest.raises(InputError, match=r"damaged .column id is binary"):
        shards.read_shard(path, ["id"])
    assert len(shards.read_shard(path, ["prompt"])) == 70


def test_missing_shards_and_columns_are_named(folder: Path, tmp_path: Path) -> None:
    first, second = shards.shard_paths(folder)
    with pytest.raises(InputError, match="has no column 'aesthetic'"):
        shards.read_scores(folder, "aesthetic")
    second.unlink()
    with pytest.raises(InputError, match=r"shard-00001-of-00002\.parquet is missing"):
        shards.shard_paths(folder)
    with pytest.raises(InputError, match="is missing"):
        shards.read_shard(second)
    first.rename(folder / shards.shard_name(0, 1))
    (folder / shards.shard_name(1, 2)).touch()
    with pytest.raises(InputError, match="does not belong there"):
        shards.shard_paths(folder)
    with pytest.raises(InputError, match="holds no shards"):
        shards.shard_paths(tmp_path / "nothing")
