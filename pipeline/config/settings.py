"""The settings of a run: params.yaml, checked completely before any model is loaded.

There are no defaults in code: params.yaml is the one place where a value and the reason for it
stand, so what DVC tracks is what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from tgo.pipeline.config import columns
from tgo.pipeline.config.error_lines import did_you_mean, one_line
from tgo.pipeline.config.fields import Count, Group, Seed, Source
from tgo.pipeline.config.label_settings import PROMPT, RATING, Label
from tgo.pipeline.config.objectives import refuse_impossible
from tgo.pipeline.config.prompt_settings import Prompts
from tgo.pipeline.config.renamed import refuse_old_keys
from tgo.pipeline.config.train_settings import Train
from tgo.pipeline.documents import parse_yaml, read_yaml
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import FAMILIES
from tgo.pipeline.generators.sizes import Size, sizes_of
from tgo.rewards import registry


def _runs(command: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if command not in value:
            raise ValueError(
                f"launch.{command.split()[1]} = {value!r}: runs no `{command}`; write that, or a "
                "launcher before it"
            )
        return value

    return check


class Generator(Group):
    """The text-to-image model being aligned and the sampler that makes its images."""

    family: str = Field(description=f"a model family: {', '.join(FAMILIES)}")
    model: Source
    resolution: int | list[list[int]] | None = Field(
        description="pixels a side of an image, [[width, height], ...] for images of several "
        "shapes, or null for what the model makes"
    )
    steps: Count
    guidance_scale: float = Field(
        ge=1, allow_inf_nan=False, description="a number of at least 1 (1 switches guidance off)"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        description="float32, bfloat16 or float16"
    )
    quantization: Literal["int8", "nf4"] | None = Field(
        description="int8 or nf4, or null for weights of generator.dtype"
    )
    offload: bool = Field(description="true or false")
    vae_tiling: bool = Field(description="true or false")
    compile: bool = Field(description="true or false")

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes of images that are named; none where `resolution` is null."""
        return sizes_of(self.resolution)

    @field_validator("resolution", mode="before")
    @classmethod
    def _known_sizes(cls, resolution: Any) -> Any:
        """Whole numbers, and no two sizes of one shape: a picture could choose neither."""
        told = resolution if isinstance(resolution, list) else [[resolution] * 2]
        if resolution is not None and not (told and all(map(_is_size, told))):
            wanted = cls.model_fields["resolution"].description
            raise ValueError(f"generator.resolution = {resolution!r} must be {wanted}")
        first: dict[float, Size] = {}
        for size in sizes_of(resolution):
            other = first.setdefault(size.width / size.height, size)
            if other is not size:
                raise ValueError(
                    f"generator.resolution: {other} and {size} are of one shape, and a picture "
                    "chooses its size by its shape; keep one of them"
                )
        return resolution

    @field_validator("family")
    @classmethod
    def _known_family(cls, family: str) -> str:
        if family not in FAMILIES:
            hint = did_you_mean(["generator", "family", family], list(FAMILIES))
            raise ValueError(f"generator.family = {family!r}: unknown; {hint}")
        return family


