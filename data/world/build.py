"""`make world`: draws the bank, trains the world's models and writes their checkpoints.

Every part is resumable: run the same command again. Intermediate state lies in
`data/world/build/`; what the stages load lies beside it and is committed. Under torchrun a part's
batches are shared by the processes (the parts `diffusion` and `masked` are made for two; `masked`
reads and draws with what `diffusion` has learnt).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from tgo.data.world.bank import load_bank
from tgo.data.world.diffusion_model import build_diffusion
from tgo.data.world.masked_model import build_masked
from tgo.data.world.prompts import write_prompts
from tgo.data.world.reward_models import build_reward_models, measure

WORLD = Path("data/world")
PARTS = ("prompts", "diffusion", "masked", "rewards")


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=2, help="decides the bytes, like the seed")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    if "prompts" in arguments.parts:
        write_prompts(Path("data/prompts"))
    if "diffusion" in arguments.parts:
        build_diffusion(WORLD / "diffusion")
    if "masked" in arguments.parts:
        build_masked(WORLD / "diffusion", WORLD / "masked")
    if "rewards" in arguments.parts:
        build_reward_models(load_bank(), WORLD / "rewards")
        print(json.dumps(measure(WORLD / "rewards"), indent=2))


if __name__ == "__main__":
    main()
