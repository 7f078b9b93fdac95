"""A diffusers model folder on disk: found, fingerprinted, checked and loaded part by part."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from tgo.pipeline import documents
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import adapters, components
from tgo.pipeline.generators import quantization as quantizing
from tgo.pipeline.generators.base_model import AGAIN, BaseModel, base_of
from tgo.pipeline.layout import BASE_MODEL, LORA
from tgo.rewards import weight_files
from tgo.rewards.checksum import file_sha256

_WORLD = "restore it with `git checkout`, or build it again with `make world`"
_OTHERS = "download the model again, or name another one as generator.model"
_TRAVEL = ("LICENSE*", "LICENCE*", "NOTICE*", "license*")
"""Files of a base model that go with every model made from it."""


class ModelFolder:
    """A folder in the layout that `DiffusionPipeline.save_pretrained` writes.

    Or one of adapters: it stands for its base model with them.

    Args:
        source: path of a folder, or a hub repository id.

    Attributes:
        path: where it lies on this machine; of adapters, where their base does.
        adapters: the folder of the adapters that its network is read with; None of a whole model.
        name: the last part of its path or hub id.
        index: what its model_index.json says: `[library, class]` of each part, and settings.
        remedy: what to do where a file of it is missing or damaged.
    """

    def __init__(self, source: str) -> None:
        given = _local(source)
        self._base = base_of(given)
        self.adapters = None if self._base is None else given
        self._source = source if self._base is None else self._base.source
        self.path = given if self._base is None else _base_folder(given, self._base)
        self.name = Path(self._source).name
        self._checksums: dict[tuple[str, ...], str] = {}
        self.remedy = _WORLD if "data/world" in self.path.as_posix() else _OTHERS
        index = self.path / "model_index.json"
        if not index.exists():
            raise InputError(
                f"{self.path}: is not a model folder (no model_index.json); {self.remedy}"
            )
        self.index: dict[str, Any] = self._json(index)

    def base(self, parts: tuple[str, ...]) -> BaseModel:
        """What adapters that are trained on this model are for: it, or what its own are for."""
        return self._base or BaseModel(
            self._source, self._files_sha256(parts), str(self.index.get("_class_name"))
        )

    def require_base(self, parts: tuple[str, ...]) -> None:
        """InputError unless the base of adapters is the one that they were trained on."""
        if self._base is None or self._files_sha256(parts) == self._base.sha256:
            return
        raise InputError(
            f"{self.adapters}: its adapters are for {self._source} as it was when they were "
            f"trained, and {self.path} has other files now; bring those back, or {AGAIN}"
        )

    def sha256(self, parts: tuple[str, ...]) -> str:
        """One checksum over names and bytes of every file in the folders of `parts`.

        And over the adapters, where there are any.

        Raises InputError: the base of the adapters is not the one that they were trained on.
        """
        if self.adapters is None:
            return self._files_sha256(parts)
        self.require_base(parts)
        with components.reading(self.adapters / LORA, AGAIN):
            both = f"{self._files_sha256(parts)}\n{file_sha256(self.adapters / LORA)}\n"
        return hashlib.sha256(both.encode()).hexdigest()

    def _files_sha256(self, parts: tuple[str, ...]) -> str:
        """The checksum of the whole model's files, computed once."""
        if parts not in self._checksums:
            self._checksums[parts] = self._hash_files(parts)
        return self._checksums[parts]

    def _hash_files(self, parts: tuple[str, ...]) -> str:
        total = hashlib.sha256()
        for part in sorted(parts):
            for path in sorted((self.path / part).rglob("*")):
                if path.is_file():
                    name = path.relative_to(self.path).as_posix()
                    total.update(f"{name}\0{file_sha256(path)}\n".encode())
        return total.hexdigest()

    def config(self, part: str) -> dict[str, Any]:
        """The settings of a network, from its config.json."""
        return self._json(self.path / part / "config.json")

    def full_config(self, part: str) -> Any:
        """The settings of a network, with those that its config.json leaves to its class."""
        kind = components.component_class(self.index.get(part), self.path, part)
        path = self.path / part / "config.json"
        with components.reading(path, self.remedy), torch.device("meta"):
            return kind.from_config(self.config(part)).config

    def class_name(self, part: str) -> str:
        """The class that model_index.json names for `part`, whether it can be loaded or not."""
        entry = self.index.get(part)
        return str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else "nothing"

    def check(self, parts: tuple[str, ...]) -> None:
        """Look for a part that is missing or holds a truncated file.

        Raises InputError: names the part or file.
        """
        for part in parts:
            folder = self.path / part
            if not folder.is_dir():
                raise InputError(f"{self.path}: has no {part}; {self.remedy}")
            with components.reading(folder, self.remedy):
                weight_files.check_weights(folder, self.remedy)

    def load(
        self,
        part: str,
        dtype: torch.dtype | None = None,
        *,
        kind: type[Any] | None = None,
        quantization: str | None = None,
        device: torch.device | None = None,
    ) -> Any:
        """The component `part`, networks in evaluation mode and without gradients.

        Args:
            part: its folder's name.
            dtype: the type of a network's weights.
            kind: a class made of diffusers' mixins in place of the one that model_index.json names.
            quantization: one of `quantization.PACKAGES`, for weights of fewer bits.
            device: where quantised weights are placed; all others are read onto the CPU.

        Returns:
            The component.

        Raises:
            InputError: it is missing, damaged, of a class that is not installed, or has a weight
                too many or too few: nothing is initialised at random.
        """
        self.check((part,))
        has_own_kind = kind is not None
        kind = kind or components.component_class(self.index.get(part), self.path, part)
        if not issubclass(kind, torch.nn.Module):
            return components.load_settings(self.path / part, kind, self.remedy)
        library = "diffusers" if has_own_kind else self.index[part][0]
        where = device or torch.device("cpu")
        options = quantizing.options(quantization, library, dtype or torch.float32, where)
        options |= {"torch_dtype" if library == "diffusers" else "dtype": dtype}
        network = components.load_network(self.path / part, kind, self.remedy, **options)
        if quantization is not None:
            quantizing.give_back()
        if self.adapters is not None and part in adapters.PARTS:
            fuse = not quantizing.is_quantized(network)
            adapters.add_to(network, self.adapters, part, fuse=fuse)
        return network

    def save_with(self, part: str, network: Any, folder: Path) -> None:
        """Fill an empty `folder`: this one's other parts, and `network` as `part` (safetensors).

        Only what model_index.json names is copied, and the licence: a whole-model checkpoint that
        lies beside it holds the weights from before training.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.path / "model_index.json", folder)
        for name, entry in self.index.items():
            if name != part and isinstance(entry, list) and (self.path / name).is_dir():
                shutil.copytree(self.path / name, folder / name)
        for path in {path for pattern in _TRAVEL for path in self.path.glob(pattern)}:
            if path.is_file():
                shutil.copy(path, folder)
        network.save_pretrained(folder / part, safe_serialization=True)
        _forget_where_it_came_from(folder / part / "config.json")

    def _json(self, path: Path) -> dict[str, Any]:
        found = documents.read_json(path, self.remedy)
        if not isinstance(found, dict):
            raise InputError(f"{path}: holds no JSON object; {self.remedy}")
        return found


def _forget_where_it_came_from(path: Path) -> None:
    """Drop the local path that diffusers notes in a config.json: it names the user's folders."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _base_folder(adapted: Path, base: BaseModel) -> Path:
    try:
        return _local(base.source)
    except InputError as error:
        raise InputError(
            f"{adapted}: its base model {base.source} is not here; bring it back, or write where "
            f"the same files lie now into {adapted / BASE_MODEL}"
        ) from error


