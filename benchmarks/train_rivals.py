"""What the training loop and its stream are measured against, on stock classes of libraries."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator, Sequence
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
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.train_rows import Place, write_rows
from tgo.pipeline.storage import shards
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.stream import Stream

BATCH = 64
LATENT = (4, 64, 64)
"""float16: 32 KB a row."""


class Usual:
    """A step of the usual kind; see `benchmarks.train`. It reads the same shards' pictures."""

    def __init__(self, place: Place, device: torch.device) -> None:
        from diffusers import DDPMScheduler, DiffusionPipeline

        train = place.settings.train
        self._device, self._half = device, train.precision == "bfloat16"
        self._scale = train.beta / train.temperature
        self._pipe = DiffusionPipeline.from_pretrained(
            place.settings.generator.model, dtype=torch.float32
        ).to(device)
        self._policy = self._pipe.unet.requires_grad_(True)
        self._reference = type(self._policy).from_config(self._policy.config).to(device)
        self._reference.load_state_dict(self._policy.state_dict())
        encoders = [self._pipe.text_encoder, getattr(self._pipe, "text_encoder_2", None)]
        for frozen in filter(None, (self._pipe.vae, self._reference, *encoders)):
            frozen.requires_grad_(False).eval()
            if self._half:  # frozen weights are stored in the compute dtype
                frozen.to(torch.bfloat16)
        self._schedule = DDPMScheduler.from_config(self._pipe.scheduler.config)
        self._optimizer = torch.optim.AdamW(self._policy.parameters(), lr=train.learning_rate)
        self._rows = _pictures(place, workers=4 if device.type == "cuda" else 0)

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self._take_step(*next(self._rows))

    def _take_step(self, pixels: Tensor, prompts: Sequence[str], label: Tensor) -> float:
        images = pixels.to(self._device) / 127.5 - 1
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            with torch.no_grad():
                images = images.to(self._pipe.vae.dtype)
                latents = self._pipe.vae.encode(images).latent_dist.sample()
                latents = latents * self._pipe.vae.config.scaling_factor
                given = self._conditions(prompts, images.shape[-1])
            noise = torch.randn_like(latents)
            count = self._schedule.config.num_train_timesteps
            times = torch.randint(count, (len(latents),), device=self._device)
            target = self._target(latents, noise, times)
            error = self._error(self._policy, latents, noise, times, given, target)
            with torch.no_grad():
                reference = self._error(self._reference, latents, noise, times, given, target)
            side = 2 * label.to(self._device) - 1
            loss = -functional.logsigmoid(side * self._scale * (reference - error)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self._policy.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()

    def _conditions(self, prompts: Sequence[str], pixels: int) -> dict[str, Any]:
        """What the text encoders and, for SDXL, the image's size give the network."""
        encoded = self._pipe.encode_prompt(
            list(prompts),
            device=self._device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        found: dict[str, Any] = {"encoder_hidden_states": encoded[0]}
        if len(encoded) > 2:
            told = torch.tensor([pixels, pixels, 0, 0, pixels, pixels], device=self._device)
            ids = told.to(encoded[2].dtype).expand(len(prompts), -1)
            found["added_cond_kwargs"] = {"text_embeds": encoded[2], "time_ids": ids}
        return found

    def _error(
        self,
        network: nn.Module,
        latents: Tensor,
        noise: Tensor,
        times: Tensor,
        given: dict[str, Any],
        target: Tensor,
    ) -> Tensor:
        noised = self._schedule.add_noise(latents, noise, times)
        prediction = network(noised, times, **given).sample
        return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))

    def _target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        if self._schedule.config.prediction_type == "v_prediction":
            return self._schedule.get_velocity(latents, noise, times)
        return noise


class _Pictures(Dataset[tuple[Tensor, str, float]]):
    """Decoded pictures with prompts and labels; PNGs in memory, as reading is not compared here."""

    def __init__(self, place: Place) -> None:
        tables = [
            pq.read_table(path, columns=["image", "prompt"])
            for path in shards.shard_paths(place.scored)
        ]
        self._pngs = [row["bytes"] for table in tables for row in table["image"].to_pylist()]
        self._prompts = [prompt for table in tables for prompt in table["prompt"].to_pylist()]

    def __len__(self) -> int:
        return len(self._pngs)

    def __getitem__(self, number: int) -> tuple[Tensor, str, float]:
        pixels = np.array(Image.open(io.BytesIO(self._pngs[number])).convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1), self._prompts[number], number % 2


def _pictures(place: Place, workers: int) -> Iterator[Any]:
    """Batches in random order; they do not end, so the loader's processes start once."""
    pictures = _Pictures(place)
    endless = RandomSampler(pictures, replacement=True, num_samples=10**9)
    return iter(
        DataLoader(pictures, place.settings.train.batch_size, sampler=endless, num_workers=workers)
    )


def time_streams(root: Path, repeats: int, count: int = 16) -> dict[str, Any]:
    """Rows/s of our stream and of `datasets`, shuffled, from one process, on the same shards.

    They have 512 rows each, as docs/scale.md proposes for 512 px.
    """
    rows = 512 * count
    for number in range(count):
        write_rows(root, LATENT, {"embeddings": (1, 8)}, 512, pixels=None, place=(number, count))
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

    files = [str(path) for path in shards.shard_paths(root / "scored")]
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    chosen = (
        stream.select_columns(["latents"]).shuffle(seed=0, buffer_size=1024).with_format("torch")
    )
    yield from DataLoader(chosen, batch_size=BATCH)
