"""A sixth reward model: by the path of its file, by an entry point; and what is refused."""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from tgo.rewards import registry
from tgo.rewards.errors import CheckpointError, RewardError
from tgo.rewards.panel import Panel
from tgo.rewards.registry import load

EXAMPLE = str(Path(__file__).parents[2] / "docs/examples/compressibility.py")


def test_the_example_of_the_docs_scores_in_a_panel(
    sources: dict[str, str], images: torch.Tensor, prompts: list[str]
) -> None:
    entries = {
        "clip": sources["clip"],
        "compressibility": {"module": EXAMPLE, "options": {"quality": 90}},
    }
    panel = Panel.load(entries)
    flat = torch.zeros_like(images[:1])
    found = panel.score(torch.cat([images, flat]), [*prompts, ""])["compressibility"]
    assert found.argmax() == len(images)
    file = io.BytesIO()
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90)
    assert found[0] == pytest.approx(-len(file.getvalue()) / 1000)
    facts = panel.describe()["compressibility"]
    assert facts["preprocessing"] == "JPEG of quality 90"
    assert panel.modules()["compressibility"] == "tgo_reward_compressibility"


def test_its_code_is_part_of_its_fingerprint(tmp_path: Path) -> None:
    from tgo.pipeline.storage.fingerprint import reward_parts

    latents = []
    for number, text in enumerate(("1000", "1024")):
        path = tmp_path / f"own{number}.py"
        path.write_text(Path(EXAMPLE).read_text().replace("1000", text))
        panel = Panel.load({"compressibility": {"module": str(path)}})
        latents.append(reward_parts(panel)["compressibility"]["code"])
    assert latents[0] != latents[1]


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = importlib.metadata.EntryPoint(
        "smooth", "docs.examples.compressibility", "tgo.rewards"
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: [offered])
    registry.available.cache_clear()
    try:
        assert list(registry.available()) == [*registry.BUILT_IN, "smooth"]
        assert load("smooth", "").unit == "minus kilobytes"
    finally:
        registry.available.cache_clear()


def test_what_is_refused(sources: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty.py").touch()
    for name, entry, words in (
        ("beauty", "x", "no such reward model; there are pickscore"),
        ("beauty", {"module": "no.such.module"}, "cannot be imported"),
        ("beauty", {"module": "absent.py"}, "absent.py: no such file"),
        ("beauty", {"module": str(tmp_path / "empty.py")}, "no function load"),
        ("own", {"module": EXAMPLE, "source": "x"}, "has no checkpoint"),
        ("own", {"module": EXAMPLE, "options": {"colour": 1}}, "colour"),
        ("hpsv2", {"source": sources["hpsv2"], "options": {"colour": 1}}, "colour"),
        ("clip", {"source": sources["clip"], "backend": "official"}, "has no official package"),
        ("clip", {"source": sources["clip"], "backend": "theirs"}, "there are own and official"),
    ):
        with pytest.raises(RewardError, match=words) as caught:
            load(name, entry)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="takes no options"):
        Panel.load({"clip": {"source": sources["clip"], "options": {"antialias": False}}})


def test_the_antialias_setting_of_hps(
    sources: dict[str, str], images: torch.Tensor, prompts: list[str]
) -> None:
    off = {"source": sources["hpsv2"], "options": {"antialias": False}}
    panels = [Panel.load({"hpsv2": entry}) for entry in (sources["hpsv2"], off)]
    on_scores, off_scores = (panel.score(images, prompts)["hpsv2"] for panel in panels)
    assert (on_scores - off_scores).abs().max() > 1e-4
    assert "antialias off" in panels[1].describe()["hpsv2"]["preprocessing"]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ("torch.zeros(len(batch) - 1)", r"returned torch.float32 \[1\]"),
        ("torch.zeros(len(batch), 1)", r"returned torch.float32 \[2, 1\]"),
        ("torch.zeros(len(batch)) * 1j", "complex"),
        ("torch.zeros(len(batch)) > 0", "bool"),
        ("[0.5] * len(batch)", "returned list"),
        ("None", "returned NoneType"),
        ("sys.exit(0)", r"calls sys.exit\(0\)"),
    ],
)
def test_a_plug_in_that_gives_no_scores_is_named(scores: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / f"odd_{abs(hash(scores))}.py"
    path.write_text(
        "import sys, torch\n"
        "class Odd:\n"
        "    name, version, unit, checkpoint_sha256 = 'odd', '1', 'none', ''\n"
        f"    def score(self, batch): return {scores}\n"
        "def load(source, *, device, dtype): return Odd()\n"
    )
    panel = Panel.load({"odd": {"module": str(path)}})
    with pytest.raises(RewardError, match=f"odd: .*{words}"):
        panel.score(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["a", "b"])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(0)", r"calls sys.exit\(0\)"),
        ("def load(source, **options): raise SystemExit('done')", r"calls sys.exit\('done'\)"),
        ("def load(source, **options): return None", "returned NoneType, not a reward model"),
        ("def load(source", "cannot be imported"),
    ],
)
def test_a_plug_in_that_does_not_load_is_named(code: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken_{abs(hash(code))}.py"
    path.write_text(code)
    with pytest.raises(CheckpointError, match=words):
        load("broken", {"module": str(path)})
