"""Weight and configuration files become values here, and nowhere else.

Any such file may be truncated, damaged or written to do harm. Whatever a parser raises for it
becomes one kind of error with one line that names the file; nothing in a file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tgo.rewards.errors import CheckpointError

LARGEST_CONFIG = 64 << 20
"""Most bytes of a JSON file; the largest tokenizer.json of published models has 35 MB."""
AGAIN = "download or build it again"


@contextmanager
def reading(path: Path, remedy: str = AGAIN, fault: str = "cannot be loaded") -> Iterator[None]:
    """Turn whatever is raised while `path` becomes a value into one line that names it.

    Args:
        path: the file or folder that is read.
        remedy: what the line advises where the content is at fault.
        fault: what the line says is wrong with the content.

    Raises:
        CheckpointError: for every exception but an interrupt. A file that could not be read at
            all (permissions, a disk that fails) is said to be that, not to be damaged.
    """
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing ({one_line(error)}); {remedy}") from error
    except OSError as error:
        if error.errno is not None:
            raise CheckpointError(
                f"{path}: cannot be read ({error.strerror}); mend its permissions or its disk"
            ) from error
        raise CheckpointError(f"{path}: {fault} ({one_line(error)}); {remedy}") from error
    except BaseException as error:
        # a parser in Rust panics with an exception of its own beside Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path}: {fault} ({one_line(error)}); {remedy}") from error


def read_json(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """The object in a JSON file.

    Raises CheckpointError: the file is absent, no JSON, no object, nested too deeply or too
    large.
    """
    with reading(path, remedy, "is no valid JSON"):
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{path}: is too large for a configuration; {remedy}")
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no JSON object; {remedy}")
    return found


def read_tensors(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """What a `.safetensors` or pickled checkpoint holds, on the CPU, without running its code.

    Raises CheckpointError: the file is damaged, or would execute code when it is read.
    """
    import torch
    from safetensors.torch import load_file

    with reading(path, remedy, "cannot be read as a checkpoint"):
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return content


def check_weights(folder: Path, remedy: str = AGAIN) -> None:
    """Look at the header of every safetensors file in `folder`.

    Raises CheckpointError: one is truncated or damaged.
    """
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with reading(path, remedy, "is truncated or damaged"), safe_open(path, framework="pt"):
            pass


def one_line(error: BaseException) -> str:
    """The message of an error in at most 200 characters, or its kind where it has none."""
    text = " ".join(str(error).split())
    return f"{text[:200]}..." if len(text) > 200 else text or type(error).__name__
