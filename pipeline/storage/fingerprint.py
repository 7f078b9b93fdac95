"""What decides a shard's bytes, as JSON: a shard is kept only while all of it still holds.

Two parts, because they cost very different amounts: `images` (generator, sampler, seeds,
prompts, and the code of both) and one part per reward model. A shard whose `images` part
matches keeps its images, whatever happens to the scores.

Code counts as well: what a result depends on follows from the imports of the module that computes
it (`code_sha256`), so no list of modules has to be kept. An import for annotations alone belongs
under `TYPE_CHECKING`, where it does not count.

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
from typing import TYPE_CHECKING, Any

from tgo.pipeline.storage.atomic import canonical

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Family
    from tgo.pipeline.sources.prompts import Prompt
    from tgo.rewards.panel import Panel

FORMAT = 2  # raise it when the meaning or layout of a shard's columns changes
LISTS_FORMAT = 3  # the same, where latents are lists of any length (images of several sizes)
ROOT = Path(__file__).parents[2]
"""The folder that is the package `tgo`: `pipeline`, `trainer`, `rewards` and `data.world`."""
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


def of_shape(
    images: Mapping[str, Any], shape: Sequence[int], *, several_sizes: bool
) -> dict[str, Any]:
    """The image part for a shard whose latents have this shape.

    Where there are several sizes, another one more changes nothing of a shard.
    """
    if not several_sizes:
        return dict(images)
    generator = images["generator"] | {"latent_shape": list(shape)}
    return {**images, "format": LISTS_FORMAT, "generator": generator}


def prompts_part(prompts: Sequence[Prompt]) -> dict[str, str]:
    """The prompts of one shard, to be joined with `images_part`; the size is the shard's."""
    told = [[prompt.id, prompt.text, prompt.domain] for prompt in prompts]
    return {"prompts": hashlib.sha256(canonical(told).encode()).hexdigest()}


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
    """One checksum over the source of modules and of all that they import, as far as it is ours.

    Ours is `tgo`, and whatever other package one of `modules` belongs to. Comments, docstrings and
    layout do not count, so tidying code keeps what it made.

    Args:
        *modules: Dotted names of the modules that compute a result.

    Returns:
        The SHA-256 in hexadecimal digits.
    """
    reached = {name: _source(name)[0] for name in reached_modules(*modules)}
    return hashlib.sha256(canonical(reached).encode()).hexdigest()


def reached_modules(*modules: str) -> set[str]:
    """The names of `modules` and of all of ours that they import to compute, directly or not."""
    ours = {"tgo", *(name.partition(".")[0] for name in modules)}
    reached: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module in reached:
            continue
        reached.add(module)
        imported = (name for name in _source(module)[1] if name.partition(".")[0] in ours)
        pending += [name for name in imported if _file_of(name) is not None]
    return reached


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """Normalised source of a module, and what it imports to compute (not for types), by name."""
    path = _file_of(module)
    if path is None:
        return "", ()
    tree = _without_types_and_docstrings(ast.parse(path.read_text(encoding="utf-8")))
    return ast.unparse(tree), tuple(_imports(tree))


@cache
def _file_of(module: str) -> Path | None:
    """The source file of a module; None for a folder without code, and for what is no module."""
    package, *names = module.split(".")
    if package == "tgo":
        stem = ROOT.joinpath(*names)
        found = (stem.with_suffix(".py"), stem / "__init__.py")
        return next((path for path in found if names and path.is_file()), None)
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):  # its parent is no package; it was loaded from a path
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # `from tgo.rewards import clip` imports a module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