class Reward(Group):
    """A reward model: usually just its source, written as `name: source`."""

    source: str = Field("", description="a folder, file or hub repository id")
    module: str | None = Field(
        None, min_length=1, description="a module (package.module) or the path of its .py file"
    )
    backend: Literal["own", "official"] = Field("own", description="own or official")
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the model's loader, such as antialias: false"
    )

    @model_validator(mode="before")
    @classmethod
    def _source_only(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


class Score(Group):
    """Stage one: how many images, and in what portions."""

    prompts: Count
    skip: int = Field(ge=0, description="a number of prompts, 0 for none")
    images_per_prompt: Count
    batch_size: Count
    rows_per_shard: Count
    compile: bool = Field(description="true or false")
    tables: dict[str, Source] = Field(
        default_factory=dict, description="files of further scores by image id, or {} for none"
    )


class Evaluate(Group):
    """How base and tuned model are compared."""

    prompts: Count
    images_per_prompt: Count
    base: Source | None = Field(description="a model folder or hub id, or null for generator.model")
    judge: str | None = Field(
        pattern=r"^[\w.]+:\w+$", description="a function as package.module:name, or null for none"
    )


class Launch(Group):
    """Commands that `dvc repro` runs where a stage may spread over processes or machines."""

    score: Annotated[str, AfterValidator(_runs("tgo score"))]
    train: Annotated[str, AfterValidator(_runs("tgo train"))]


class Report(Group):
    """What the page shows."""

    gallery: Count


class Settings(Group):
    """Everything params.yaml says."""

    seed: Seed
    threads: Count
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto, cpu or cuda")
    engine: Literal["local", "ray"] = Field(description="local or ray")
    prompts: Prompts
    generator: Generator
    rewards: dict[str, Reward] = Field(
        description="reward models with their checkpoints, or {} for none"
    )
    score: Score
    label: Label
    train: Train
    evaluate: Evaluate
    report: Report
    launch: Launch

    @property
    def imported(self) -> bool:
        """Whether the feedback was imported (`tgo import`), not made by reward models."""
        return RATING in self.label.reward

    @property
    def compared_base(self) -> str:
        """The model that the tuned one is compared with: in later rounds the first of all."""
        return self.evaluate.base or self.generator.model

    @property
    def shown_reward(self) -> str | None:
        """The reward model that the report puts first; None where there is none.

        The feedback, if it is a reward model, else the first of them.
        """
        leading = self.label.leading
        return leading if leading in self.rewards else next(iter(self.rewards), None)

    @property
    def stand_ins(self) -> list[str]:
        """What the embedded toy world stands in for: `generator`, and names of reward models."""
        sources = {"generator": self.compared_base}
        sources |= {name: entry.source for name, entry in self.rewards.items()}
        return [name for name, source in sources.items() if _of_the_world(source)]

    @field_validator("rewards")
    @classmethod
    def _known_rewards(cls, rewards: dict[str, Reward]) -> dict[str, Reward]:
        """Names of the five, of installed entry points, or with a module of their own."""
        try:
            columns.check_new_columns("rewards", rewards)
        except InputError as error:
            raise ValueError(str(error).replace("rewards ", "rewards.", 1)) from None
        for name, entry in rewards.items():
            if entry.module is None and not registry.is_known(name):
                hint = did_you_mean(["rewards", name], list(registry.available()))
                raise ValueError(f"rewards.{name}: unknown name; {hint}")
            elif entry.module is None and not entry.source:
                raise ValueError(f"rewards.{name}: missing; add a folder, file or hub id")
        return rewards

    def _check_columns(self) -> None:
        """Names of score columns: none twice, and each that is the feedback is there."""
        for name in self.score.tables:
            reason = columns.why_not(name)
            if reason is None and name in self.rewards:
                reason = "is a reward model, too; name the column otherwise"
            if reason:
                raise ValueError(f"score.tables.{name}: {reason}")
        there = (*self.rewards, *self.score.tables)
        rated = columns.RATED if self.imported else ()
        for key, names, more in (
            ("reward", self.label.reward, (RATING,)),
            ("filter", self.label.filter or {}, rated),
        ):
            for name in names:
                if name not in (*there, *more):
                    raise ValueError(
                        f"label.{key} = {name!r} is not among rewards ({', '.join(there)}); choose "
                        "one of them or add it under rewards"
                    )

    @model_validator(mode="after")
    def _combinations(self) -> Settings:
        """Refuse settings that are right one by one and impossible together."""
        self._check_columns()
        if self.generator.quantization and self.train.lora is None:
            raise ValueError(
                f"generator.quantization = {self.generator.quantization!r} freezes the weights it "
                "rounds, so train.lora must hold adapters; set it to "
                "{rank: 16, alpha: 16, targets: null}, or generator.quantization to null"
            )
        if self.generator.quantization and self.train.parallel == "fsdp":
            raise ValueError(
                "train.parallel = 'fsdp' shards plain tensors, not those of generator.quantization "
                f"= {self.generator.quantization!r}; set parallel to ddp"
            )
        refuse_impossible(self.train, self.generator.family)
        one = self.score.images_per_prompt == 1 and not self.imported
        if self.label.scope == PROMPT and one:
            raise ValueError(
                "label.scope = 'prompt' needs several images a prompt, but "
                "score.images_per_prompt = 1; raise it to 4 or so, or set label.scope to global"
            )
        for group in ("score", "evaluate"):
            images = getattr(self, group).images_per_prompt
            if images > self.score.rows_per_shard:
                raise ValueError(
                    f"{group}.images_per_prompt = {images} does not fit into a shard of "
                    f"score.rows_per_shard = {self.score.rows_per_shard}, and a prompt is never "
                    f"split over shards; raise rows_per_shard to at least {images}"
                )
        images = self.score.prompts * self.score.images_per_prompt
        if self.train.batch_size > images and not self.imported:
            raise ValueError(
                f"train.batch_size = {self.train.batch_size} is more than the {images} images of "
                "score.prompts x score.images_per_prompt; lower it or make more images"
            )
        return self


def _is_size(value: Any) -> bool:
    """Whether it is [width, height]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(side) is int and side >= 1 for side in value)
    )


def _of_the_world(source: str) -> bool:
    """Whether a checkpoint is one of data/world, by the folder it lies in."""
    return ("data", "world") in pairwise(Path(source).parts)


def load(path: Path | str, changes: Sequence[str] = ()) -> Settings:
    """Read and check a settings file.

    Args:
        path: the file.
        changes: settings to change, as `train.steps=10`; values are YAML.

    Returns:
        The checked settings.

    Raises:
        InputError: with one line that names the key.
    """
    remedy = "run in the repository's root or pass --params"
    values = read_yaml(Path(path), remedy)
    for change in changes:
        _change(values, change)
    origin = f"{path} with --set {' --set '.join(changes)}" if changes else str(path)
    return validate(values, origin=origin)


def validate(values: Any, origin: str) -> Settings:
    """Check settings that are already a mapping; `origin` names their source in errors."""
    if not isinstance(values, Mapping):
        raise InputError(f"{origin}: holds no settings; write `key: value` lines into it")
    refuse_old_keys(values, origin)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise InputError(f"{origin}: {one_line(found[0], Settings)}{more}") from None
    except OverflowError as error:
        raise InputError(f"{origin}: holds a number beyond all bounds ({error})") from None


def _change(values: Any, change: str) -> None:
    """Change one setting in the values of the file; `validate` then checks them all."""
    key, equals, text = change.partition("=")
    keys = key.strip().split(".")
    for number, name in enumerate(keys[:-1], 1):
        values = values.get(name) if isinstance(values, Mapping) else None
        if values is None and equals:
            group = ".".join(keys[:number])
            raise InputError(
                f"--set {change}: {group} is null or unknown; set all of it, as in "
                f"--set '{group}={{{keys[-1]}: {text}}}'"
            )
    if not equals or not all(keys) or not isinstance(values, MutableMapping):
        raise InputError(f"--set {change}: write a setting as group.key=value: train.steps=10")
    values[keys[-1]] = parse_yaml(text, f"--set {change}", "write a YAML value after the =")
