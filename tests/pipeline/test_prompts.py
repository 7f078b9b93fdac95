from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import prompts
from pipeline.errors import InputError


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "prompts.jsonl"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_reads_ids_texts_and_domains_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '\ufeff{"id": "a", "prompt": " a red circle ", "domain": "seen"}\n\n'
        '{"prompt": "ein grüner Würfel"}\r\n',
    )
    first, second = prompts.read(path)
    assert first == prompts.Prompt("a", "a red circle", "seen")
    assert second.text == "ein grüner Würfel"
    assert second.domain == "all"
    assert len(second.id) == 16
    assert prompts.read(path, limit=1) == [first]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "holds no prompts"),
        ("\n \n", "holds no prompts"),
        ('{"prompt": "a"}\n{"prompt"', "line 2: not valid JSON"),
        ('{"prompt": "a"}\n\n["a"]', 'line 3: has no text under "prompt"'),
        ('{"prompt": 3}', 'line 1: has no text under "prompt"'),
        ('{"prompt": "  "}', "line 1: the prompt is empty"),
        ('{"prompt": "a", "id": 3}', "line 1: id is 3"),
        ('{"prompt": "a", "domain": ""}', "line 1: domain is ''"),
        ('{"prompt": "a"}\n{"prompt": "a"}', "line 2: id"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}', "line 2: not UTF-8"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, text: str | bytes, part: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        prompts.read(path)
    assert str(caught.value).startswith(str(path))
    assert part in str(caught.value)


def test_too_few_prompts_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 1 prompts, 2 are asked for"):
        prompts.read(write(tmp_path, '{"prompt": "a"}'), limit=2)
    with pytest.raises(InputError, match="cannot be read"):
        prompts.read(tmp_path / "nothing.jsonl")
