"""Ratings in every form that people publish them in come down to one entry a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import ratings
from tgo.pipeline.sources.image_table import Source
from tgo.pipeline.sources.pictures import Cell
from tgo.pipeline.sources.prompts import id_of


def read(place: Path, **changes: Any) -> ratings.Ratings:
    return ratings.read(Source(str(place), **changes))


def rated(found: ratings.Ratings) -> dict[str, tuple[str, float, int]]:
    return {image.id: (image.prompt, image.rating, image.n_ratings) for image in found.images}


def write_pairs(path: Path, rows: list[tuple[str, str, str, float | None]], **more: Any) -> Path:
    """Comparisons (caption, uid, uid, first's label) in Pick-a-Pic's columns."""
    table: dict[str, Any] = {
        "caption": [row[0] for row in rows],
        "image_0_uid": [row[1] for row in rows],
        "image_1_uid": [row[2] for row in rows],
        "label_0": [row[3] for row in rows],
        "label_1": [None if row[3] is None else 1 - row[3] for row in rows],
        "has_label": [row[3] is not None for row in rows],
        **more,
    }
    pq.write_table(pa.table(table), path)
    return path


def test_several_ratings_of_a_picture_are_averaged_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text(
        "file_name,prompt,stars,style\na.png,a cat,5,x\nb.png,a dog,1,y\na.png,a cat,2,x\n"
        "c.png,a cat,3,x\na.png,a dog,4,y\n"
    )
    found = read(path)
    cat, dog = id_of("a cat"), id_of("a dog")
    assert rated(found) == {
        f"a.png@{cat}": ("a cat", 3.5, 2),
        "c.png": ("a cat", 3.0, 1),
        "b.png": ("a dog", 1.0, 1),
        f"a.png@{dog}": ("a dog", 4.0, 1),
    }
    assert [image.prompt for image in found.images] == ["a cat", "a cat", "a dog", "a dog"]
    assert [image.replicate for image in found.images] == [0, 1, 0, 1]
    assert [image.domain for image in found.images] == ["x", "x", "y", "y"]
    assert found.images[0].location == tmp_path / "a.png"
    assert found.unit == "stars"
    assert "4 images of 2 prompts, 5 ratings (stars); taken for a table (csv)" in found.summary


def test_rows_that_are_means_already_count_for_more(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    rows = [
        {"file_name": "a.png", "prompt": "a", "rating": 4, "n_ratings": 3},
        {"file_name": "a.png", "prompt": "a", "rating": 0},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert rated(read(tmp_path)) == {"a.png": ("a", 3.0, 4)}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("pq"), st.integers(-5, 5)),
                min_size=1))  # fmt: skip
def test_means_and_counts_are_those_of_the_ratings(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]]
) -> None:
    path = tmp_path_factory.mktemp("rated") / "r.csv"
    lines = [f"{name}.png,prompt {prompt},{value}" for name, prompt, value in rows]
    path.write_text("\n".join(["file,text,likes", *lines]))
    found = read(path).images
    assert sum(image.n_ratings for image in found) == len(rows)
    assert sum(image.rating * image.n_ratings for image in found) == pytest.approx(
        sum(value for _, _, value in rows)
    )
    assert len({image.id for image in found}) == len({row[:2] for row in rows})


def test_comparisons_become_win_rates(tmp_path: Path) -> None:
    path = write_pairs(
        tmp_path / "train.parquet",
        [("a", "x", "y", 1.0), ("a", "x", "z", 0.5), ("a", "y", "x", 0.0), ("b", "u", "v", None)],
        jpg_0=[b"x", b"x", b"y", b"u"],
        jpg_1=[b"y", b"z", b"x", b"v"],
    )
    found = read(path)
    assert rated(found) == {
        "x": ("a", pytest.approx(5 / 6), 3),
        "y": ("a", 0.0, 2),
        "z": ("a", 0.5, 1),
    }
    assert found.unit == "win rate"
    assert found.notes == [f"{path}: 1 comparisons without a preference left out (rows 4)"]
    assert found.images[2].location == Cell(1, "jpg_1")
    assert found.pictures.read(found.images[2].location) == b"z"


def test_comparisons_without_pictures_name_files(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "train.parquet", [("a", "x", "y", 1.0)])
    assert read(path, images=tmp_path / "train").images[1].location == tmp_path / "train/y.jpg"


@pytest.mark.parametrize("columns", ["file_name,caption,split", "file_path,caption,label"])
def test_diffusion_kto_as_published_and_as_described(tmp_path: Path, columns: str) -> None:
    (tmp_path / "train_processed_v3.csv").write_text(
        f"{columns}\ntrain/1.jpg,a,exclusive_win\ntrain/2.jpg,a,exclusive_lose\n"
        "train/3.jpg,b,intersections\ntrain/4.jpg,,exclusive_win\n"
    )
    found = read(tmp_path)
    assert rated(found) == {
        "train/1.jpg": ("a", 1.0, 1),
        "train/2.jpg": ("a", 0.0, 1),
        "train/3.jpg": ("b", 0.5, 1),
    }
    assert found.images[0].location == tmp_path / "train/1.jpg"
    assert "1 rows without a prompt left out (lines 5)" in found.notes[0]


def test_datasets_with_pictures(tmp_path: Path) -> None:
    """The same bytes in two rows are one picture, unless a column of ids says otherwise."""
    import datasets

    features = datasets.Features(
        image=datasets.Image(),
        caption=datasets.Value("string"),
        score=datasets.Value("float32"),
        uid=datasets.Value("string"),
    )
    pictures = [{"bytes": data, "path": None} for data in (b"one", b"two", b"one")]
    rows = {"image": pictures, "caption": ["a"] * 3, "score": [1.0, 2.0, 3.0], "uid": list("xyz")}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "r.parquet")
    named = read(tmp_path / "r.parquet")
    assert [image.id for image in named.images] == ["x", "y", "z"]
    table = pq.read_table(tmp_path / "r.parquet").drop_columns("uid")
    (tmp_path / "plain").mkdir()
    pq.write_table(table, tmp_path / "plain/r.parquet")
    found = read(tmp_path / "plain")
    assert [(image.rating, image.n_ratings) for image in found.images] == [(2.0, 2), (2.0, 1)]
    assert found.pictures.read(found.images[1].location) == b"two"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("file,prompt,rating\na.png,a,so-so\n", "line 2: rating is 'so-so', which is no number"),
        ("file,prompt,rating\na.png,a,inf\n", "line 2: rating is infinite"),
        ("file,prompt,rating\na.png,a,\n", "rates no picture"),
        ("file,prompt,rating\n,a,1\n", "rates no picture"),
        ("file,prompt,size\na.png,a,1\n", "no column of ratings, but file, prompt, size"),
        ("name,prompt,rating\na.png,a,1\n", "no column of images"),
        ("file,prompt,rating,count\na.png,a,1,0\n", "line 2: count is 0"),
        ("file_name,caption,split\na.png,a,win\n", "line 2: split is 'win'"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "r.csv")
    assert part in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "r.csv"))


def test_rows_without_a_rating_are_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("file,prompt,rating\na.png,a,\n\nb.png,a,nan\nc.png,a,1\n")
    found = read(tmp_path / "r.csv")
    assert list(rated(found)) == ["c.png"]
    assert found.notes == [
        f"{tmp_path / 'r.csv'}: 2 rows without a rating left out (lines 2, 4)",
        f"{tmp_path / 'r.csv'}: 1 empty lines left out (lines 3)",
    ]


def test_columns_can_be_named_and_a_folder_needs_a_table(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("file,prompt,rating,clicks\na.png,a,1,7\n")
    chosen = {"rating": "clicks"}
    found = read(tmp_path / "r.csv", columns=chosen, images=tmp_path / "images", unit="visits")
    assert rated(found) == {"a.png": ("a", 7.0, 1)}
    assert (found.images[0].location, found.unit) == (tmp_path / "images/a.png", "visits")
    with pytest.raises(InputError, match=r"no column 'clik', but file, prompt"):
        read(tmp_path / "r.csv", columns={"rating": "clik"})
    assert rated(read(tmp_path)) == {"a.png": ("a", 1.0, 1)}  # its only table
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"needs one of metadata\.csv"):
        read(tmp_path / "empty")


def test_rows_nobody_viewed_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("file,prompt,clicks,views\na.png,p,2,8\nb.png,p,0,0\nc.png,p,5,\n")
    found = read(path, columns={"views": "views"})
    assert [(image.id, image.rating, image.n_ratings) for image in found.images] == [
        ("a.png", 0.25, 8)
    ]
    assert found.notes == [f"{path}: 2 rows without a view left out (lines 3, 4)"]
    with pytest.raises(InputError, match=r"no column 'shown', but .*name it with --views-column"):
        read(path, columns={"views": "shown"})
