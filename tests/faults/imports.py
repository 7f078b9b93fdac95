"""Stage one's lazy imports: the fork server loads this module once for all processes."""

from __future__ import annotations

import datasets  # noqa: F401
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: F401
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer  # noqa: F401

from tests import stage_one  # noqa: F401
from tgo.pipeline.generators import diffusion  # noqa: F401
from tgo.rewards import aesthetic, clip  # noqa: F401
