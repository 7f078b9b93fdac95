"""One component of a model folder: its class, the files of its weights, loaded strictly."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import quantization
from tgo.rewards import weight_files
from tgo.rewards.errors import CheckpointError

LIBRARIES = ("diffusers", "transformers")
"""Libraries whose classes model_index.json may name."""
VARIANTS = (None, "fp16", "bf16")
"""Copies of the weights, the preferred one first, by the middle part of their files' names."""
_WEIGHTS = re.compile(
    r"\w+(-\d{5}-of-\d{5})?(\.(?P<variant>\w+))?(-\d{5}-of-\d{5})?\.(?P<kind>safetensors|bin)"
)
_QUANTISERS = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "gguf": "gguf",
    "quanto": "optimum.quanto",
    "modelopt": "modelopt",
}
"""`quant_method` of a config.json to the module that reads such weights."""


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """As `weight_files.reading`, for this package's kind of error.

    Raises InputError: whatever was raised inside, as one line that names `path`.
    """
    try:
        with weight_files.reading(path, remedy):
            yield
    except CheckpointError as error:
        raise InputError(str(error)) from error


def component_class(entry: Any, place: Path, part: str) -> type[Any]:
    """The class that model_index.json names for `part`.

    Args:
        entry: what stands there, normally `[library, class name]`.
        place: the model folder, for messages.
        part: name of the component.

    Returns:
        The class.

    Raises:
        InputError: it is no class of `LIBRARIES`, or one that the installed version does not have.
    """
    index = place / "model_index.json"
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
        raise InputError(
            f"{index}: names no class for {part}; use the model's own model_index.json"
        )
    library, name = entry
    if library not in LIBRARIES:
        raise InputError(
            f"{index}: {part} is a class of {library!r}, whose code is not run here; use a model "
            f"whose parts are classes of {' or '.join(LIBRARIES)}"
        )
    module = importlib.import_module(library)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and hasattr(found, "from_pretrained")):
        raise InputError(
            f"{index}: {part} is a {name}, which {library} {module.__version__} does not have; "
            f"upgrade {library}, or use another model"
        )
    return found


def load_network(folder: Path, kind: type[Any], remedy: str, **options: Any) -> torch.nn.Module:
    """A network in evaluation mode without gradients, every weight of its class from the file.

    Args:
        folder: holds config.json and weights: safetensors, or pickles, of which only tensors are
            read; a 16-bit copy where there is no other.
        kind: its class.
        remedy: advice for what is damaged.
        **options: what `from_pretrained` is told beside that: type, quantisation.

    Returns:
        The network.

    Raises:
        InputError: a weight is missing, surplus, misshapen or damaged, or the package that reads
            quantised weights is not installed.
    """
    _require_quantiser(folder, remedy)
    options |= _weight_options(folder, remedy)
    with reading(folder, remedy):
        network, info = kind.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, **options
        )
    wrong = [
        f"{key.replace('_keys', '')} {sorted(map(str, info[key]))[0]}"
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(key)
    ]
    if wrong:
        raise InputError(
            f"{folder}: weights do not fit its config.json ({', '.join(wrong)}); {remedy}"
        )
    return network.eval().requires_grad_(False)


def load_settings(folder: Path, kind: type[Any], remedy: str) -> Any:
    """A component without weights: a scheduler or a tokenizer.

    Raises InputError: a file is missing or damaged, or a tokenizer has no vocabulary.
    """
    with reading(folder, remedy):
        found = kind.from_pretrained(folder, local_files_only=True)
    words = type(getattr(found, "tokenizer", found))  # a processor holds one
    names: dict[str, str] = getattr(words, "vocab_files_names", {})
    if names:
        own = [name for key, name in names.items() if key != "tokenizer_file"]
        whole = (folder / "tokenizer.json").is_file()
        # transformers builds a tokenizer of a few special tokens otherwise, without a word
        if not whole and not (own and all((folder / name).is_file() for name in own)):
            wanted = " and ".join(own)
            raise InputError(
                f"{folder}: has no vocabulary (tokenizer.json{', or ' if own else ''}{wanted}), so "
                f"all prompts would read the same; {remedy}"
            )
    return found


def _weight_options(folder: Path, remedy: str) -> dict[str, Any]:
    """Which of the copies of the weights in `folder` is read."""
    found = {
        (match["variant"], match["kind"])
        for path in folder.iterdir()
        if (match := _WEIGHTS.fullmatch(path.name))
    }
    for variant in VARIANTS:
        for kind in ("safetensors", "bin"):
            if (variant, kind) in found:
                named = {"variant": variant} if variant else {}
                return {"use_safetensors": kind == "safetensors", **named}
    raise InputError(f"{folder}: holds no weights (.safetensors or .bin); {remedy}")


def _require_quantiser(folder: Path, remedy: str) -> None:
    path = folder / "config.json"
    with reading(path, remedy):
        quantised = weight_files.read_json(path, remedy).get("quantization_config") or {}
        method = str(quantised.get("quant_method", "an unnamed method"))
    gpu_only = {quantization.PACKAGES[name] for name in quantization.NEEDS_GPU}
    if quantised and method in gpu_only and not torch.cuda.is_available():
        raise InputError(
            f"{folder}: its weights are quantised by {method}, which needs a GPU, and there is "
            "none; use the model's unquantised weights"
        )
    if quantised and find_spec(_QUANTISERS.get(method, method).split(".")[0]) is None:
        package = _QUANTISERS.get(method, method)
        raise InputError(
            f"{folder}: its weights are quantised by {method}; install {package}, or use the "
            "model's unquantised weights"
        )
