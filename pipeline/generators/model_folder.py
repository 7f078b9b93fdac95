"""A diffusers model folder on disk: found, fingerprinted and loaded strictly."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tgo.pipeline.errors import InputError

_REMEDY = "restore it (`git checkout` or `make world` for the embedded world, else download again)"


class ModelFolder:
    """A folder in the layout that `DiffusionPipeline.save_pretrained` writes."""

    def __init__(self, source: str) -> None:
        self.path = _local(source)
        try:
            self.index: dict[str, Any] = json.loads((self.path / "model_index.json").read_text())
        except OSError:
            raise InputError(
                f"{self.path}: is not a model folder (no model_index.json); {_REMEDY}"
            ) from None
        except ValueError:
            raise InputError(
                f"{self.path}/model_index.json: is damaged (no JSON); {_REMEDY}"
            ) from None

    def sha256(self, parts: tuple[str, ...]) -> str:
        """One checksum over names and bytes of every file in the folders of `parts`."""
        total = hashlib.sha256()
        for part in sorted(parts):
            for path in sorted((self.path / part).rglob("*")):
                if path.is_file():
                    with path.open("rb") as file:
                        digest = hashlib.file_digest(file, "sha256").hexdigest()
                    total.update(f"{path.relative_to(self.path).as_posix()}\0{digest}\n".encode())
        return total.hexdigest()

    def config(self, part: str) -> dict[str, Any]:
        """The settings of a network, from its config.json."""
        path = self.path / part / "config.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            raise InputError(f"{path}: is missing or damaged; {_REMEDY}") from None
        return found

    def check(self, parts: tuple[str, ...]) -> None:
        """InputError for a folder of `parts` that is missing or holds a truncated file."""
        for part in parts:
            if not (self.path / part).is_dir():
                raise InputError(f"{self.path}: has no {part}; {_REMEDY}")
            self._check_weights(self.path / part)

    def load(
        self, part: str, dtype: torch.dtype | None = None, *, kind: type[Any] | None = None
    ) -> Any:
        """The component `part` in evaluation mode, as the class that model_index.json names.

        A `kind`, made of diffusers' mixins, takes its place where diffusers does not have it.
        Networks are loaded strictly: a missing or surplus weight is an InputError, never a random
        initialisation.
        """
        library, name = self.index.get(part, (None, None)) if kind is None else ("diffusers", "")
        folder = self.path / part
        if library not in ("diffusers", "transformers") or not folder.is_dir():
            raise InputError(f"{self.path}: has no {part}; {_REMEDY}")
        self._check_weights(folder)
        kind = kind or getattr(importlib.import_module(library), name)
        try:
            if not issubclass(kind, torch.nn.Module):
                return kind.from_pretrained(folder)
            kwargs = {"torch_dtype" if library == "diffusers" else "dtype": dtype}
            network, info = kind.from_pretrained(
                folder, output_loading_info=True, use_safetensors=True, **kwargs
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder}: cannot be loaded ({reason}); {_REMEDY}") from error
        wrong = [
            f"{key.replace('_keys', '')} {sorted(map(str, info[key]))[0]}"
            for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
            if info.get(key)
        ]
        if wrong:
            raise InputError(
                f"{folder}: weights do not fit its config.json ({', '.join(wrong)}); {_REMEDY}"
            )
        return network.eval().requires_grad_(False)

    def save_with(self, part: str, network: Any, folder: Path) -> None:
        """Copy this folder to `folder`, untouched, but with `network` as `part` (safetensors)."""
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(self.path, folder, ignore=shutil.ignore_patterns(part))
        network.save_pretrained(folder / part, safe_serialization=True)

    def _check_weights(self, folder: Path) -> None:
        """A truncated file is named here; from inside the libraries it would not be."""
        from safetensors import SafetensorError, safe_open

        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path}: is truncated or damaged ({error}); {_REMEDY}") from None


def _local(source: str) -> Path:
    """The folder of a path or, downloaded once, of a hub repository id."""
    cause: Exception | None = None
    if Path(source).is_dir():
        return Path(source)
    if source.count("/") == 1 and not source.startswith((".", "/")):
        from huggingface_hub.errors import GatedRepoError, HTTPError

        try:
            return _download(source)
        except GatedRepoError as error:
            raise InputError(
                f"{source}: its owner asks for consent to a licence; give it on the model's page "
                "and log in with `hf auth login`"
            ) from error
        except (OSError, ValueError, HTTPError) as error:
            cause = error
    raise InputError(
        f"{source}: no such model folder or reachable hub repository; "
        f"correct generator.model in params.yaml, or {_REMEDY}"
    ) from cause


def _download(repository: str) -> Path:
    """What a pipeline of diffusers needs of a hub repository, or, of any other, its components."""
    import diffusers
    from huggingface_hub import hf_hub_download, snapshot_download

    index = json.loads(Path(hf_hub_download(repository, "model_index.json")).read_text())
    if hasattr(diffusers, str(index.get("_class_name"))):
        return Path(diffusers.DiffusionPipeline.download(repository, use_safetensors=True))
    wanted = ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
    other = ["*.fp16.*", "*.fp16-*"]  # the same weights once more
    return Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=other))
