"""Same prompt, same seed, two models: evaluated shards of base and tuned joined row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.results import GOLD, TRUTH, UTILITY

Judge = Callable[[NDArray[np.uint8], list[str]], Sequence[Any]]
_COLUMNS = ["id", "prompt", "prompt_id", "domain", "seed", "status"]


@dataclass(frozen=True)
class Pairs:
    """N image pairs of one prompt set, in shard order.

    Attributes:
        ids, prompts, prompt_ids, domains, seeds: one entry a pair.
        base, tuned: scores float64 ``[N]`` by reward model; where a judge was asked, also its
            ``truth`` (share of the prompt's attributes that are correct), ``gold`` (1 where all
            of them are) and, from a judge that knows raters, ``utility_NAME`` for each kind.
        excluded: pairs left out because an image of either model failed.
    """

    ids: list[str]
    prompts: list[str]
    prompt_ids: list[str]
    domains: list[str]
    seeds: list[int]
    base: dict[str, NDArray[np.float64]]
    tuned: dict[str, NDArray[np.float64]]
    excluded: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def scores(self) -> list[str]:
        """Names of all scores: reward models, then the judge's."""
        return list(self.base)

    def gain(self, score: str) -> NDArray[np.float64]:
        """Score of the tuned image minus that of the base image ``[N]``."""
        return self.tuned[score] - self.base[score]

    def only(self, kept: NDArray[np.bool_]) -> Pairs:
        """The pairs at which ``kept`` ``[N]`` is true."""
        rows = np.flatnonzero(kept).tolist()
        texts: dict[str, Any] = {
            name: [getattr(self, name)[row] for row in rows]
            for name in ("ids", "prompts", "prompt_ids", "domains", "seeds")
        }
        sides: dict[str, Any] = {
            side: {name: values[kept] for name, values in getattr(self, side).items()}
            for side in ("base", "tuned")
        }
        return replace(self, **texts, **sides)


def read_pairs(
    base: Path, tuned: Path, rewards: Sequence[str], judge: Judge | None = None
) -> Pairs:
    """Join two evaluated folders, and ask the judge about every image of a pair.

    Args:
        base: folder of scored shards of the base model's images.
        tuned: the same of the tuned model's.
        rewards: the reward models whose scores are read.
        judge: gives `truth`, `gold` and perhaps utilities; None leaves them out.

    Returns:
        The pairs in which both images succeeded, in the order of the shards.

    Raises:
        InputError: they hold different images, or no pair in which both images succeeded; or the
            judge cannot judge them.
    """
    before, after = _rows(base, rewards), _rows(tuned, rewards)
    if [(row["id"], row["seed"]) for row in before] != [(row["id"], row["seed"]) for row in after]:
        raise InputError(
            f"{tuned}: not the same prompts and seeds as in {base}; run `tgo evaluate` again"
        )
    kept = [(b, a) for b, a in zip(before, after, strict=True) if _succeeded(b) and _succeeded(a)]
    if not kept:
        raise InputError(
            f"{tuned}: no image pair succeeded; see the error column of its shards for why"
        )

    def scores(side: int) -> dict[str, NDArray[np.float64]]:
        return {name: np.array([pair[side][name] for pair in kept], float) for name in rewards}

    joined = Pairs(
        ids=[row["id"] for row, _ in kept],
        prompts=[row["prompt"] for row, _ in kept],
        prompt_ids=[row["prompt_id"] for row, _ in kept],
        domains=[row["domain"] for row, _ in kept],
        seeds=[row["seed"] for row, _ in kept],
        base=scores(0),
        tuned=scores(1),
        excluded=len(before) - len(kept),
    )
    if judge:
        for folder, scored in ((base, joined.base), (tuned, joined.tuned)):
            verdicts = judge_folder(folder, judge, joined.ids)
            scored[TRUTH] = np.array([verdicts[row].share for row in joined.ids], float)
            scored[GOLD] = np.array([verdicts[row].all_right for row in joined.ids], float)
            for name in getattr(verdicts[joined.ids[0]], "utility", {}):
                liked = [verdicts[row].utility[name] for row in joined.ids]
                scored[f"{UTILITY}{name}"] = np.array(liked, float)
    return joined


def read_images(folder: Path, ids: Iterable[str]) -> dict[str, bytes]:
    """The stored image files of some rows, by id; shards without any of them stay unread."""
    wanted = set(ids)
    found: dict[str, bytes] = {}
    for path in shards.shard_paths(folder):
        if wanted.isdisjoint(shards.read_shard(path, ["id"])["id"].to_pylist()):
            continue
        for row in shards.read_shard(path, ["id", "image"]).to_pylist():
            if row["id"] in wanted and row["image"] is not None:
                found[row["id"]] = row["image"]["bytes"]
    return found


def judge_folder(folder: Path, judge: Judge, ids: Iterable[str]) -> dict[str, Any]:
    """The gold judge's verdicts on the stored images of ``ids``, by id; one shard in memory."""
    wanted = set(ids)
    verdicts: dict[str, Any] = {}
    for path in shards.shard_paths(folder):
        table = shards.read_shard(path, ["id", "prompt", "image"])
        rows = [row for row in table.to_pylist() if row["id"] in wanted]
        if rows:
            images = np.stack([decode(row["image"]["bytes"]) for row in rows])
            judged = ask(judge, images, [row["prompt"] for row in rows], path)
            verdicts.update(zip((row["id"] for row in rows), judged, strict=True))
    return verdicts


def decode(image: bytes) -> NDArray[np.uint8]:
    """An image file as RGB uint8 ``[H, W, 3]``."""
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def ask(judge: Judge, images: NDArray[np.uint8], prompts: list[str], path: Path) -> Sequence[Any]:
    """Verdicts on images ``[B, H, W, 3]``; InputError names ``path`` if they cannot be judged."""
    try:
        return judge(images, prompts)
    except ValueError as error:
        raise InputError(
            f"{path}: the gold judge cannot judge these images ({error}); "
            "set evaluate.judge to null, or to a judge of these prompts"
        ) from None


def _rows(folder: Path, rewards: Sequence[str]) -> list[dict[str, Any]]:
    paths = shards.shard_paths(folder)
    if not paths:
        raise InputError(f"{folder}: holds no evaluated images; run `tgo evaluate` first")
    return [
        row for path in paths for row in shards.read_shard(path, [*_COLUMNS, *rewards]).to_pylist()
    ]


def _succeeded(row: dict[str, Any]) -> bool:
    return bool(row["status"] == "ok")
