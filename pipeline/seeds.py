"""Seeds as a pure function of what an image is, never of when or where it is made."""

from __future__ import annotations

import hashlib


def sample_seed(run_seed: int, prompt_id: str, replicate: int) -> int:
    """Seed of one image's noise: 63 bits of blake2b over (run seed, prompt id, replicate).

    A counter-based hash instead of a stream of random numbers: batch, shard, worker and order
    leave it alone, and any image can be made again by itself.
    """
    text = f"{run_seed}\x1f{prompt_id}\x1f{replicate}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def evaluation_seed(run_seed: int) -> int:
    """The run seed of evaluation images: the same for both models, never that of training."""
    return sample_seed(run_seed, "evaluate", 0)
