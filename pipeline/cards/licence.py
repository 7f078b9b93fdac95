"""The licence of a base model, as its own card says it: what is made from it has the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

README = "README.md"
_KEYS = ("license", "license_name", "license_link")


def licence_of(model: str) -> dict[str, Any]:
    """What the header of a model's README.md says of its licence; nobody is asked.

    Args:
        model: a folder, or a hub id, whose README.md is looked for in the hub's cache.

    Returns:
        `license`, `license_name` and `license_link`, as far as they are there; a link to a file
        of the repository leads to the hub.
    """
    from huggingface_hub import ModelCard

    path = _readme(model)
    if path is None:
        return {}
    header = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    found = {key: header[key] for key in _KEYS if header.get(key)}
    link = found.get("license_link")
    if link and "://" not in link and not Path(model).exists():
        found["license_link"] = f"https://huggingface.co/{model}/blob/main/{link}"
    return found


def _readme(model: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(model).is_dir():
        path = Path(model) / README
        return path if path.is_file() else None
    try:
        cached = try_to_load_from_cache(model, README)
    except HFValidationError:  # a folder that is gone
        return None
    return Path(cached) if isinstance(cached, str) else None
