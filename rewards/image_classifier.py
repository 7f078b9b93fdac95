"""Any image classifier of transformers: the probability of one of its classes.

    rewards:
      nsfw:
        module: tgo.rewards.image_classifier
        source: Falconsai/nsfw_image_detection
        options: {label: nsfw}

With `label.filter: {nsfw: {max: 0.2}}` images above the limit are not labelled, so that nothing is
trained on them. `source` is a hub repository or a folder with `config.json`,
`preprocessor_config.json` and the weights. Pictures go through the model's own image processor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tgo.rewards import checkpoint, weight_files
from tgo.rewards.base import Batch, Provenance
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import CheckpointError
from tgo.rewards.source import Files, Source

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
FILES = Files(weights=("model.safetensors", "pytorch_model.bin"), needed=(CONFIG, PROCESSOR))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageClassifier(Provenance):
    """The probability that an image is of one class; reads no prompt."""

    name: ClassVar[str] = "image_classifier"
    model: str  # type: ignore[misc]
    unit: ClassVar[str] = "probability"
    usual_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    processor: Any = field(repr=False)
    place: int = field(repr=False)

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        network: Any = self.networks[0]
        pictures = [batch.pillow(n).convert("RGB") for n in range(len(batch))]
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        logits = network(pixels.to(network.device, network.dtype)).logits.float()
        return logits.softmax(-1)[:, self.place]


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    label: str,
) -> ImageClassifier:
    """The classifier in a folder or hub repository.

    Args:
        source: where configuration, processor and weights lie.
        device: where to score.
        dtype: what the network computes in.
        label: the class whose probability is the score, as the configuration spells it.

    Returns:
        The reward model.

    Raises:
        CheckpointError: a file is missing or damaged, or there is no such class.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    place = Source(source, FILES)
    if place.missing():
        raise CheckpointError(f"{place.folder}: holds no {', '.join(place.missing())}; add it")
    with checkpoint.described_by(place.folder / CONFIG):
        config = AutoConfig.from_pretrained(place.folder)
    classes = {name: number for number, name in config.id2label.items()}
    if label not in classes:
        raise CheckpointError(
            f"{place.folder / CONFIG}: has no class {label!r}; set options.label to one of "
            f"{', '.join(map(str, classes))}"
        )
    with checkpoint.described_by(place.folder / PROCESSOR):
        processor = AutoImageProcessor.from_pretrained(place.folder)
    weights = place.weights()
    with weight_files.reading(weights, "take the folder as published", "holds no such weights"):
        network, found = AutoModelForImageClassification.from_pretrained(
            place.folder, output_loading_info=True
        )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in found.items() if keys}
    if wrong:
        raise CheckpointError(
            f"{weights}: does not fit {CONFIG} ({wrong}); take the folder as published"
        )
    return ImageClassifier(
        model=f"{place.repo or place.folder.name}: {label}",
        version="as in its folder",
        checkpoint_sha256=file_sha256(weights),
        dtype=str(dtype).removeprefix("torch."),
        preprocessing=" ".join(str(processor.to_dict()).split()),
        files=checkpoint.checksums(place.folder, CONFIG, PROCESSOR),
        processor=processor,
        place=int(classes[label]),
        networks=(network.to(device, dtype).eval(),),
    )
