"""A reward model that runs in another process or on another machine: images in, numbers out.

    rewards:
      hpsv3: {module: tgo.rewards.score_server, source: http://localhost:18085/score}

The server is sent ``{"images": [base64 PNG, ...], "prompts": [...]}`` and answers
``{"scores": [...]}``, one number an image: the form of flow_grpo's and UniRL's reward servers, but
in JSON, since an answer in pickle would run the server's code here. docs/examples/hpsv3_server.py
is one, for a model whose package cannot be installed beside this one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tgo.rewards.base import Batch, Provenance
from tgo.rewards.errors import RewardError
from tgo.rewards.http_client import AnswerCache, Client

CACHE = "data/.judge_answers.sqlite"


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreServer(Provenance):
    """The numbers that a server gives for a batch."""

    name: ClassVar[str] = "score_server"
    model: str  # type: ignore[misc]
    unit: str  # type: ignore[misc]

    client: Client = field(repr=False)
    cache: AnswerCache = field(repr=False)

    def score(self, batch: Batch) -> Tensor:
        """float32 [B]; a batch that was answered before is not asked for again."""
        request = {"images": [_png(batch, n) for n in range(len(batch))], "prompts": batch.prompts}
        asked = [self.client.url, self.model, request]
        return torch.tensor(self.cache.once(asked, lambda: self._ask(request)), dtype=torch.float32)

    def _ask(self, request: dict[str, Any]) -> list[float]:
        answer = self.client.post(request)
        scores = answer.get("scores") if isinstance(answer, dict) else None
        wanted = len(request["prompts"])
        if not isinstance(scores, list) or len(scores) != wanted or not all(map(_is_score, scores)):
            told = f"{len(scores)} entries" if isinstance(scores, list) else "nothing of that name"
            raise RewardError(
                f'{self.client.url}: must answer {{"scores": [...]}} with {wanted} finite numbers, '
                f"but gave {told}; mend the server"
            )
        return [float(score) for score in scores]


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _png(batch: Batch, place: int) -> str:
    file = io.BytesIO()
    batch.pillow(place).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def load(
    source: str,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    model: str = "unnamed",
    unit: str = "score",
    key_variable: str | None = None,
    cache: str = CACHE,
    **connection: Any,
) -> ScoreServer:
    """The server at an address.

    Args:
        source: its address.
        device: not used; the server has its own.
        dtype: not used.
        model: what runs there, for fingerprints and reports; name its version, too.
        unit: of its scores.
        key_variable: environment variable that holds a key.
        cache: file in which answers are kept.
        **connection: timeout, attempts, pause, per_minute, budget of `http_client.Client`.

    Returns:
        The reward model.

    Raises:
        RewardError: the address is none, or the key is not in the environment.
    """
    if not source.startswith(("http://", "https://")):
        raise RewardError(f"score_server: source is {source!r}; name an address, http://host:port")
    return ScoreServer(
        model=model,
        version="remote",
        unit=unit,
        checkpoint_sha256=hashlib.sha256(f"{source} {model}".encode()).hexdigest(),
        dtype="the server's",
        preprocessing=f"PNG to {source}",
        client=Client(source, key_variable=key_variable, **connection),
        cache=AnswerCache(Path(cache)),
    )
