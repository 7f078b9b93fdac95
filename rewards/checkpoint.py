"""Checkpoints: published checksums, and strict loading that names every key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor, nn

from tgo.rewards import weight_files
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import CheckpointError

PUBLISHED_SHA256 = {
    "HPS_v2.1_compressed.pt": "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
    "HPS_v2_compressed.pt": "07cb0d20626232204ca3a6ec53ff5984e7e53212a8a7b0e0ec2bac1bdaf125a1",
    "ImageReward.pt": "d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
    "openai/clip-vit-large-patch14": (
        "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
    ),
    "sac+logos+ava1-l14-linearMSE.pth": (
        "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
    ),
}
"""sha256 of the published weight files, by file name (CLIP: by hub id, its file name says little).

PickScore_v1's `model.safetensors` has no published checksum that we know of: it is recorded.
"""

UNPUBLISHED = "unpublished"
"""The version of a checkpoint that is not one of the published files (our miniatures, say)."""


def described_by(path: Path) -> AbstractContextManager[None]:
    """Turns what a bad configuration raises while a model is built into one line naming it."""
    remedy = "use the configuration of the checkpoint"
    return weight_files.reading(path, remedy, "describes no model")


def checksums(folder: Path, *names: str) -> dict[str, str]:
    """sha256 of those of the small files `names` that `folder` has."""
    return {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}


def version_of(digest: str, versions: Mapping[str, str]) -> str:
    """The version whose published checksum is `digest`; `versions` maps published name to it."""
    return next(
        (version for name, version in versions.items() if PUBLISHED_SHA256[name] == digest),
        UNPUBLISHED,
    )


def require_published(path: Path, digest: str, name: str, remedy: str) -> None:
    """Refuses a file that stands in for the published `name` but has another checksum.

    `remedy` says what else than downloading it again would help.
    """
    expected = PUBLISHED_SHA256[name]
    if digest != expected:
        raise CheckpointError(
            f"{path}: sha256 is {digest}, the published {name} has {expected}; "
            f"download it again, or {remedy}"
        )


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], path: Path, *, surplus: Collection[str] = ()
) -> None:
    """Copies `state` into `module`, every key of one matching one of the other in shape.

    `surplus` names keys that published files carry without meaning (old position buffers).
    Raises CheckpointError naming the missing, surplus and misshapen keys.
    """
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    given = {key: value for key, value in tensors.items() if key not in surplus}
    wanted = {key: value for key, value in module.state_dict().items() if key not in surplus}
    misshapen = [
        f"{key} (is {list(given[key].shape)}, should be {list(wanted[key].shape)})"
        for key in sorted(wanted.keys() & given.keys())
        if given[key].shape != wanted[key].shape
    ]
    faults = {
        "missing": sorted(wanted.keys() - given.keys()),
        "surplus": sorted((given.keys() - wanted.keys()) | (state.keys() - tensors.keys())),
        "misshapen": misshapen,
    }
    if any(faults.values()):
        found = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in faults.items() if keys)
        raise CheckpointError(
            f"{path}: does not fit the architecture; {found}. Use the checkpoint that belongs to "
            f"this configuration"
        )
    module.load_state_dict(given, strict=not surplus)


def half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with floating tensors in float16, contiguous and on the CPU, for saving."""
    return {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in state.items()
    }


def _some(keys: list[str], most: int = 5) -> str:
    shown = ", ".join(keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most} more"
