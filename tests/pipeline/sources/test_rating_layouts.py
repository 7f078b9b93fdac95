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
from tgo.pipeline.sources.aggregates import Aggregate
from tgo.pipeline.sources.image_table import Source
from tgo.pipeline.sources.pictures import label_studio_file
from tgo.pipeline.sources.rating_layouts import LAYOUTS, win_rates


def read(place: Path, **changes: Any) -> ratings.Ratings:
    return ratings.read(Source(str(place), **changes))


def read_with(place: Path, how: Aggregate) -> ratings.Ratings:
    return ratings.read(Source(str(place)), how)


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
        task(local, (1, "number", {"number": 1})),
        cancelled,
    ]
    found = read(write_json(tmp_path / "project-1.json", tasks))
    assert rated(found) == {"a.png": 3.0, "set/b.png": 1.0}
    assert found.images[0].n_ratings == 2
    assert "Label Studio's tasks" in found.summary
    assert found.notes == [f"{found.name}: 1 tasks without an answer left out (entries 3)"]

    chosen = [task(local, (1, "choices", {"choices": ["Good"]}))]
    assert rated(read(write_json(tmp_path / "choices.json", chosen))) == {"set/b.png": 1.0}


def test_label_studio_with_several_questions_and_further_columns(tmp_path: Path) -> None:
    data = {"image": "a.png", "prompt": "a cup", "style": "oil"}
    both = task(data, (1, "rating", {"rating": 5}), (1, "rating", {"rating": 1}))
    for annotation, name in zip(both["annotations"], ("alignment", "beauty"), strict=True):
        annotation["result"][0]["from_name"] = name
    path = write_json(tmp_path / "two.json", [both])
    with pytest.raises(InputError, match="entry 1: several questions are answered, alignment, bea"):
        read(path)
    found = read(path, columns={"rating": "beauty"}, keep=("style",))
    assert (rated(found), found.images[0].kept) == ({"a.png": 1.0}, ("oil",))
    assert found.images[0].domain == "oil"
    with pytest.raises(InputError, match="no rated row has a value 'stile'"):
        read(path, columns={"rating": "beauty"}, keep=("stile",))


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        ({"annotations": ["x"]}, r"annotations\.0: should be an object"),
        ({"annotations": [{"result": ["x"]}]}, r"annotations\.0\.result\.0: "),
        ({"annotations": [{"result": [{"value": 5}]}]}, r"annotations\.0\.result\.0\.value: "),
    ],
)
def test_what_label_studio_does_not_write_is_named(
    tmp_path: Path, bad: dict[str, Any], wrong: str
) -> None:
    row = {"data": {"image": "a.png", "prompt": "p"}} | bad
    with pytest.raises(InputError, match=f"entry 1: {wrong}"):
        read(write_json(tmp_path / "bad.json", [row]))


def test_an_answer_without_a_picture_is_left_out(tmp_path: Path) -> None:
    tasks = [
        task({"prompt": "p", "image": name}, (1, "rating", {"rating": 3})) for name in ("", "a.png")
    ]
    found = read(write_json(tmp_path / "tasks.json", tasks))
    assert rated(found) == {"a.png": 3.0}
    assert found.notes == [f"{found.name}: 1 answers without a picture left out (entries 1)"]


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


def test_argilla_names_raters_and_leaves_out_what_was_discarded(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "id": ["u0", "u1"],
        "image": ["a.png", "b.png"],
        "prompt": ["a cup", "a cup"],
        "beauty.responses": [[1, 2], [4, 5]],
        "beauty.responses.users": [["ann", "bob"], ["ann", "bob"]],
        "beauty.responses.status": [["submitted", "discarded"], ["submitted", "submitted"]],
    }
    pq.write_table(pa.table(table), tmp_path / "records.parquet")
    found = read(tmp_path / "records.parquet")
    assert rated(found) == {"u0": 1.0, "u1": 4.5}
    assert (found.unit, found.agreement and found.agreement.raters) == ("beauty", 2)
    assert "Argilla's records" in found.summary
    table["fit.responses"] = [[1], [1]]
    pq.write_table(pa.table(table), tmp_path / "two.parquet")
    with pytest.raises(InputError, match="one question and has beauty, fit; choose with --rating"):
        read(tmp_path / "two.parquet")
    assert rated(read(tmp_path / "two.parquet", columns={"rating": "fit"})) == {"u0": 1, "u1": 1}


