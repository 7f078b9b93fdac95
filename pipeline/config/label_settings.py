"""The settings of stage two: which scalar, which threshold, which weights.

A setting that the others leave without effect must be null: what params.yaml says is what runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tgo.pipeline.config.fields import Group, Percentile, Positive

GLOBAL, PROMPT = "global", "prompt"
RATING = "rating"
"""The column of imported feedback: a `reward` that is no reward model."""
RATING_ERROR = "rating_error"
"""The column of its standard errors, in the unit of the ratings."""
PositiveOrNull = Positive | None


class Limits(Group):
    """What a score may be for its row to be labelled."""

    min: Annotated[float, Field(allow_inf_nan=False)] | None = None
    max: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _some(self) -> Limits:
        if self.min is None and self.max is None:
            raise ValueError("names no limit; write {min: 0.2}, {max: 0.8} or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; exchange them")
        return self


def _weights_of(value: Any) -> Any:
    return {value: 1.0} if isinstance(value, str) else value


class Label(Group):
    """How scores become labels and weights; the equations are in docs/stage_two.md."""

    reward: Annotated[dict[str, Positive], BeforeValidator(_weights_of)] = Field(
        min_length=1,
        description="the name of a reward model, rating, or several with weights: {clip: 2, ...}",
    )
    standardise: Literal["none", "z-score", "rank"] = Field(description="none, z-score or rank")
    missing: Literal["refuse", "exclude", "available"] = Field(
        description="refuse, exclude or available"
    )
    filter: dict[str, Limits] | None = Field(
        min_length=1, description="scores that rows must have, such as {nsfw: {max: 0.2}}, or null"
    )
    estimator: Literal["percentile", "mean", "otsu", "mixture", "fixed", "oracle"] = Field(
        description="percentile, mean, otsu, mixture, fixed or oracle"
    )
    percentile: Percentile | None = Field(description="a number from 0 to 100, or null")
    value: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        description="a number in the score's unit, or null"
    )
    oracle_beta: PositiveOrNull = Field(description="a number above 0 in the score's unit, or null")
    proxy: str | None = Field(min_length=1, description="a folder of scored shards, or null")
    scope: str = Field(min_length=1, description="global, prompt, or a column such as domain")
    shrinkage: PositiveOrNull = Field(description="a number of rows above 0, or null for none")
    ties: Literal["positive", "negative"] = Field(description="positive (>=) or negative (>)")
    ordinal: list[Percentile] | None = Field(
        min_length=2, description="two or more rising percentiles, or null"
    )
    weights: Literal["standardised", "raw", "capped", "rank", "noise", "none"] = Field(
        description="standardised, raw, capped, rank, noise or none"
    )
    confidence: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        description="a number of at least 0, or null"
    )
    cap: PositiveOrNull = Field(description="a number of standard deviations above 0, or null")
    error: Positive | Literal["rating_error"] | None = Field(
        description="a number of standard deviations above 0, rating_error, or null"
    )
    earlier: str | None = Field(min_length=1, description="an earlier threshold.json, or null")

    @property
    def leading(self) -> str:
        """The reward model with the greatest weight; the first of them where some are equal."""
        return max(self.reward, key=lambda name: self.reward[name])

    @property
    def name(self) -> str:
        """The scalar in words: `clip`, or `2 clip + 1 hpsv2`."""
        if len(self.reward) == 1:
            return self.leading
        return " + ".join(f"{weight:g} {name}" for name, weight in self.reward.items())

    @property
    def grouped(self) -> bool:
        """Whether there is more than one threshold for a rank: one per group of rows."""
        return self.scope != GLOBAL

    @model_validator(mode="after")
    def _combinations(self) -> Label:
        for fault in self._faults():
            raise ValueError(fault)
        return self

    def _faults(self) -> Iterator[str]:
        """What is right one by one and impossible or without effect together."""
        yield from self._scalar_faults()
        for key, used, by in (
            ("percentile", self.estimator == "percentile", "estimator percentile"),
            ("value", self.estimator == "fixed", "estimator fixed"),
            ("oracle_beta", self.estimator == "oracle", "estimator oracle"),
            ("cap", self.weights == "capped", "weights capped"),
            ("error", self.weights == "noise", "weights noise"),
            (
                "confidence",
                self.weights not in ("noise", "none"),
                "weights standardised, raw, capped or rank",
            ),
        ):
            found = getattr(self, key)
            if used and found is None:
                yield f"label.{key} = null, but {by} needs it; give it a number"
            if not used and found is not None:
                shown = found if isinstance(found, str) else f"{found:g}"
                yield f"label.{key} = {shown} has an effect only with {by}; set it to null"
        yield from self._threshold_faults()

    def _scalar_faults(self) -> Iterator[str]:
        several = len(self.reward) > 1
        if self.error == RATING_ERROR and (several or self.leading != RATING):
            yield (
                f"label.error = {RATING_ERROR!r} is the error of imported ratings; set "
                f"label.reward to {RATING}, or label.error to a number"
            )
        if self.error == RATING_ERROR and self.standardise == "rank":
            yield (
                f"label.error = {RATING_ERROR!r} has the unit of ratings, and label.standardise = "
                "'rank' takes it away; set that to none"
            )
        if self.missing == "available" and not several:
            yield (
                "label.missing = 'available' takes the mean of the other reward models, and "
                "label.reward names one; set label.missing to exclude or refuse"
            )

    def _threshold_faults(self) -> Iterator[str]:
        if self.estimator == "oracle" and self.scope != PROMPT:
            yield (
                f"label.estimator = 'oracle' is a baseline per prompt, but label.scope = "
                f"{self.scope!r}; set label.scope to prompt"
            )
        if self.estimator in ("otsu", "mixture") and self.scope == PROMPT:
            yield (
                f"label.estimator = {self.estimator!r} needs more scores than a prompt has; set "
                "label.scope to global or a column, or label.estimator to percentile"
            )
        if self.estimator == "fixed":
            for key, idle in (("scope", GLOBAL), ("proxy", None)):
                if getattr(self, key) != idle:
                    yield (
                        f"label.{key} = {getattr(self, key)!r} has no effect on a fixed threshold; "
                        f"set it to {idle or 'null'}"
                    )
        if self.shrinkage is not None and not self.grouped:
            yield (
                f"label.shrinkage = {self.shrinkage:g} draws groups to the global threshold, and "
                "label.scope = 'global' has no groups; set it to null"
            )
        if self.ordinal is not None:
            yield from self._ordinal_faults(self.ordinal)

    def _ordinal_faults(self, ordinal: list[float]) -> Iterator[str]:
        if any(low >= high for low, high in pairwise(ordinal)):
            yield f"label.ordinal = {ordinal} must rise from percentile to percentile"
        if self.estimator != "percentile":
            yield (
                f"label.ordinal = {ordinal} are percentiles, but label.estimator = "
                f"{self.estimator!r}; set one to null or the other to percentile"
            )
