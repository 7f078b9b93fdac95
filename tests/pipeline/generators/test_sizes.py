"""Which size a prompt's images get, and which one a picture."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline.generators.sizes import Size, choose, nearest, sizes_of

SIZES = [Size(1024, 1024), Size(1216, 832), Size(832, 1216), Size(1344, 768)]
SIDES = st.integers(1, 5000)


def test_what_the_setting_means() -> None:
    assert sizes_of(None) == ()
    assert sizes_of(512) == (Size(512, 512),)
    assert sizes_of([[1216, 832], [512, 512]]) == (Size(1216, 832), Size(512, 512))


@given(st.text(), st.permutations(SIZES))
def test_a_size_more_changes_no_prompt_but_those_that_take_it(
    prompt: str, sizes: list[Size]
) -> None:
    chosen = choose(prompt, sizes)
    assert choose(prompt, SIZES) == chosen
    fewer = [size for size in sizes if size != SIZES[0]]
    assert chosen in (SIZES[0], choose(prompt, fewer))


def test_a_prompt_that_asks_for_a_shape_gets_the_nearest() -> None:
    assert choose("p", SIZES, Size(16, 9)) == Size(1344, 768)
    assert choose("p", SIZES, Size(832, 1216)) == Size(832, 1216)
    assert choose("p", SIZES[:1], Size(16, 9)) == SIZES[0]


def test_prompts_spread_over_the_sizes() -> None:
    counts = Counter(choose(f"p{number}", SIZES) for number in range(4000))
    assert all(900 < counts[size] < 1100 for size in SIZES)


@given(SIDES, SIDES)
def test_a_picture_takes_the_nearest_ratio(width: int, height: int) -> None:
    found = nearest(width, height, SIZES)
    distance = {size: abs(size.height / size.width - height / width) for size in SIZES}
    assert distance[found] == min(distance.values())


def test_a_size_is_nearest_to_itself() -> None:
    for size in SIZES:
        assert nearest(3 * size.width, 3 * size.height, SIZES) == size
