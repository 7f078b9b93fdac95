"""Quality of a picture without a reference: any such metric of pyiqa.

    rewards:
      musiq: {module: tgo.rewards.image_quality, options: {metric: musiq}}
      niqe: {module: tgo.rewards.image_quality, options: {metric: niqe}}

pyiqa says of each metric whether lower is better; scores are negated then, so that higher is always
better here. It fetches the weights of a metric at first use, except of those that are computed by a
formula (`piqe`). It is no extra of this package: its licence forbids commercial use, and it pins
`openai-clip`, whose module hides the one that the official reward packages read. Install it into
the environment that scores: `pip install pyiqa`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from safetensors.torch import save
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from tgo.rewards.base import Batch, Provenance
from tgo.rewards.errors import CheckpointError, RewardError

PACKAGE = "pyiqa"


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageQuality(Provenance):
    """A no-reference metric of pyiqa, higher is better; reads no prompt."""

    name: ClassVar[str] = "image_quality"
    model: str  # type: ignore[misc]
    unit: str  # type: ignore[misc]

    metric: Any = field(repr=False)
    sign: float = field(repr=False)

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        pictures = [batch.pillow(n).convert("RGB") for n in range(len(batch))]
        found = [self.metric(pil_to_tensor(picture)[None] / 255) for picture in pictures]
        return self.sign * torch.cat([score.flatten() for score in found]).float()


def load(
    source: str, *, device: str | torch.device, dtype: torch.dtype, metric: str
) -> ImageQuality:
    """A metric of pyiqa.

    Args:
        source: not used; pyiqa finds the weights.
        device: where to score.
        dtype: not used; the metric decides.
        metric: its name; `pyiqa.list_models(metric_mode="NR")` lists them.

    Returns:
        The reward model.

    Raises:
        RewardError: pyiqa is not installed, or cannot fetch the metric's weights.
        CheckpointError: there is no such metric, or it needs a reference image.
    """
    if find_spec(PACKAGE) is None:
        raise RewardError("image_quality: needs pyiqa (for non-commercial use): pip install pyiqa")
    import pyiqa

    known = pyiqa.list_models(metric_mode="NR")
    if metric not in known:
        raise CheckpointError(
            f"image_quality: pyiqa has no metric {metric!r} that works without a reference image; "
            f"set options.metric to one of {', '.join(known)}"
        )
    try:
        found = pyiqa.create_metric(metric, device=torch.device(device))
    except OSError as error:  # no connection, or a hub that refuses
        reason = " ".join(str(error).split())[:200]
        raise RewardError(
            f"image_quality: pyiqa cannot fetch the weights of {metric} ({reason}); run it once on "
            "a machine with a connection, or take piqe, which needs none"
        ) from error
    return ImageQuality(
        model=f"pyiqa: {metric}",
        unit=f"-{metric}" if found.lower_better else metric,
        version=f"pyiqa {version(PACKAGE)}",
        checkpoint_sha256=hashlib.sha256(save(found.state_dict())).hexdigest(),
        dtype="float32",
        preprocessing="RGB from 0 to 1, at its own size",
        metric=found,
        sign=-1.0 if found.lower_better else 1.0,
    )
