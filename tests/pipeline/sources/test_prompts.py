"""Prompt sets in every format, and the messages about faults in them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline.config.prompt_settings import Columns, PromptSet
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.sizes import Size
from tgo.pipeline.sources import prompts
from tgo.pipeline.sources.prompts import Prompt

PUBLISHED = Path(__file__).parents[4] / "shared/prompts"


def write(folder: Path, text: str | bytes, name: str = "prompts.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def texts(found: prompts.PromptList) -> list[str]:
    return [prompt.text for prompt in found.prompts]


def test_reads_ids_texts_and_domains_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '\ufeff{"id": "a", "prompt": " a red circle ", "domain": "seen"}\n'
        '{"prompt": "ein grüner Würfel", "id": 7, "domain": ""}\r\n'
        '{"prompt": "a"}\n',
    )
    first, second, third = prompts.read(path)
    assert first == Prompt("a", "a red circle", "seen")
    assert second == Prompt("7", "ein grüner Würfel", "all")
    assert len(third.id) == 16
    assert prompts.read(path, limit=1) == [first]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "holds no prompts"),
        ("\n \n", "holds no prompts"),
        ('{"prompt": "  "}', "holds no prompts"),
        ('{"prompt": "a"}\n{"prompt"', "line 2: not valid JSON"),
        ('{"prompt": "a"}\n\n["a"]', 'line 3: has no text under "prompt"'),
        ('{"prompt": 3}', 'line 1: has no text under "prompt"'),
        ('{"prompt": "a", "id": 3.5}', "line 1: id is 3.5"),
        ('{"prompt": "a", "domain": ["b"]}', "line 1: domain is ['b']"),
        (
            '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}',
            "line 2: id 'x' is already on",
        ),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}', "line 2: not UTF-8"),
        (b"\xff\n\n\xfe\n\xfd\n", "line 1: not UTF-8 (nor are lines 3, 4)"),
        ('{"prompt": "a"}'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, text: str | bytes, part: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        prompts.read(path)
    assert str(caught.value).startswith(str(path))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("p.csv", "name,size\na,1\n", "has no column of prompts, but name, size"),
        ("p.csv", 'prompt\n"a" b\n', "line 2: not valid CSV"),
        ("p.csv", "prompt,domain\na,b,c\n", "line 2: has 3 fields for 2 columns"),
        ("p.csv", "prompt,prompt\n", "has two columns 'prompt'"),
        ("p.tsv", "\n", "is empty; write a line of column names"),
        ("p.json", '["a",\n "b"', "line 2: not valid JSON"),
        ("p.json", '{"prompt": "a"}', "is no JSON list"),
        ("p.parquet", "no parquet", "is no Parquet file"),
    ],
)
def test_faults_of_other_formats(tmp_path: Path, name: str, text: str, part: str) -> None:
    with pytest.raises(InputError, match=r"^\S*p\.\w+") as caught:
        prompts.read(write(tmp_path, text, name))
    assert part in str(caught.value)


def test_too_few_prompts_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 1 prompts, 2 are asked for"):
        prompts.read(write(tmp_path, '{"prompt": "a"}'), limit=2)
    with pytest.raises(InputError, match="cannot be read"):
        prompts.read(tmp_path / "nothing.jsonl")


def test_empty_and_repeated_lines_are_told_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "a\n\nb\na\n  \nb\n", "prompts.txt")
    assert [prompt.text for prompt in prompts.read(path)] == ["a", "b"]
    assert caplog.messages == [
        f"{path}: 2 without a prompt left out (lines 2, 5)",
        f"{path}: 2 repeated prompts taken once (those with ids of their own are kept) "
        "(lines 4, 6)",
    ]


def test_repetitions_are_kept_when_asked_for_and_under_ids_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, "a\na\na\n", "prompts.txt")
    kept = prompts.check(PromptSet(source=str(path), duplicates="keep"))
    assert texts(kept) == ["a"] * 3
    assert [prompt.id.partition("-")[2] for prompt in kept.prompts] == ["", "2", "3"]
    own = write(tmp_path, '{"id": "x", "prompt": "a"}\n{"id": "y", "prompt": "a"}\n')
    found = prompts.check(own)
    assert [prompt.id for prompt in found.prompts] == ["x", "y"]
    assert "1 repeated prompts" in found.notes[0]


def test_long_lists_of_lines_are_cut(tmp_path: Path) -> None:
    found = prompts.check(write(tmp_path, "a" + "\n" * 30 + "b", "prompts.txt"))
    assert found.notes[0].endswith("29 without a prompt left out (lines 2, 3, 4, 5, 6, 7, 8, 9 "
                                   "and 21 more)")  # fmt: skip


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip),
        min_size=1,
        unique=True,
    ).filter(all)
)
def test_every_format_gives_the_same_prompts(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    rows = [{"Caption": text, "Category": f"c{place % 2}"} for place, text in enumerate(lines)]
    for name, delimiter in (("p.csv", ","), ("p.tsv", "\t")):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["Caption", "Category"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    (folder / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "p.json").write_text(json.dumps(rows))
    table = pa.table(
        {key: [row[key] for row in rows] for key in rows[0]} | {"x": [[1.0]] * len(rows)}
    )
    pq.write_table(table, folder / "p.parquet")
    wanted = [
        Prompt(prompts.id_of(row["Caption"]), row["Caption"], row["Category"]) for row in rows
    ]
    for path in sorted(folder.iterdir()):
        assert prompts.check(path).prompts == wanted, path.name


def test_columns_are_named_or_found(tmp_path: Path) -> None:
    path = write(tmp_path, "what,kind,Text\nan image,k1,other\n", "p.csv")
    assert prompts.check(path).prompts[0].text == "other"
    chosen = PromptSet(source=str(path), columns=Columns(prompt="what", domain="kind"))
    assert prompts.check(chosen).prompts == [Prompt(prompts.id_of("an image"), "an image", "k1")]
    with pytest.raises(InputError, match=r"has no column 'waht', but what, kind, Text"):
        prompts.check(PromptSet(source=str(path), columns=Columns(prompt="waht")))


def test_a_column_tells_the_shape_of_images(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt,shape\na,1216x832\nb,16 : 9\nc,\nd,3 × 4\n", "p.csv")
    told = PromptSet(source=str(path), columns=Columns(size="shape"))
    sizes = [prompt.size for prompt in prompts.read(told)]
    assert sizes == [Size(1216, 832), Size(16, 9), None, Size(3, 4)]
    assert {prompt.size for prompt in prompts.read(path)} == {None}
    path.write_text("prompt,shape\na,wide\n")
    with pytest.raises(InputError, match=r"line 2: size is 'wide'; write width and height as"):
        prompts.read(told)
    path.write_text("prompt,form\na,1x1\n")
    with pytest.raises(InputError, match=r"has no column 'shape', .*; correct columns\.size"):
        prompts.read(told)


def test_a_dataset_of_the_hub_or_a_folder(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"prompt": ["a", "b"], "style": ["x", "y"]})
    rows.save_to_disk(tmp_path / "saved")
    found = prompts.check(PromptSet(source=str(tmp_path / "saved"), format="hub"))
    assert [(prompt.text, prompt.domain) for prompt in found.prompts] == [("a", "x"), ("b", "y")]
    with pytest.raises(InputError, match="cannot be opened as a dataset"):
        prompts.check(tmp_path / "absent")


def test_partiprompts_as_published(tmp_path: Path) -> None:
    """Quotes are characters: a prompt may begin with one that another closes midway."""
    path = write(
        tmp_path,
        'Prompt\tCategory\tChallenge\tNote\n"A B" on a wall\tIndoor Scenes\tBasic\t\n'
        "a cat\tAnimals\tBasic\na cat\tAnimals\tBasic\t\n",
        "p.tsv",
    )
    found = prompts.check(path)
    assert [(prompt.text, prompt.domain) for prompt in found.prompts] == [
        ('"A B" on a wall', "Indoor Scenes"),
        ("a cat", "Animals"),
        ("a cat", "Animals"),
    ]
    assert "1 repeated prompts kept" in found.notes[0]


def test_the_four_styles_of_hpsv2_as_published(tmp_path: Path) -> None:
    styles = ("anime", "concept-art", "paintings", "photo")
    for style in styles:
        write(tmp_path, json.dumps([f"a {style}", "a fox"]), f"{style}.json")
    found = prompts.check(tmp_path)
    assert Counter(prompt.domain for prompt in found.prompts) == dict.fromkeys(styles, 2)
    assert len({prompt.id for prompt in found.prompts}) == 8
    one = prompts.check(PromptSet(source=str(tmp_path / "photo.json"), format="hpsv2"))
    assert [prompt.domain for prompt in one.prompts] == ["photo", "photo"]
    (tmp_path / "photo.json").unlink()
    with pytest.raises(InputError, match=r"photo\.json: is missing"):
        prompts.check(PromptSet(source=str(tmp_path), format="hpsv2"))


def test_captions_of_pickapic_come_once(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "caption": ["a", "b", "a", None],
        "image_0_uid": list("0123"),
        "image_1_uid": list("4567"),
        "label_0": [1.0, 0.5, 0.0, 1.0],
        "jpg_0": [b"x"] * 4,
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    found = prompts.check(tmp_path / "train.parquet")
    assert texts(found) == ["a", "b"]
    assert found.notes == [f"{tmp_path / 'train.parquet'}: 1 without a prompt left out (rows 4)"]


def test_a_set_is_written_as_a_path_or_a_group() -> None:
    assert PromptSet.model_validate("p.txt").model_dump() == "p.txt"
    group = {"source": "p.csv", "columns": {"prompt": "what"}}
    again = PromptSet.model_validate(PromptSet.model_validate(group).model_dump())
    assert again.columns.prompt == "what"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published lists are not here")
def test_the_published_lists() -> None:
    parti = prompts.check(PUBLISHED / "PartiPrompts.tsv")
    assert (len(parti.prompts), len({prompt.domain for prompt in parti.prompts})) == (1632, 12)
    hps = prompts.check(PUBLISHED / "HPSv2_eval.jsonl")
    assert set(Counter(prompt.domain for prompt in hps.prompts).values()) == {800}
    assert len({prompt.id for prompt in hps.prompts}) == 3200
