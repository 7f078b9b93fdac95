"""The two official packages themselves, `image-reward` 1.5 and `hpsv2` 1.2.0, on current libraries.

For whoever must have their numbers (`backend: official`), and for the tests that compare ours
with them. Neither installs beside current libraries by itself: image-reward pins timm 0.6.13,
which open_clip refuses, and hpsv2 pins pytest 7.2 and protobuf below 4. `pyproject.toml` says how
to install them. Everything they need on top of that is here:

- modules they import and never call while scoring (turtle, clint, fairscale) are stood in for;
- hpsv2's wheel lacks its tokenizer's vocabulary; open_clip's identical tokenizer takes its place;
- image-reward needs three names of `transformers.modeling_utils` and three of its BERT's base
  class that transformers 5 dropped;
- both hard-code the published sizes; a checkpoint with sizes of its own gets those.

They score one image at a time, and hpsv2 reads its checkpoint again at every call.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor

from tgo.rewards import checkpoint, hpsv2, imagereward, weight_files
from tgo.rewards.base import Batch, Provenance
from tgo.rewards.blip import TextConfig, VisionConfig
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import CheckpointError
from tgo.rewards.source import Source

_NEVER_CALLED = {
    "turtle": "forward",
    "clint.textui": "progress",
    "fairscale.nn.checkpoint.checkpoint_activations": "checkpoint_wrapper",
}
"""What the packages import from where, without using it to score."""

_HOW = "pip install --no-deps image-reward==1.5 hpsv2==1.2.0 clip-anytorch==2.6.0"


@dataclass(frozen=True, kw_only=True, eq=False)
class OfficialHPSv2(Provenance):
    """hpsv2's own `score`. Its scores on a GPU are those of float16 autocast."""

    name: ClassVar[str] = "hpsv2"
    model: ClassVar[str] = hpsv2.HPSv2.model
    unit: ClassVar[str] = hpsv2.HPSv2.unit
    usual_range: ClassVar[tuple[float, float]] = hpsv2.HPSv2.usual_range
    path: Path = field(repr=False)
    parts: dict[str, Any] = field(repr=False)
    device: str

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """float32 [B]; raises RuntimeError, as hpsv2 does, for images with transparency."""
        package = import_hpsv2()
        package.model_dict.update(self.parts)
        package.device = self.device
        scores = torch.empty(len(batch))
        for prompt, places in _by_prompt(batch):
            images = [batch.pillow(place) for place in places]
            with _quiet():
                found = package.score(images, prompt, cp=str(self.path))
            scores[places] = torch.tensor([float(score) for score in found])
        return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class OfficialImageReward(Provenance):
    """image-reward's own `score`."""

    name: ClassVar[str] = "imagereward"
    model: ClassVar[str] = imagereward.ImageReward.model
    unit: ClassVar[str] = imagereward.ImageReward.unit
    usual_range: ClassVar[tuple[float, float]] = imagereward.ImageReward.usual_range
    network: Any = field(repr=False)

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        rows = enumerate(batch.prompts)
        scores = [self.network.score(prompt, batch.pillow(place)) for place, prompt in rows]
        return torch.tensor(scores, dtype=torch.float32)


def load(
    name: str, source: str | Path, *, device: str | torch.device = "cpu"
) -> OfficialHPSv2 | OfficialImageReward:
    """`hpsv2` or `imagereward` by its official package; raises CheckpointError.

    The checkpoint is verified as our own loaders do. The packages choose their precision.
    """
    if name == "hpsv2":
        return _load_hpsv2(source, str(device))
    if name == "imagereward":
        return _load_imagereward(source, str(device))
    raise CheckpointError(
        f"{name}: has no official package; backend: official goes with hpsv2 and imagereward"
    )


def _load_hpsv2(source: str | Path, device: str) -> OfficialHPSv2:
    place = Source(source, hpsv2.FILES)
    path = place.weights()
    digest = file_sha256(path)
    model_cfg = hpsv2.architecture(place, path, digest)
    import_hpsv2()
    from hpsv2.src.open_clip import factory

    with mock.patch.dict(factory._MODEL_CONFIGS, {hpsv2.ARCHITECTURE: dict(model_cfg)}), _quiet():
        # as `initialize_model`, but without the LAION weights that the checkpoint replaces
        network, _, preprocess = factory.create_model_and_transforms(
            hpsv2.ARCHITECTURE,
            precision="amp",
            device=device,
            light_augmentation=True,
            output_dict=True,
        )
    checkpoint.load_strict(network, weight_files.read_tensors(path)["state_dict"], path)
    return OfficialHPSv2(
        version=checkpoint.version_of(digest, hpsv2.VERSIONS),
        checkpoint_sha256=digest,
        dtype="float32" if device == "cpu" else "float32, float16 autocast",
        preprocessing="hpsv2 1.2.0",
        files=checkpoint.checksums(place.folder, hpsv2.CONFIG),
        path=path,
        parts={"model": network, "preprocess_val": preprocess},
        device=device,
    )


