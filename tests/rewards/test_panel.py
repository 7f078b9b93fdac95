"""One panel: shared work, and scores do not depend on other models, row order or cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tgo.rewards import clip, texts
from tgo.rewards.base import Batch
from tgo.rewards.cosine import CosineModel
from tgo.rewards.errors import OutOfMemoryError
from tgo.rewards.panel import Panel, load
from tgo.rewards.texts import CHUNK, TextStore, cut, place_of

NAMES = ("pickscore", "hpsv2", "imagereward", "clip", "aesthetic")

BOUND = 2e-5
"""How far other models, row order and cache may move a score, in any unit (docs/rewards.md)."""


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    for name in NAMES:
        torch.testing.assert_close(one[name], two[name], atol=BOUND, rtol=0, msg=name)


def test_scores_are_float32_on_the_cpu(
    panel: Panel, images: torch.Tensor, prompts: list[str]
) -> None:
    scores = panel.score(images, prompts)
    assert panel.names == tuple(scores) == NAMES
    for score in scores.values():
        assert (score.shape, score.dtype, score.device.type) == ((8,), torch.float32, "cpu")
        assert score.isfinite().all()
        assert score.std() > 1e-3


def test_each_model_alone_agrees(
    panel: Panel, sources: dict[str, str], images: torch.Tensor, prompts: list[str]
) -> None:
    alone = {name: load(name, sources[name]).score(Batch(images, prompts)) for name in NAMES}
    close(panel.score(images, prompts), alone)


def test_batch_size(panel: Panel, images: torch.Tensor, prompts: list[str]) -> None:
    whole = panel.score(images, prompts)
    panel.forget()
    parts = [panel.score(images[at : at + 3], prompts[at : at + 3]) for at in range(0, 8, 3)]
    close(whole, {name: torch.cat([part[name] for part in parts]) for name in NAMES})


def test_order(panel: Panel, images: torch.Tensor, prompts: list[str]) -> None:
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    panel.forget()
    shuffled = panel.score(images[order], [prompts[at] for at in order])
    panel.forget()
    straight = panel.score(images, prompts)
    close(shuffled, {name: score[order] for name, score in straight.items()})


def test_cache(panel: Panel, images: torch.Tensor, prompts: list[str]) -> None:
    panel.forget()
    cold = panel.score(images, prompts)
    warm = panel.score(images, prompts)
    panel.forget()
    again = panel.score(images, prompts)
    for name in NAMES:
        assert torch.equal(cold[name], warm[name]), name
        assert torch.equal(cold[name], again[name]), name
    panel.forget()
    panel.score(images[:2], [prompts[7], prompts[2]])
    close(cold, panel.score(images, prompts))


def test_an_image_is_scored_for_its_own_prompt_only(
    panel: Panel, images: torch.Tensor, prompts: list[str]
) -> None:
    before = panel.score(images, prompts)
    after = panel.score(images, ["something else", *prompts[1:]])
    for name in NAMES:
        torch.testing.assert_close(before[name][1:], after[name][1:], atol=BOUND, rtol=0)
        assert (before[name][0] == after[name][0]) == (name == "aesthetic")


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 100), (100, 40), (1, 1), (7, 600)])
def test_images_of_any_shape(panel: Panel, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    for score in panel.score(images, ["a red circle", "a square"]).values():
        assert score.isfinite().all()


def test_clip_and_aesthetic_share_one_tower_and_one_pass(
    sources: dict[str, str], images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str | Path] = []
    real = clip.load_tower

    def load_tower(source: str | Path, **options: Any) -> clip.Tower:
        loaded.append(source)
        return real(source, **options)

    monkeypatch.setattr(clip, "load_tower", load_tower)
    panel = Panel.load({"aesthetic": sources["aesthetic"], "clip": sources["clip"]})
    assert len(loaded) == 1
    tower = panel._models["clip"].tower  # type: ignore[attr-defined]
    assert tower is panel._models["aesthetic"].tower  # type: ignore[attr-defined]
    passes: list[int] = []
    real_encode = tower._encode

    def encode(pixels: torch.Tensor) -> Any:
        passes.append(1)
        return real_encode(pixels)

    monkeypatch.setattr(tower, "_encode", encode)
    panel.score(images, [""] * len(images))
    assert len(passes) == 1


def test_the_crop_is_made_once(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    from tgo.rewards import base

    places = []
    real = base.render

    def render(images: Any, place: Any) -> Any:
        places.append(place.fit)
        return real(images, place)

    monkeypatch.setattr(base, "render", render)
    panel.score(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), ["a", "b"])
    assert sorted(places) == ["crop", "pad"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_towers_have_32_bit_tails(
    sources: dict[str, str],
    panel: Panel,
    images: torch.Tensor,
    prompts: list[str],
    dtype: torch.dtype,
) -> None:
    half = Panel.load(sources, dtype=dtype)
    scores, full = half.score(images, prompts), panel.score(images, prompts)
    assert half.describe()["clip"]["dtype"] == str(dtype).removeprefix("torch.")
    for name in NAMES:
        assert scores[name].dtype == torch.float32
        spread = full[name].std()
        assert (scores[name] - full[name]).abs().max() < spread, name
        # More digits than the tower's type has: the dot product was not rounded to it.
        assert not torch.equal(scores[name], scores[name].to(dtype).float()), name


@pytest.mark.parametrize("name", ["pickscore", "hpsv2", "clip"])
def test_16_bit_embeddings_are_normalised_in_32(
    sources: dict[str, str], images: torch.Tensor, prompts: list[str], name: str
) -> None:
    model = load(name, sources[name], dtype=torch.float16)
    assert isinstance(model, CosineModel)
    for rows in (model.tower.embed(Batch(images, prompts)), model.encode_prompts(prompts)):
        assert rows.dtype == torch.float32
        assert (rows.norm(dim=-1) - 1).abs().max() < 1e-6


@pytest.mark.slow
def test_a_compiled_panel_sees_one_shape(
    sources: dict[str, str], panel: Panel, images: torch.Tensor, prompts: list[str]
) -> None:
    """Every tower is compiled once a length of text, whatever batches come."""
    counter = CompileCounter()
    compiled = Panel.load(sources)
    compiled.compile(3, backend=counter)
    close(panel.score(images, prompts), compiled.score(images, prompts))
    compiled.score(images[:1], ["short"])
    graphs = counter.frame_count
    assert graphs >= len(compiled.networks())
    compiled.score(images[:1], ["another prompt"])
    compiled.score([images[0], images[1, :, :20]], prompts[:2])
    assert counter.frame_count == graphs
    assert compiled.describe()["clip"]["compiled"] == 3
    torch._dynamo.reset()


class Glutton:
    """A reward model that has room for some images only."""

    name = version = unit = checkpoint_sha256 = "glutton"

    def __init__(self, error: Exception, room: int = 5) -> None:
        self.error = error
        self.room = room
        self.sizes: list[int] = []

    def score(self, batch: Batch) -> torch.Tensor:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return torch.zeros(len(batch))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_too_little_memory_names_a_batch_size_that_fits(
    error: Exception, images: torch.Tensor, prompts: list[str]
) -> None:
    glutton = Glutton(error)
    with pytest.raises(OutOfMemoryError, match=r"8 images at once .* set the batch size to 4"):
        Panel({"glutton": glutton}).score(images, prompts)
    assert glutton.sizes == [8, 4]
    with pytest.raises(OutOfMemoryError, match="nor does one"):
        Panel({"glutton": Glutton(error, room=0)}).score(images, prompts)


def test_other_errors_are_not_taken_for_it(images: torch.Tensor, prompts: list[str]) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        Panel({"glutton": Glutton(RuntimeError("shapes"))}).score(images, prompts)


def test_describe_says_what_decides_a_score(panel: Panel) -> None:
    for name, said in panel.describe().items():
        assert said["name"] == name
        assert len(said["checkpoint_sha256"]) == 64
        assert said["version"] == "unpublished"
        assert {"model", "unit", "usual_range", "dtype", "preprocessing", "files"} <= said.keys()
        assert all(len(digest) == 64 for digest in said["files"].values())


def test_images_and_prompts_must_fit_each_other(panel: Panel, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="8 images, but 2 prompts"):
        panel.score(images, ["a", "b"])
    with pytest.raises(ValueError, match="uint8"):
        panel.score(images.float(), ["a"] * 8)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        panel.score(images[0], ["a"])


def test_padding_is_cut_where_no_prompt_reaches() -> None:
    ids = torch.zeros(3, 77, dtype=torch.long)
    for row, end in enumerate((4, 15, 9)):
        ids[row, end] = 9
    assert place_of(ids, 9).tolist() == [4, 15, 9]
    assert cut(ids, place_of(ids, 9)).shape == (3, 16)
    ids[0, 16] = ids[1, 16] = 9
    assert cut(ids, place_of(ids, 9)).shape == (3, 16)  # only the first end-of-text token counts
    assert cut(ids, torch.tensor([3, 16, 2])).shape == (3, 32)
    assert cut(ids, torch.tensor([3, 40, 2])).shape == (3, 77)
    ids[2] = 1
    assert cut(ids, place_of(ids, 9)).shape == (3, 77)
    assert cut(ids[:, :10], torch.tensor([9])).shape == (3, 10)


def test_cut_padding_changes_no_score(
    panel: Panel, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = [f"a red circle {number}" for number in range(8)]
    panel.forget()
    ours = panel.score(images, short)
    monkeypatch.setattr(texts, "LENGTHS", ())
    panel.forget()
    close(ours, panel.score(images, short))
    panel.forget()


def test_text_store_encodes_each_prompt_once_and_forgets_the_oldest() -> None:
    calls: list[list[str]] = []

    def encode(prompts: object) -> torch.Tensor:
        calls.append(list(prompts))  # type: ignore[call-overload]
        return torch.tensor([[float(len(prompt))] for prompt in calls[-1]])

    store = TextStore(capacity=2)
    assert store.rows(encode, ["a", "bb", "a", "ccc"]).flatten().tolist() == [1, 2, 1, 3]
    assert calls == [["a", "bb", "ccc"]]
    store.rows(encode, ["bb", "ccc"])
    assert len(calls) == 1
    store.rows(encode, ["a"])
    assert calls[1:] == [["a"]]
    store.rows(encode, ["ccc"])
    assert len(calls) == 2
    store.clear()
    store.rows(encode, [str(number) for number in range(CHUNK + 1)])
    assert [len(call) for call in calls[2:]] == [CHUNK, 1]


def test_towers_leave_the_device_between_batches(
    sources: dict[str, str],
    images: torch.Tensor,
    prompts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel, other = (Panel.load(sources) for _ in range(2))
    panel.offload()
    moves: list[str] = []
    monkeypatch.setattr(panel, "_move", lambda device: moves.append(str(device)))
    scores, expected = (each.score(images, prompts) for each in (panel, other))
    assert moves == ["cpu", "cpu"]  # moved to its device (here the CPU) and back
    for name, values in expected.items():
        assert torch.equal(scores[name], values), name
    monkeypatch.setattr(panel, "_score", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.score(images, prompts)
    assert len(moves) == 4
