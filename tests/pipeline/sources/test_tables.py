"""One reader for every table: what separates lines and fields, and what does not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import tables


def rows(path: Path) -> list[dict[str, object] | None]:
    return [
        None if record.values is None else dict(record.values)
        for record in tables.read(str(path)).records
    ]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.tsv", "p.jsonl"])
def test_only_line_breaks_break_lines(tmp_path: Path, separator: str, name: str) -> None:
    text = f"a{separator}b"
    written = f'{{"prompt": "{text}"}}' if name == "p.jsonl" and separator > "\x1f" else text
    if name == "p.jsonl" and separator < " ":
        return  # JSON has no raw control characters
    header = "prompt\n" if name in ("p.csv", "p.tsv") else ""
    assert rows(write(tmp_path / name, f"{header}{written}\r\n")) == [{"prompt": text}]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1),
                min_size=1))  # fmt: skip
def test_a_tsv_of_pandas_comes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    import csv
    import io

    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerows([["n", "prompt"], *([f"{n}", text] for n, text in enumerate(texts))])
    path = write(tmp_path_factory.mktemp("tsv") / "p.tsv", file.getvalue())
    assert [row and row["prompt"] for row in rows(path)] == texts


def test_quotes_in_a_tsv_that_quotes_nothing_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", 'prompt\tkind\n"a" cup\tx\n12" pizza\ty\n"open\tz\n')
    assert [row and row["prompt"] for row in rows(path)] == ['"a" cup', '12" pizza', '"open']


@pytest.mark.parametrize(
    "text",
    ["file;prompt\na.png;x\n", "sep=;\nfile;prompt\na.png;x\n", "file,prompt,,\na.png,x,,\n",
     "file\tprompt\na.png\tx\n"],
)  # fmt: skip
def test_csv_as_spreadsheets_save_it(tmp_path: Path, text: str) -> None:
    assert rows(write(tmp_path / "p.csv", text)) == [{"file": "a.png", "prompt": "x"}]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"prompt": "\\ud83d"}', "line 1: holds half of a surrogate pair"),
        ("[" * 100_000, "line 1: not usable JSON (nested too deeply)"),
        ('{"n": ' + "9" * 6_000 + "}", "line 1: not usable JSON (a number too long)"),
    ],
)
def test_json_that_is_no_use_names_its_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        rows(write(tmp_path / "p.jsonl", text))
    assert part in str(caught.value)


def test_views_decimals_and_classes_are_plain_values(tmp_path: Path) -> None:
    import datasets

    table = pa.table(
        {
            "prompt": pa.array(["a"], pa.string_view()),
            "rating": pa.array(["4.50"]).cast(pa.decimal128(5, 2)),
            "embedding": [[0.1, 0.2]],
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    assert rows(tmp_path / "p.parquet") == [{"prompt": "a", "rating": 4.5}]
    features = datasets.Features(label=datasets.ClassLabel(names=["like", "not like"]))
    datasets.Dataset.from_dict({"label": [1, 0]}, features).to_parquet(tmp_path / "c.parquet")
    assert rows(tmp_path / "c.parquet") == [{"label": "not like"}, {"label": "like"}]


def test_the_damaged_one_of_several_files_is_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / name)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"b\.parquet: is no whole Parquet file"):
        tables.read(str(tmp_path))
