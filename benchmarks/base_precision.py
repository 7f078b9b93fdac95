"""What the type of the frozen weights changes under adapters: likelihood, log-ratio and loss.

    tgo train --set 'train.lora={rank: 16, alpha: 16, targets: null}' train.learning_rate=1e-3
    python -m benchmarks.base_precision --images 128

Run in a project whose models/tuned are adapters, on its labelled shards. Policy and reference are
the base with its adapters on and off, under the same corruptions, the base in each type; errors are
norms over the images, relative to float32. `bfloat16 (autocast)` is `train.precision: bfloat16`;
`norms in float32` rounds linear layers and convolutions alone; `rounded` has the weights of
bfloat16 and computes in float32. nf4 is computed by bitsandbytes' code for CPUs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tgo.pipeline import layout
from tgo.pipeline.config import settings
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators import adapters, load_generator, quantization
from tgo.pipeline.generators.base import Family
from tgo.trainer.distributed import Ranks
from tgo.trainer.objectives import Terms, load_objective
from tgo.trainer.paths import Paths
from tgo.trainer.stream import Batch
from tgo.trainer.training_data import load_rows, make_stream

CAST = (nn.Linear, nn.Conv2d)


def _norms_in_float32(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, CAST):
            module.to(torch.bfloat16)


def _rounded(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16().float()


BASES: dict[str, tuple[dict[str, Any], Callable[[nn.Module], None] | None, bool]] = {
    "float32": ({}, None, False),
    "float32, rounded to bfloat16": ({}, _rounded, False),
    "float32 (autocast)": ({}, None, True),
    "bfloat16, norms in float32 (autocast)": ({}, _norms_in_float32, True),
    "bfloat16 (autocast)": ({"dtype": "bfloat16"}, None, True),
    "int8": ({"quantization": "int8"}, None, False),
    "nf4": ({"quantization": "nf4"}, None, False),
}
"""How the base is read, what is done to it then, and whether it computes in bfloat16."""


def load(chosen: Settings, name: str, tuned: Path) -> Family:
    """The base of one type with the adapters beside its weights."""
    options, change, _ = BASES[name]
    with _nf4_on_a_cpu():
        given = {"dtype": "float32", "quantization": None} | options
        family = load_generator(chosen.generator.model_copy(update=given), lazy=True)
    if change is not None:
        change(family.network)
    adapters.add_to(family.network, tuned, "unet", fuse=False)
    return family


@contextmanager
def _nf4_on_a_cpu() -> Iterator[None]:
    """Inside, neither diffusers nor tgo asks for a GPU."""
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    quantizer = bnb_quantizer.BnB4BitDiffusersQuantizer
    with (
        patch.object(quantization, "NEEDS_GPU", ()),
        patch.object(quantizer, "validate_environment", lambda *_, **__: None),
    ):
        yield


def likelihoods(family: Family, batches: Sequence[Batch], temperature: float, half: bool) -> Tensor:
    """Log-likelihoods [2, N] of all images: with the adapters, and without."""
    network: Any = family.network
    found = []
    for switch in (network.enable_lora, network.disable_lora):
        switch()
        for number, batch in enumerate(batches):
            corruption = family.corrupt(batch.latents, torch.Generator().manual_seed(number))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                inputs = batch.latents.float(), batch.conditions, corruption
                found.append(family.log_likelihood(network, *inputs, temperature=temperature))
    return torch.cat([each.values for each in found]).view(2, -1)


def measure(chosen: Settings, tuned: Path, images: int) -> dict[str, dict[str, float]]:
    """Errors against float32, and the loss, by the type of the base."""
    objective = load_objective(chosen.train)
    stream = make_stream(load_rows(Paths(), objective), chosen.train, Ranks(torch.device("cpu")))
    count = -(-images // chosen.train.batch_size)
    batches = [batch for batch, _ in zip(stream.batches(), range(count), strict=False)]
    target, weight = (torch.cat([getattr(b, key) for b in batches]) for key in ("target", "weight"))
    exact, told = None, {}
    for name, (_, _, half) in BASES.items():
        policy, reference = likelihoods(
            load(chosen, name, tuned), batches, chosen.train.temperature, half
        )
        terms = Terms(policy, reference, target, weight, None, None, torch.mean)
        loss = objective.loss(terms, objective.start(torch.device("cpu"))).loss.mean()
        exact = exact or (policy, policy - reference)
        told[name] = {
            "likelihood": _error(policy, exact[0]),
            "log_ratio": _error(policy - reference, exact[1]),
            "loss": float(loss),
        }
        print(name, told[name], flush=True)
    return told


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = measure(settings.load(layout.PARAMS), layout.TUNED, options.images)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
