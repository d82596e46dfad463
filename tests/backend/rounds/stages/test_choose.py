"""Candidates: whom a round looks at."""

from __future__ import annotations

import numpy as np

from backend.rounds.stages.choose import choose_candidates


def test_a_small_pool_is_scored_whole() -> None:
    assert choose_candidates([5, 3, 9], [9], 3, seed=0) == ([5, 3, 9], None)


def test_half_are_the_last_head_in_its_order_and_the_rest_is_chance() -> None:
    pool = list(range(100))
    chosen, drawn = choose_candidates(pool, [40, 7, 200, 12, 30, 31], 6, seed=0)
    assert chosen[:3] == [40, 7, 12]  # 200 has been labelled since
    assert drawn == chosen[3:]
    assert len(set(chosen)) == 6
    assert set(chosen) <= set(pool)


def test_without_a_last_head_all_are_chance() -> None:
    for head in ([], [200]):
        chosen, drawn = choose_candidates(range(100), head, 6, seed=0)
        assert drawn == chosen
        assert len(set(chosen)) == 6


def test_chance_draws_from_the_whole_pool_alike_the_last_head_included() -> None:
    draws = [choose_candidates(range(30), [0, 1, 2, 3], 10, seed=s) for s in range(3000)]
    for chosen, drawn in draws:
        assert drawn is not None
        assert len(set(chosen)) == len(chosen) == 10
        assert {0, 1, 2, 3} <= set(chosen)
    counts = np.bincount([t for _, drawn in draws for t in drawn or ()], minlength=30)
    # 6 of 30 each time; four standard deviations of so many draws.
    assert np.abs(counts / 3000 - 0.2).max() < 4 * (0.2 * 0.8 / 3000) ** 0.5


def test_no_image_is_out_of_reach() -> None:
    seen = {
        task_id
        for seed in range(200)
        for task_id in choose_candidates(range(30), [0, 1, 2, 3], 4, seed=seed).task_ids
    }
    assert seen >= set(range(4, 30))


def test_a_seed_settles_them() -> None:
    one, two = (choose_candidates(range(50), [], 9, seed=4) for _ in range(2))
    assert one == two
