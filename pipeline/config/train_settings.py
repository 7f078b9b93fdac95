"""The settings of stage three, `train` in params.yaml."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from tgo.pipeline.config.fields import Count, Fraction, Group, NonNegative, Positive, Seed

AUTO = "auto"
FREE = {
    "checkpoint_every",
    "collapse",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "keep",
    "loggers",
    "parallel",
    "samples",
    "steps",
    "workers",
}
"""Settings that leave every step as it is, `gradient_accumulation_steps` and `parallel` up to
rounding: a run continues across a change of them, as across one of the number of processes."""


def _beta(value: Any) -> float | str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == AUTO or (number and math.isfinite(value) and value > 0):
        return float(value) if number else AUTO
    raise ValueError(f"train.beta = {value!r} must be a number above 0, or auto")


PairChoice = Annotated[
    Literal["all", "extreme"],
    Field(description="all (every two images of a prompt) or extreme (its best and its worst)"),
]


class AutoBeta(Group):
    """How `beta: auto` finds itself (trainer/objectives/beta.py)."""

    factor: float = Field(gt=0, lt=0.5, description="a number above 0 and below 0.5")
    rate: Positive
    start: Positive


class TgoSettings(Group):
    """Threshold-Guided Optimization: whether its logit is shifted."""

    shift_decay: Fraction | None = Field(
        description="a number from 0 to below 1, or null for no shift"
    )


class BcoSettings(Group):
    """Binary classifier optimization: how slowly its shift moves."""

    shift_decay: Fraction


class CsftSettings(Group):
    """Conditional fine-tuning: what is put before the prompts of negatives."""

    negative_prefix: str = Field(min_length=1, description="a phrase, such as 'Weird image. '")


class DpoSettings(Group):
    """Diffusion-DPO."""

    pairs: PairChoice


class DspoSettings(Group):
    """DSPO."""

    pairs: PairChoice
    beta: Positive


class MapoSettings(Group):
    """MaPO."""

    pairs: PairChoice
    beta: Positive
    scale: Positive
    steps: Positive


class RwrSettings(Group):
    """Reward-weighted regression: the temperature of its weights."""

    beta: Positive


class LairSettings(Group):
    """LAIR: what holds its log-ratio."""

    penalty: Positive


class NftSettings(Group):
    """DiffusionNFT in its offline form."""

    mix: float = Field(gt=0, le=1, description="a number above 0 and at most 1")
    clip: Positive


class ObjectiveSettings(Group):
    """What single objectives want for themselves; those of the others change nothing."""

    tgo: TgoSettings
    bco: BcoSettings
    csft: CsftSettings
    dpo: DpoSettings
    dspo: DspoSettings
    mapo: MapoSettings
    rwr: RwrSettings
    lair: LairSettings
    nft: NftSettings


class Collapse(Group):
    """When a run is stopped because it forgets (pipeline/training_log/health.py)."""

    likelihood_fall: Positive | None = Field(description="a number above 0, or null for never")
    held_out_rise: Positive | None = Field(description="a number above 0, or null for never")
    accuracy: float | None = Field(
        ge=0, le=0.5, description="a number from 0 to 0.5, or null for never"
    )
    patience: Count


class Keep(Group):
    """Which checkpoints stay once newer ones are written (trainer/checkpoints.py)."""

    last: Count
    every: Count | None


class Samples(Group):
    """Images of a few fixed prompts while training goes on (trainer/samples.py)."""

    prompts: Count
    every: Count


class Lora(Group):
    """Low-rank adapters in the place of full fine-tuning (trainer/lora.py)."""

    rank: Count
    alpha: Positive
    targets: list[Annotated[str, Field(min_length=1)]] | None = Field(
        min_length=1,
        description="ends of module names, such as [to_q, to_k], or null for the family's own",
    )


class Timesteps(Group):
    """At which noise levels a likelihood is measured, and what each counts (trainer/noise.py)."""

    draw: Literal["family", "uniform", "logit_normal"] = Field(
        description="family (as the family was trained), uniform or logit_normal"
    )
    mean: float = Field(allow_inf_nan=False, description="a number")
    std: Positive
    snr_gamma: Positive | None = Field(description="a number above 0, or null for equal weights")


class Schedule(Group):
    """How the learning rate moves (`diffusers.optimization.get_scheduler`)."""

    name: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = Field(
        description="constant, linear, cosine, cosine_with_restarts or polynomial"
    )
    warmup: int = Field(ge=0, description="a whole number of steps, at least 0")


class Train(Group):
    """Stage three."""

    objective: str = Field(min_length=1, description="the name of an objective, such as tgo")
    objectives: ObjectiveSettings
    beta: Annotated[Any, PlainValidator(_beta)] = Field(description="a number above 0, or auto")
    auto_beta: AutoBeta
    reference: Literal["initial", "epoch"] = Field(
        description="initial (the model before training) or epoch (renewed at each epoch's end)"
    )
    reference_cache: Count | None
    temperature: Positive
    lora: Lora | None
    precision: Literal["float32", "bfloat16"] = Field(description="float32 or bfloat16")
    gradient_checkpointing: bool = Field(description="true or false")
    compile: bool = Field(description="true or false")
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = Field(
        description="adamw, adamw8bit or adafactor"
    )
    learning_rate: Positive
    schedule: Schedule
    batch_size: Count
    gradient_accumulation_steps: Count
    positives: float | None = Field(
        gt=0, lt=1, description="a number above 0 and below 1, or null for the share there is"
    )
    draws: Count
    timesteps: Timesteps
    held_out: float | None = Field(
        gt=0, lt=1, description="a number above 0 and below 1, or null for none"
    )
    steps: Count
    ema_decay: Fraction
    weight_decay: NonNegative
    max_grad_norm: Positive
    prompt_dropout: Fraction
    collapse: Collapse
    parallel: Literal["ddp", "fsdp"] = Field(description="ddp or fsdp")
    workers: int = Field(ge=0, description="a whole number of at least 0")
    checkpoint_every: Count
    keep: Keep
    log_every: Count
    loggers: list[Literal["tensorboard", "wandb", "dvclive"]] = Field(
        description="a list of tensorboard, wandb, dvclive; [] for none"
    )
    samples: Samples | None
    seed: Seed
