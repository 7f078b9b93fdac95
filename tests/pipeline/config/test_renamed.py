from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.settings import PARAMS
from tgo.pipeline.config import settings
from tgo.pipeline.config.renamed import REMOVED, RENAMED
from tgo.pipeline.errors import InputError


def with_key(key: str, value: Any) -> dict[str, Any]:
    values: dict[str, Any] = copy.deepcopy(settings.load(PARAMS).model_dump())
    *groups, name = key.split(".")
    group = values
    for part in groups:
        group = group.setdefault(part, {})
    group[name] = value
    return values


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_key_is_refused_with_its_new_name(old: str, new: str) -> None:
    with pytest.raises(InputError) as refused:
        settings.validate(with_key(old, 1), origin="params.yaml")
    assert str(refused.value).startswith(f"params.yaml: {old}: is now {new}")


@pytest.mark.parametrize("old", REMOVED)
def test_a_removed_key_is_refused_with_the_reason(old: str) -> None:
    with pytest.raises(InputError, match=f"{old}: is gone; "):
        settings.validate(with_key(old, 1), origin="params.yaml")


def test_every_new_name_is_a_setting_and_no_old_name_is() -> None:
    def exists(key: str) -> bool:
        group: Any = settings.load(PARAMS).model_dump()
        for part in key.split("."):
            if not isinstance(group, dict) or part not in group:
                return False
            group = group[part]
        return True

    assert all(exists(new) for new in RENAMED.values())
    assert not any(exists(old) for old in [*RENAMED, *REMOVED])
