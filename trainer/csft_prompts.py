"""Conditions that tell good from bad: prompts of negatives with a phrase before them (CSFT).

Positives keep their plain prompt, so the tuned model is sampled with the good condition by any
pipeline, and the phrase itself is a ready negative prompt (arXiv:2303.14420, sec. 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgo.pipeline.generators.base import concatenate
from tgo.pipeline.storage import embeddings
from tgo.pipeline.storage.shards import read_shard, shard_paths
from tgo.trainer.dataset import PromptTable

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Conditions, Family

BATCH = 64
"""Prompts encoded at once; the last batch is not padded."""


def prefixed_tables(
    family: Family, prefix: str, scored: Path, plain: Path, folder: Path
) -> list[PromptTable]:
    """Embed all shards' prompts with ``prefix`` before them.

    Args:
        family: the generator, whose text encoders are used and then released.
        prefix: goes before each prompt as it is.
        scored: the scored shards, which hold the prompts' texts.
        plain: the folder of their embeddings, whose prompts and order are kept.
        folder: where the tables are written (made anew at each start; they stay memory-mapped).

    Returns:
        A table a shard, in the shards' order.

    Raises:
        InputError: a file of stage one is missing or damaged.
    """
    tables = []
    for shard in shard_paths(scored):
        table = PromptTable(embeddings.path_for(plain, shard), shard)
        rows = read_shard(shard, ["prompt_id", "prompt"])
        texts = dict(zip(rows["prompt_id"].to_pylist(), rows["prompt"].to_pylist(), strict=True))
        found = _encode(family, [prefix + texts[number] for number in table.ids])
        path = embeddings.path_for(folder, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = embeddings.write(
            path, embeddings.Embeddings(found, table.unconditional), table.ids
        )
        tables.append(PromptTable(path, shard, digest))
    family.text_encoders.release()
    return tables


def _encode(family: Family, prompts: Sequence[str]) -> Conditions:
    """Conditions ``[N, ...]`` in the precision they are stored in."""
    parts = [prompts[at : at + BATCH] for at in range(0, len(prompts), BATCH)]
    return concatenate([embeddings.stored(family.encode_prompts(part)) for part in parts])
