from __future__ import annotations

import pytest

from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import cards


def test_a_card_by_name_or_by_its_numbers() -> None:
    assert cards.named("rtx4090") == (165.2, 24)
    assert cards.named("165:24").bytes == 24 * 2**30
    assert cards.named("165.2").bytes is None


@pytest.mark.parametrize("wrong", ["rtx1", "0", "-5", "nan", "inf", "165:", "165:0", ":24"])
def test_anything_else_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match=r"not known; use one of h200.* or TFLOP/s and GB"):
        cards.named(wrong)


def test_the_machine_has_memory() -> None:
    assert cards.machine_bytes() > 1e9
