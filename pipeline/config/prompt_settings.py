"""The settings of prompt sets: a path, or a source with its format and columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tgo.pipeline.config.fields import FolderName, Group, Source

_COLUMN = "the name of a column"


class Columns(Group):
    """Which columns hold what; null finds all but size by their usual names (docs/data.md)."""

    prompt: str | None = Field(None, min_length=1, description=_COLUMN)
    id: str | None = Field(None, min_length=1, description=_COLUMN)
    domain: str | None = Field(None, min_length=1, description=_COLUMN)
    size: str | None = Field(None, min_length=1, description=_COLUMN)


class PromptSet(Group):
    """Where prompts come from: usually just a path, written as `train: path`."""

    source: Source
    format: (
        Literal[
            "text", "tsv", "csv", "jsonl", "json", "parquet", "hub",
            "partiprompts", "hpsv2", "pickapic",
        ]
        | None
    ) = Field(
        None,
        description="text, tsv, csv, jsonl, json, parquet, hub, partiprompts, hpsv2 or pickapic; "
        "null goes by the name and the columns",
    )  # fmt: skip
    columns: Columns = Field(
        default_factory=lambda: Columns.model_validate({}),
        description="a group of prompt, id, domain, size",
    )
    split: str = Field("train", min_length=1, description="the name of a dataset's split")
    duplicates: Literal["drop", "keep"] | None = Field(
        None, description="drop or keep; null keeps them in published test sets only"
    )

    @model_validator(mode="before")
    @classmethod
    def _source_only(cls, value: Any) -> Any:
        return {"source": str(value)} if isinstance(value, str | Path) else value

    @model_serializer(mode="wrap")
    def _as_written(self, everything: SerializerFunctionWrapHandler) -> Any:
        return self.source if self.model_fields_set == {"source"} else everything(self)

    def __str__(self) -> str:
        return self.source


PROMPT_SET = "the path of a file, or a group of source, format, columns, split, duplicates"


class Prompts(Group):
    """The prompts of training, of choosing settings, and of the tests."""

    train: PromptSet = Field(description=PROMPT_SET)
    validation: PromptSet = Field(description=PROMPT_SET)
    tests: dict[FolderName, PromptSet] = Field(
        min_length=1, description="names of test sets (letters, digits, - . _) with their files"
    )

    def by_key(self) -> dict[str, PromptSet]:
        """All sets by the keys of params.yaml."""
        tests = {f"prompts.tests.{name}": entry for name, entry in self.tests.items()}
        return {"prompts.train": self.train, "prompts.validation": self.validation, **tests}
