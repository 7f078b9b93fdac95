from __future__ import annotations

from tgo.pipeline.seeds import sample_seed


def test_seeds_are_63_bit_and_fixed_for_all_time() -> None:
    assert sample_seed(0, "p", 0) == sample_seed(0, "p", 0)
    assert sample_seed(0, "00001", 3) == 8_998_029_008_981_425_934
    seeds = {
        sample_seed(run, f"p{prompt}", replicate)
        for run in range(3)
        for prompt in range(50)
        for replicate in range(4)
    }
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_parts_of_a_seed_do_not_run_into_each_other() -> None:
    assert sample_seed(1, "2", 3) != sample_seed(12, "", 3)
    assert sample_seed(1, "p1", 2) != sample_seed(1, "p", 12)
