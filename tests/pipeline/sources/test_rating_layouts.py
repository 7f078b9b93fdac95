"""The exports of the tools in which people rate, as they are."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tgo.pipeline.commands.data import RatingFormat
from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import ratings
from tgo.pipeline.sources.image_table import Source
from tgo.pipeline.sources.pictures import label_studio_file
from tgo.pipeline.sources.rating_layouts import LAYOUTS, win_rates


def read(place: Path, **changes: Any) -> ratings.Ratings:
    return ratings.read(Source(str(place), **changes))


def rated(found: ratings.Ratings) -> dict[str, float]:
    return {image.id: image.rating for image in found.images}


def write_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def task(data: dict[str, str], *answers: tuple[int, str, dict[str, Any]]) -> dict[str, Any]:
    """A task of Label Studio with answers (rater, kind, value)."""
    results = [
        {"completed_by": by, "was_cancelled": False, "result": [{"type": kind, "value": value}]}
        for by, kind, value in answers
    ]
    return {"id": 1, "data": data, "annotations": results}


def test_label_studio_ratings_and_choices(tmp_path: Path) -> None:
    upload = {"image": "/data/upload/3/0a1b2c3d-a.png", "prompt": "a cup"}
    local = {"image": "/data/local-files/?d=set/b.png", "prompt": "a cup"}
    cancelled = task({"image": "c.png", "prompt": "a cup"}, (1, "rating", {"rating": 1}))
    cancelled["annotations"][0]["was_cancelled"] = True
    tasks = [
        task(upload, (1, "rating", {"rating": 4}), (2, "rating", {"rating": 2})),
        task(local, (1, "choices", {"choices": ["Good"]})),
        cancelled,
    ]
    found = read(write_json(tmp_path / "project-1.json", tasks))
    assert rated(found) == {"a.png": 3.0, "set/b.png": 1.0}
    assert found.images[0].n_ratings == 2
    assert "Label Studio's tasks" in found.summary
    assert found.notes == [f"{found.name}: 1 tasks without an answer left out (entries 3)"]


def test_label_studio_pairs(tmp_path: Path) -> None:
    pair = {"prompt": "a cup", "left_image": "a.png", "right_image": "b.png"}
    tasks = [
        task(pair, (1, "pairwise", {"selected": "left"}), (2, "pairwise", {"selected": "right"})),
        task(pair, (3, "pairwise", {"selected": "left"})),
    ]
    found = read(write_json(tmp_path / "pairs.json", tasks))
    assert rated(found) == {"a.png": pytest.approx(2 / 3), "b.png": pytest.approx(1 / 3)}


@pytest.mark.parametrize("value", [4, [{"rating": 4}], '[{"rating": 4}]', {"rating": 4}])
def test_label_studio_json_min_and_csv(tmp_path: Path, value: Any) -> None:
    row = {"image": "a.png", "prompt": "a cup", "rating": value, "annotator": 1}
    assert rated(read(write_json(tmp_path / "min.json", [row]))) == {"a.png": 4.0}


def test_argilla_answers_that_were_submitted(tmp_path: Path) -> None:
    answers = [{"value": 4, "status": "submitted"}, {"value": 2, "status": "discarded"}]
    table = {"image_path": ["a.png"], "prompt": ["a cup"], "rating": [answers]}
    pq.write_table(pa.table(table), tmp_path / "v1.parquet")
    assert rated(read(tmp_path / "v1.parquet")) == {"a.png": 4.0}
    table = {"image_path": ["a.png"], "prompt": ["a cup"], "rating.responses": [[4, 2]]}
    pq.write_table(pa.table(table), tmp_path / "v2.parquet")
    (image,) = read(tmp_path / "v2.parquet").images
    assert (image.rating, image.n_ratings) == (3.0, 2)


def test_hpdv2_ranks_and_preferences(tmp_path: Path) -> None:
    row = {"prompt": "a cup", "image_path": ["a.png", "b.png", "c.png"], "rank": [2, 1, 3]}
    assert rated(read(write_json(tmp_path / "test.json", [row]))) == {
        "a.png": 0.5,
        "b.png": 1.0,
        "c.png": 0.0,
    }
    row = {"prompt": "a", "image_path": ["a.png", "b.png"], "human_preference": [0, 1]}
    assert rated(read(write_json(tmp_path / "train.json", [row]))) == {"a.png": 0.0, "b.png": 1.0}
    row["human_preference"] = [1]
    with pytest.raises(InputError, match="2 pictures with 1 ranks"):
        read(write_json(tmp_path / "bad.json", [row]))


def test_image_reward_db(tmp_path: Path) -> None:
    row = {
        "image_path": "a.webp",
        "prompt_id": "1-2",
        "prompt": "a",
        "rank": 3,
        "overall_rating": 6,
    }
    found = read(write_json(tmp_path / "train.json", [row]))
    assert (rated(found), found.unit) == ({"a.webp": 6.0}, "overall_rating")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "path1": "a.png", "path2": "b.png", "confidence": 0.9},
        {"prompt": "p", "chosen": "a.png", "rejected": "b.png"},
        {"caption": "p", "image_a": "a.png", "image_b": "b.png", "preferred": "a"},
        {"caption": "p", "image_0": "a.png", "image_1": "b.png", "label": 0},
        {"prompt": "p", "left": "a.png", "right": "b.png", "winner": "a.png"},
        {"prompt": "p", "images": ["a.png", "b.png"], "ranking": [1, 2]},
    ],
    ids=lambda row: next(key for key in row if key not in ("prompt", "caption")),
)
def test_pairs_in_every_form(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    found = read(path)
    assert (rated(found), found.unit) == ({"a.png": 1.0, "b.png": 0.0}, "win rate")


def test_ties_and_nonsense_in_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,image_a,image_b,preferred\np,a.png,b.png,Tie\np,c.png,d.png,\n")
    found = read(path)
    assert rated(found) == {"a.png": 0.5, "b.png": 0.5}
    assert "1 comparisons without a preference left out (lines 3)" in found.notes[0]
    path.write_text("prompt,image_a,image_b,preferred\np,a.png,b.png,c\n")
    with pytest.raises(InputError, match="line 2: 'c' says of neither"):
        read(path)


def test_folders_of_good_and_bad_pictures(tmp_path: Path) -> None:
    for name in ("good/a.png", "bad/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
        (tmp_path / name).with_suffix(".txt").write_text("a cup\n")
    found = read(tmp_path)
    assert rated(found) == {"good/a.png": 1.0, "bad/b.png": 0.0}
    assert "bad (0) and good (1)" in found.summary
    (tmp_path / "bad/b.txt").unlink()
    with pytest.raises(InputError, match=r"b\.png: has no prompt; write it into b\.txt"):
        read(tmp_path)


def test_tars_with_mixed_endings(tmp_path: Path) -> None:
    files = {"0.jpg": b"one", "0.txt": b"a cup", "0.json": b'{"rating": 4}'}
    files |= {"1.png": b"two", "1.txt": b"a mug", "1.json": b'{"rating": "2/5"}'}
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = read(tmp_path)
    assert rated(found) == {"0": 4.0, "1": 2.0}
    assert [found.pictures.read(image.location) for image in found.images] == [b"one", b"two"]
    (tmp_path / "00000.tar").write_bytes((tmp_path / "00000.tar").read_bytes()[:600])
    with pytest.raises(InputError, match=r"00000\.tar: is no whole tar file"):
        read(tmp_path)


def test_columns_to_keep(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("file,prompt,rating,style\na.png,a,1,oil\nb.png,a,2,\n")
    found = read(tmp_path / "r.csv", keep=("style",))
    assert [image.kept for image in found.images] == [("oil",), ("",)]
    with pytest.raises(InputError, match="no column 'stile'"):
        read(tmp_path / "r.csv", keep=("stile",))


def test_every_layout_can_be_asked_for() -> None:
    assert {layout.name for layout in LAYOUTS} | {"folders"} == set(RatingFormat)


def test_ranks_become_shares_of_the_others() -> None:
    assert win_rates([1, 2, 2, 4]) == [1.0, 0.5, 0.5, 0.0]


def test_addresses_of_label_studio() -> None:
    assert label_studio_file("https://example.org/a.png") == "https://example.org/a.png"
    assert label_studio_file("/data/upload/1/deadbeef-x-y.png") == "x-y.png"


def test_label_studios_short_forms_find_the_files_behind_its_addresses(tmp_path: Path) -> None:
    """JSON-MIN and CSV name pictures as the server does, and a rating as a list of one."""
    for name in ("x-y.png", "b.png"):
        (tmp_path / name).write_bytes(b"a picture")
    first, second = "/data/upload/1/deadbeef-x-y.png", "/data/local-files/?d=b.png"
    rows = [
        {"image": address, "prompt": "a cat", "rating": [{"rating": stars}], "annotator": 1}
        for address, stars in ((first, 4), (second, 2))
    ]
    (tmp_path / "min.json").write_text(json.dumps(rows))
    with (tmp_path / "short.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(list(rows[0]))
        for row in rows:
            writer.writerow([v if isinstance(v, str) else json.dumps(v) for v in row.values()])
    pair = {"image_a": first, "image_b": second, "prompt": "a cat", "preference": "left"}
    (tmp_path / "pairs.json").write_text(json.dumps([pair]))
    for name, values in (("min.json", [4, 2]), ("short.csv", [4, 2]), ("pairs.json", [1, 0])):
        found = ratings.read(Source(str(tmp_path / name)))
        assert [image.rating for image in found.images] == values
        assert [image.id for image in found.images] == ["x-y.png", "b.png"]
        assert [image.location for image in found.images] == [
            tmp_path / "x-y.png",
            tmp_path / "b.png",
        ]