def _local(source: str) -> Path:
    """The folder of a path or, downloaded once, of a hub repository id."""
    cause: Exception | None = None
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_file():
        raise InputError(
            f"{source}: is a file; if it is a checkpoint of one file, make a folder of it once: "
            '`python -c "from diffusers import StableDiffusionPipeline as P; '
            f"P.from_single_file('{source}').save_pretrained('models/mine')\"` (SDXL, SD3 and FLUX "
            "have pipelines of their own), then name that folder as generator.model"
        )
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
    remedy = f"; {_WORLD}" if source.startswith("data/world") else ""
    raise InputError(
        f"{source}: no such model folder or reachable hub repository; correct generator.model in "
        f"params.yaml, or, with HF_HUB_OFFLINE=1, download it first{remedy}"
    ) from cause


def _download(repository: str) -> Path:
    """What a pipeline of diffusers needs of a hub repository, or, of any other, its components."""
    import diffusers
    from huggingface_hub import hf_hub_download, snapshot_download

    index = json.loads(Path(hf_hub_download(repository, "model_index.json")).read_text())
    if hasattr(diffusers, str(index.get("_class_name"))):
        return Path(diffusers.DiffusionPipeline.download(repository))
    wanted = ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
    other = ["*.fp16.*", "*.fp16-*"]  # the same weights once more
    return Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=other))