def _load_imagereward(source: str | Path, device: str) -> OfficialImageReward:
    place = Source(source, imagereward.FILES)
    path, words = place.weights(), imagereward.vocabulary(place)
    digest = file_sha256(path)
    vision = imagereward.vision_config(place, path, digest)
    text = TextConfig.from_med_config(place.json(imagereward.TEXT_CONFIG))
    package = import_imagereward()
    with _sizes(text, vision), _vocabulary(words.parent), _quiet():
        network = package.load(
            str(path), device=device, med_config=str(place.folder / imagereward.TEXT_CONFIG)
        )
    # the package itself loads with strict=False
    checkpoint.load_strict(network, weight_files.read_tensors(path), path)
    return OfficialImageReward(
        version=checkpoint.version_of(digest, {imagereward.WEIGHTS: "1.0"}),
        checkpoint_sha256=digest,
        dtype="float32",
        preprocessing="image-reward 1.5",
        files=checkpoint.checksums(
            place.folder, *imagereward.FILES.needed + imagereward.FILES.optional
        ),
        network=network.eval(),
    )


def import_hpsv2() -> Any:
    """`hpsv2.img_score`; raises CheckpointError if the package is not installed."""
    import open_clip.tokenizer

    sys.modules.setdefault("hpsv2.src.open_clip.tokenizer", open_clip.tokenizer)
    with _importing("hpsv2"):
        from hpsv2 import img_score
    return img_score


def import_imagereward() -> Any:
    """`ImageReward`; raises CheckpointError if the package is not installed."""
    _give_back_to_transformers()
    with _importing("image-reward"):
        import ImageReward
        from ImageReward.models.BLIP import med
    _give_back_to_bert(med.BertPreTrainedModel)
    return ImageReward


@contextlib.contextmanager
def _importing(package: str) -> Iterator[None]:
    """Stands in for what is never called; says how to install what is missing."""
    fakes: dict[str, ModuleType] = {}
    for name, unused in _NEVER_CALLED.items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            whole = ".".join(parts[:depth])
            if whole not in sys.modules:
                fakes.setdefault(whole, ModuleType(whole))
        vars(fakes.get(name, ModuleType(name)))[unused] = None
    sys.modules.update(fakes)
    try:
        yield
    except ImportError as error:
        raise CheckpointError(f"backend: official needs {package} ({error}); {_HOW}") from error
    finally:
        for name in fakes:
            del sys.modules[name]


def _give_back_to_transformers() -> None:
    """Names of 4.15 that image-reward imports: two have moved, one is for pruning only."""
    from transformers import modeling_utils, pytorch_utils

    def find_pruneable_heads_and_indices(*_: Any) -> None:
        raise NotImplementedError("heads are pruned in no reward model")

    moved = ("apply_chunking_to_forward", "prune_linear_layer")
    names = {name: getattr(pytorch_utils, name) for name in moved}
    names["find_pruneable_heads_and_indices"] = find_pruneable_heads_and_indices
    for name, value in names.items():
        if not hasattr(modeling_utils, name):
            setattr(modeling_utils, name, value)


def _give_back_to_bert(base: Any) -> None:
    """Methods of 4.15's PreTrainedModel that image-reward's BERT calls."""

    def get_head_mask(self: Any, head_mask: None, layers: int) -> list[None]:
        return [None] * layers

    def invert_attention_mask(self: Any, mask: Tensor) -> Tensor:
        spread = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None, :, :]
        return (1.0 - spread.to(self.dtype)) * torch.finfo(self.dtype).min

    base.get_head_mask = get_head_mask
    base.invert_attention_mask = invert_attention_mask
    base.all_tied_weights_keys = {}


@contextlib.contextmanager
def _sizes(text: TextConfig, vision: VisionConfig) -> Iterator[None]:
    """Puts a checkpoint's own sizes where the package has the published ones."""
    if (text.hidden_size, vision) == (768, VisionConfig()):
        yield
        return
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer

    module = sys.modules["ImageReward.ImageReward"]

    def create_vit(*_: Any) -> tuple[Any, int]:
        encoder = VisionTransformer(
            img_size=vision.image_size,
            patch_size=vision.patch_size,
            embed_dim=vision.width,
            depth=vision.depth,
            num_heads=vision.heads,
        )
        return encoder, vision.width

    small = {
        "MLP": mock.Mock(return_value=module.MLP(text.hidden_size)),
        "_transform": mock.Mock(return_value=module._transform(vision.image_size)),
    }
    with (
        mock.patch.object(blip_pretrain, "create_vit", create_vit),
        mock.patch.multiple(module, **small),
    ):
        yield


@contextlib.contextmanager
def _vocabulary(folder: Path) -> Iterator[None]:
    """Lets the package read its "bert-base-uncased" from a folder."""
    from ImageReward.models.BLIP import blip
    from transformers import BertTokenizer

    class Tokenizer(BertTokenizer):
        @property
        def additional_special_tokens_ids(self) -> list[int]:
            return self.convert_tokens_to_ids(["[ENC]"])

        @classmethod
        def from_pretrained(cls, *_: Any, **__: Any) -> Any:
            return super().from_pretrained(folder, local_files_only=True)

    with mock.patch.object(blip, "BertTokenizer", Tokenizer):
        yield


def _by_prompt(batch: Batch) -> Iterator[tuple[str, list[int]]]:
    for prompt in dict.fromkeys(batch.prompts):
        yield prompt, [place for place, other in enumerate(batch.prompts) if other == prompt]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:  # they print what they load, and warn of their own old calls
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
