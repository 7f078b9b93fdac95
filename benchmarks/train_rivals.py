"""What the training loop and its stream are measured against, on stock classes of libraries."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.train_rows import Place, write_rows
from pipeline.storage import shards
from trainer.rows import LabelledRows
from trainer.stream import Stream

BATCH = 64
LATENT = (4, 64, 64)
"""float16: 32 KB a row."""


class Usual:
    """A step of the usual kind; see `benchmarks.train`. It reads the same shards' pictures."""

    def __init__(self, place: Place, device: torch.device) -> None:
        from diffusers import DDPMScheduler, StableDiffusionPipeline

        train = place.settings.train
        self._size, self._device, self._beta = train.batch_size, device, train.beta
        self._scale = train.beta / train.temperature
        pipe = StableDiffusionPipeline.from_pretrained(
            place.settings.generator.model, safety_checker=None, dtype=torch.float32
        ).to(device)
        self._vae, self._text, self._words = pipe.vae, pipe.text_encoder, pipe.tokenizer
        self._policy = pipe.unet.requires_grad_(True)
        self._reference = type(pipe.unet).from_config(pipe.unet.config).to(device)
        self._reference.load_state_dict(pipe.unet.state_dict())
        for frozen in (self._vae, self._text, self._reference):
            frozen.requires_grad_(False).eval()
        self._schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        self._optimizer = torch.optim.AdamW(self._policy.parameters(), lr=train.learning_rate)
        self._rows = self._pictures(place)

    def __call__(self, updates: int) -> None:
        for _ in range(updates):
            self._step(*next(self._rows))

    def _step(self, pictures: list[bytes], prompts: list[str], label: Tensor) -> float:
        pixels = np.stack(
            [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pictures]
        )
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self._device) / 127.5 - 1
        half = torch.autocast(self._device.type, torch.bfloat16, self._device.type == "cuda")
        with half:
            with torch.no_grad():
                latents = self._vae.encode(images).latent_dist.sample()
                latents = latents * self._vae.config.scaling_factor
                tokens = self._words(
                    prompts,
                    padding="max_length",
                    max_length=self._words.model_max_length,
                    truncation=True,
                    return_tensors="pt",
                ).to(self._device)
                context = self._text(tokens.input_ids)[0]
            noise = torch.randn_like(latents)
            count = self._schedule.config.num_train_timesteps
            times = torch.randint(count, (len(latents),), device=self._device)
            target = self._target(latents, noise, times)
            error = self._error(self._policy, latents, noise, times, context, target)
            with torch.no_grad():
                reference = self._error(self._reference, latents, noise, times, context, target)
            side = 2 * label.to(self._device) - 1
            loss = -functional.logsigmoid(side * self._scale * (reference - error)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self._policy.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()

    def _error(
        self,
        network: nn.Module,
        latents: Tensor,
        noise: Tensor,
        times: Tensor,
        context: Tensor,
        target: Tensor,
    ) -> Tensor:
        noised = self._schedule.add_noise(latents, noise, times)
        prediction = network(noised, times, encoder_hidden_states=context).sample
        return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))

    def _target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        if self._schedule.config.prediction_type == "v_prediction":
            return self._schedule.get_velocity(latents, noise, times)
        return noise

    def _pictures(self, place: Place) -> Iterator[tuple[list[bytes], list[str], Tensor]]:
        """Batches in shuffled order, from memory: reading is not what is compared here."""
        pictures: list[bytes] = []
        prompts: list[str] = []
        for path in shards.shard_paths(place.scored):
            table = pq.read_table(path, columns=["image", "prompt"])
            pictures += [row["bytes"] for row in table["image"].to_pylist()]
            prompts += table["prompt"].to_pylist()
        random = np.random.default_rng(0)
        while True:
            order = random.permutation(len(pictures))
            for at in range(0, len(order) - self._size + 1, self._size):
                chosen = order[at : at + self._size]
                label = torch.from_numpy(random.integers(0, 2, self._size)).float()
                yield [pictures[n] for n in chosen], [prompts[n] for n in chosen], label


def time_streams(root: Path, repeats: int, count: int = 16) -> dict[str, Any]:
    """Rows/s of our stream and of `datasets`, shuffled, from one process, on the same shards.

    They have 512 rows each, as docs/scale.md proposes for 512 px.
    """
    rows = 512 * count
    for number in range(count):
        write_rows(root, LATENT, (1, 8), 512, pixels=None, place=(number, count))
    own = LabelledRows(root / "scored", root / "labelled", root / "embeddings")
    rivals = {
        "tgo": partial(_own, own, workers=0),
        "tgo, 2 workers": partial(_own, own, workers=2),
        "datasets": partial(_datasets, root),
    }
    took: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(repeats + 1):
        for name, begun in rivals.items():
            batches = begun()
            begin = time.perf_counter()
            for _ in range(rows // BATCH):
                next(batches)
            if turn:
                took[name].append(time.perf_counter() - begin)
            batches.close()  # type: ignore[attr-defined]
    speeds = {name: rows / statistics.median(seconds) for name, seconds in took.items()}
    kilobytes = 2 * int(np.prod(LATENT)) / 1024
    return {
        "rows_per_s": speeds,
        "kilobytes_a_row": kilobytes,
        "faster_by": speeds["tgo"] / speeds["datasets"],
    }


def _own(rows: LabelledRows, workers: int) -> Iterator[Any]:
    with closing(Stream(rows, seed=0, batch_size=BATCH, workers=workers).batches()) as batches:
        yield from batches


def _datasets(root: Path) -> Iterator[Any]:
    """Streamed, shuffled in a buffer, stacked by a DataLoader: what its documentation shows."""
    from datasets import load_dataset
    from torch.utils.data import DataLoader

    files = [str(path) for path in shards.shard_paths(root / "scored")]
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    chosen = stream.select_columns(["codes"]).shuffle(seed=0, buffer_size=1024).with_format("torch")
    yield from DataLoader(chosen, batch_size=BATCH)
