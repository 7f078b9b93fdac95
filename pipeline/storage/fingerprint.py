"""What decides a shard's bytes, as JSON: a shard is kept only while all of it still holds.

Two parts, because they cost very different amounts: `images` (generator, sampler, seeds,
prompts, and the code of both) and one part per reward model. A shard whose `images` part
matches keeps its images, whatever happens to the scores.

Library versions are recorded in the shard (`tgo.versions`) but do not void it: byte identity is
promised for one lock, and a patch release must not cost GPU days.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tgo.pipeline.generators.base import Family
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage.atomic import canonical
from tgo.rewards.panel import Panel

FORMAT = 2  # raise it when the meaning or layout of a shard's columns changes
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "pyarrow", "pillow")


def images_part(
    family: Family,
    *,
    seed: int,
    images_per_prompt: int,
    batch_size: int,
    compiled: bool = False,
) -> dict[str, Any]:
    """Everything beside the prompts that decides images and latents; hashes the model's files."""
    import torch

    return {
        "format": FORMAT,
        "generator": family.describe() | ({"compiled": True} if compiled else {}),
        "seed": seed,
        "images_per_prompt": images_per_prompt,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "code": code_sha256("tgo.pipeline.scoring.sampling", type(family).__module__),
    }


def prompts_part(prompts: Sequence[Prompt]) -> dict[str, str]:
    """The prompts of one shard, to be joined with `images_part`."""
    return {"prompts": hashlib.sha256(canonical(prompts).encode()).hexdigest()}


def reward_parts(panel: Panel) -> dict[str, dict[str, Any]]:
    """Per reward model everything beside the images that decides its scores."""
    facts, modules = panel.describe(), panel.modules()
    return {
        name: facts[name]
        | {"code": code_sha256("tgo.pipeline.scoring.sampling", "tgo.rewards.panel", modules[name])}
        for name in panel.names
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that compute bytes, to be recorded with them."""
    return {library: version(library) for library in LIBRARIES}


def difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first place at which two fingerprints differ, in words; None if they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted({*old, *new})
        found = (
            difference(old.get(key), new.get(key), f"{path}.{key}" if path else key) for key in keys
        )
        return next((text for text in found if text), None)
    return None if old == new else f"{path} was {_short(old)}, is {_short(new)}"


def code_sha256(*modules: str) -> str:
    """One checksum over the source of modules and of all of ours that they import.

    Comments, docstrings and layout do not count, so tidying code keeps the images.
    """
    reached: dict[str, str] = {}
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module not in reached:
            reached[module], imports = _source(module)
            pending += [name for name in imports if name.split(".")[0] == "tgo"]
    return hashlib.sha256(canonical(reached).encode()).hexdigest()


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """Normalised source of a module, and the modules it imports to compute (not for types)."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return "", ()
    tree = _without_types_and_docstrings(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return ast.unparse(tree), tuple(_imports(tree))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:  # `from tgo.rewards import clip` imports a module
                if _is_module(f"{node.module}.{alias.name}"):
                    yield f"{node.module}.{alias.name}"


def _is_module(name: str) -> bool:
    if name.split(".")[0] != "tgo":
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False


def _without_types_and_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _ignored(item)] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _ignored(node: ast.stmt) -> bool:
    """Docstrings (any bare string) and blocks that only type checkers see."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 20 else f"{text[:16]}..."
