"""Training's lazy imports: the fork server loads this module once for all processes."""

from __future__ import annotations

import peft  # noqa: F401
import scipy.stats  # noqa: F401
from diffusers import (  # noqa: F401
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch.distributed.checkpoint import state_dict  # noqa: F401
from torch.distributed.fsdp import fully_shard  # noqa: F401
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

from tests.trainer import miniature  # noqa: F401
from tgo.pipeline.cards import model_card  # noqa: F401
from tgo.pipeline.generators import diffusion  # noqa: F401
from tgo.trainer import train  # noqa: F401
