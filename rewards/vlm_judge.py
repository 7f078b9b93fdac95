"""A vision-language model as judge, asked over HTTP in OpenAI's form.

    rewards:
      judge:
        module: tgo.rewards.vlm_judge
        source: http://localhost:8000/v1
        options:
          model: Qwen/Qwen3-VL-8B-Instruct
          criteria: {prompt: follows its prompt, quality: is free of artefacts}

Any server that speaks `/chat/completions` will do: vLLM, SGLang, Ollama, a hosted one. Each image
is asked about once with all criteria; a score is the mean of their numbers. What the server
computes is its own: the fingerprint holds its address, the model's name and the rubric, not the
weights.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tgo.rewards.base import Batch, Provenance
from tgo.rewards.errors import RewardError
from tgo.rewards.http_client import AnswerCache, Client

CACHE = "data/.judge_answers.sqlite"
MALFORMED_ATTEMPTS = 3
"""How often a model is asked that answers without all numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VlmJudge(Provenance):
    """The mean of a judge's numbers for the criteria of a rubric."""

    name: ClassVar[str] = "vlm_judge"
    model: str  # type: ignore[misc]
    unit: str  # type: ignore[misc]
    usual_range: tuple[float, float]  # type: ignore[misc]

    criteria: Mapping[str, str]
    client: Client = field(repr=False)
    cache: AnswerCache = field(repr=False)
    workers: int = field(repr=False)
    max_tokens: int = field(default=200, repr=False)

    def score(self, batch: Batch) -> Tensor:
        """float32 [B]; what is in the cache is not asked again."""
        with ThreadPoolExecutor(self.workers) as pool:
            scores = list(pool.map(lambda place: self._score(batch, place), range(len(batch))))
        return torch.tensor(scores, dtype=torch.float32)

    def _score(self, batch: Batch, place: int) -> float:
        file = io.BytesIO()
        batch.pillow(place).convert("RGB").save(file, "PNG")
        image = file.getvalue()
        request = self._request(image, batch.prompts[place])
        asked = [self.client.url, request]
        numbers = self.cache.once(asked, lambda: self._ask(request))
        return float(sum(numbers.values()) / len(numbers))

    def _ask(self, request: dict[str, Any]) -> dict[str, float]:
        """The number of each criterion.

        Raises RewardError: the model gave none that fit, however often it was asked.
        """
        answer: Any = None
        for _ in range(MALFORMED_ATTEMPTS):
            answer = self.client.post(request)
            numbers = _numbers(answer, self.criteria, self.usual_range)
            if numbers is not None:
                return numbers
        low, high = self.usual_range
        told = json.dumps(answer)[:160]
        raise RewardError(
            f"{self.client.url}: {self.model} gives no number from {low:g} to {high:g} for each of "
            f"{', '.join(self.criteria)} (last: {told}); simplify options.criteria, or use a model "
            "that follows instructions"
        )

    def _request(self, image: bytes, prompt: str) -> dict[str, Any]:
        low, high = self.usual_range
        listed = "\n".join(f"- {name}: the image {text}" for name, text in self.criteria.items())
        form = ", ".join(f'"{name}": number' for name in self.criteria)
        text = (
            f"You rate an image that was generated from a prompt. Prompt: {json.dumps(prompt)}\n"
            f"Give a number from {low:g} (not at all) to {high:g} (perfectly) for each of:\n"
            f"{listed}\nAnswer with JSON only: {{{form}}}"
        )
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        content = [
            {"type": "text", "text": text},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }


def _numbers(
    answer: Any, criteria: Mapping[str, str], bounds: tuple[float, float]
) -> dict[str, float] | None:
    """What an answer says of each criterion; None where anything is missing or out of bounds."""
    try:
        text = str(answer["choices"][0]["message"]["content"]).rpartition("</think>")[2]
    except (KeyError, IndexError, TypeError):
        return None
    for found in reversed(re.findall(r"\{[^{}]*\}", text)):  # what was thought aloud comes first
        try:
            values = json.loads(found)
        except ValueError:
            continue
        numbers = {name: _number(values.get(name)) for name in criteria}
        if all(bounds[0] <= number <= bounds[1] for number in numbers.values()):
            return numbers
    return None


def _number(value: Any) -> float:
    """A number, or a text of one; NaN for anything else, a truth value too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def load(
    source: str,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    model: str,
    criteria: Mapping[str, str],
    scale: tuple[float, float] = (1.0, 10.0),
    key_variable: str | None = None,
    cache: str = CACHE,
    workers: int = 8,
    max_tokens: int = 200,
    **connection: Any,
) -> VlmJudge:
    """A judge at an address.

    Args:
        source: of the API, such as http://localhost:8000/v1.
        device: not used; the server has its own.
        dtype: not used.
        model: its name there.
        criteria: what is rated, by name; each continues "the image ...".
        scale: lowest and highest number.
        key_variable: environment variable that holds the key.
        cache: file in which answers are kept.
        workers: images that are asked about at once.
        max_tokens: that an answer may have; a model that thinks aloud needs some thousands.
        **connection: timeout, attempts, pause, per_minute, budget of `http_client.Client`.

    Returns:
        The reward model.

    Raises:
        RewardError: the settings are incomplete, or the key is not in the environment.
    """
    if not source.startswith(("http://", "https://")) or not criteria:
        raise RewardError(
            f"vlm_judge: source is {source!r} with {len(criteria)} criteria; name the address of "
            "an API, such as http://localhost:8000/v1, and at least one criterion"
        )
    url = f"{source.rstrip('/')}/chat/completions"
    low, high = (float(bound) for bound in scale)
    rubric = json.dumps([url, model, dict(criteria), low, high])
    return VlmJudge(
        model=model,
        version="remote",
        unit=f"rating {low:g} to {high:g}",
        usual_range=(low, high),
        checkpoint_sha256=hashlib.sha256(rubric.encode()).hexdigest(),
        dtype="the server's",
        preprocessing=f"PNG to {url}; {', '.join(criteria)}",
        criteria=dict(criteria),
        client=Client(url, key_variable=key_variable, **connection),
        cache=AnswerCache(Path(cache)),
        workers=workers,
        max_tokens=max_tokens,
    )
