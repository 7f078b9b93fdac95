"""The types that settings are made of; each says in words what it wants."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, lt=10**15, description="a whole number of at least 1")]
Fraction = Annotated[float, Field(ge=0, lt=1, description="a number from 0 to below 1")]
NonNegative = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="a number of at least 0")
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
Percentile = Annotated[float, Field(ge=0, le=100, description="a number from 0 to 100")]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="a whole number of at least 0")]
Source = Annotated[str, Field(min_length=1, description="a folder, file or hub repository id")]
FolderName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class Group(BaseModel):
    """A group of settings: immutable, of exactly the named keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