def test_argilla_as_json(tmp_path: Path) -> None:
    answers = [
        {"value": 4, "user_id": "ann"},
        {"value": 2, "user_id": "bob", "status": "discarded"},
        {"value": 5, "user_id": "cleo"},
    ]
    record = {
        "id": "u0",
        "fields": {"image": "a.png", "prompt": "a cup"},
        "metadata": {"style": "oil"},
        "responses": {"beauty": answers},
    }
    found = read(write_json(tmp_path / "records.json", [record]), keep=("style",))
    assert [(image.rating, image.n_ratings, image.kept) for image in found.images] == [
        (4.5, 2, ("oil",))
    ]
    with pytest.raises(InputError, match="needs objects under 'fields' and 'responses'"):
        read(write_json(tmp_path / "bad.json", [record | {"responses": []}]))


def test_hpdv2_ranks_and_preferences(tmp_path: Path) -> None:
    row = {"prompt": "a cup", "image_path": ["a.png", "b.png", "c.png"], "rank": [2, 1, 3]}
    assert rated(read(write_json(tmp_path / "test.json", [row]))) == {
        "a.png": 0.5,
        "b.png": 1.0,
        "c.png": 0.0,
    }
    row = {"prompt": "a", "image_path": ["a.png", "b.png"], "human_preference": [0, 1]}
    assert rated(read(write_json(tmp_path / "train.json", [row]))) == {"a.png": 0.0, "b.png": 1.0}
    row["user_hash"] = "u1"
    found = read_with(write_json(tmp_path / "train.json", [row]), Aggregate.bradley_terry)
    assert rated(found)["b.png"] > rated(found)["a.png"]
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


@pytest.mark.parametrize(
    ("pair", "answer", "first"),
    [
        (("image_1", "image_2"), 1, 1.0),
        (("image_1", "image_2"), "2", 0.0),
        (("image_0", "image_1"), 1.0, 0.0),
        (("image_a", "image_b"), [{"selected": "left"}], 1.0),
        (("image_a", "image_b"), '[{"selected": "right"}]', 0.0),
    ],
)
def test_numbers_name_a_picture_as_its_column_does(
    tmp_path: Path, pair: tuple[str, str], answer: Any, first: float
) -> None:
    row = {"prompt": "p", pair[0]: "a.png", pair[1]: "b.png", "preferred": answer}
    found = read(write_json(tmp_path / "pairs.json", [row]))
    assert rated(found) == {"a.png": first, "b.png": 1 - first}


def test_a_number_that_names_no_picture_needs_a_meaning(tmp_path: Path) -> None:
    row = {"prompt": "p", "image_a": "a.png", "image_b": "b.png", "pw": 1}
    path = write_json(tmp_path / "pairs.json", [row])
    with pytest.raises(InputError, match=r"no column of ratings, but .*name it with --rating"):
        read(path)
    with pytest.raises(InputError, match=r"1 says of neither image_a nor image_b .*--labels '1=1'"):
        read(path, columns={"rating": "pw"})
    assert rated(read(path, columns={"rating": "pw"}, labels={"1": 1.0}))["a.png"] == 1.0


def test_a_comparison_that_lacks_a_picture_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "image_a": "a.png", "image_b": other, "preferred": "a"}
        for other in ("", "b.png")
    ]
    found = read(write_json(tmp_path / "pairs.json", rows))
    assert rated(found) == {"a.png": 1.0, "b.png": 0.0}
    assert "1 comparisons that lack a picture left out (entries 1)" in found.notes[0]


@pytest.mark.parametrize(
    ("format", "wrong"),
    [
        ("chosen", "lacks two columns such as chosen and rejected"),
        ("rankings", "lacks lists of pictures and of their ranks"),
        ("hpdv3", "no column 'path1'"),
        ("folders", "no two subfolders named good and bad"),
    ],
)
def test_a_layout_that_does_not_fit_is_told(tmp_path: Path, format: str, wrong: str) -> None:
    (tmp_path / "r.csv").write_text("prompt,image_a,image_b,preferred\np,a.png,b.png,a\n")
    with pytest.raises(InputError, match=wrong):
        read(tmp_path / "r.csv", format=format)


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
