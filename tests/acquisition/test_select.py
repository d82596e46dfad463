"""From scores to an order."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.select import order_queue, power_noise, top_k


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestTopK:
    def test_the_largest_come_first(self) -> None:
        assert top_k(torch.tensor([0.1, 0.9, 0.5]), 2).tolist() == [1, 2]

    def test_ties_keep_pool_order(self) -> None:
        assert top_k(torch.tensor([0.5, 0.9, 0.5, 0.9, 0.5]), 5).tolist() == [1, 3, 0, 2, 4]

    def test_more_than_there_are_gives_all(self) -> None:
        assert top_k(torch.tensor([0.1, 0.9]), 5).tolist() == [1, 0]

    @given(st.lists(st.floats(-1e3, 1e3), max_size=20), st.integers(0, 25))
    @settings(deadline=None)
    def test_it_is_pythons_stable_sort(self, scores: list[float], k: int) -> None:
        expected = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
        assert top_k(torch.tensor(scores, dtype=torch.float64), k).tolist() == expected

    def test_scores_that_are_not_finite_are_counted_and_refused(self) -> None:
        with pytest.raises(ValueError, match="2 of 3 scores are not finite"):
            top_k(torch.tensor([math.nan, 0.0, math.inf]), 1)

    def test_a_map_in_place_of_scores_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[N\], got shape \(2, 3\)"):
            top_k(torch.zeros(2, 3), 1)

    def test_a_negative_k_is_refused(self) -> None:
        with pytest.raises(ValueError, match="k must not be negative, got -1"):
            top_k(torch.zeros(3), -1)


class TestPowerNoise:
    def test_the_first_is_drawn_in_proportion_to_the_power_of_its_score(self) -> None:
        scores, beta, draws = torch.tensor([0.1, 0.2, 0.4]), 2.0, 4000
        generator = seeded()
        firsts = Counter(int(power_noise(scores, beta, generator).argmax()) for _ in range(draws))
        powers = [0.01, 0.04, 0.16]
        for index, power in enumerate(powers):
            share = power / sum(powers)
            four_sigma = 4 * math.sqrt(share * (1 - share) / draws)
            assert firsts[index] / draws == pytest.approx(share, abs=four_sigma)

    def test_without_chance_it_is_the_logarithm(self) -> None:
        noisy = power_noise(torch.tensor([0.5, 2.0]), math.inf, seeded())
        assert noisy.tolist() == pytest.approx([math.log(0.5), math.log(2.0)])

    def test_a_large_beta_keeps_the_order(self) -> None:
        scores = torch.tensor([0.3, 0.1, 0.2])
        assert top_k(power_noise(scores, 1e6, seeded()), 3).tolist() == [0, 2, 1]

    def test_one_seed_gives_one_draw_and_leaves_the_global_generator_alone(self) -> None:
        before = torch.random.get_rng_state()
        draws = [power_noise(torch.ones(9), 1.0, seeded(7)) for _ in range(2)]
        assert torch.equal(*draws)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_images_without_any_doubt_come_last_in_a_random_order(self) -> None:
        noisy = power_noise(torch.tensor([0.0, 1e-6, 0.0]), 1.0, seeded())
        assert noisy.isfinite().all()
        assert noisy.argmax() == 1
        assert noisy[0] != noisy[2]

    def test_no_scores_give_no_scores(self) -> None:
        assert power_noise(torch.empty(0), 1.0, seeded()).shape == (0,)

    @pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
    def test_a_beta_that_is_not_above_0_is_refused(self, beta: float) -> None:
        with pytest.raises(ValueError, match="beta must be above 0"):
            power_noise(torch.ones(3), beta, seeded())

    def test_negative_scores_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"at least 0, the lowest is -0\.5"):
            power_noise(torch.tensor([1.0, -0.5]), 1.0, seeded())

    def test_scores_that_are_not_finite_are_refused(self) -> None:
        with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
            power_noise(torch.tensor([1.0, math.nan]), 1.0, seeded())


SCORES = st.dictionaries(st.integers(1, 60), st.floats(0, 1), max_size=30)


class TestOrderQueue:
    def test_the_most_doubtful_comes_first(self) -> None:
        assert order_queue({7: 0.1, 3: 0.9, 5: 0.5}, set(), seeded()) == [3, 5, 7]

    def test_ties_go_by_the_smaller_task_id(self) -> None:
        assert order_queue({9: 0.5, 2: 0.5, 4: 0.5}, set(), seeded()) == [2, 4, 9]

    def test_no_tasks_make_an_empty_queue(self) -> None:
        assert order_queue({}, {1, 2}, seeded()) == []

    @given(scores=SCORES, audit=st.sets(st.integers(1, 60)), seed=st.integers(0, 99))
    @settings(deadline=None)
    def test_every_task_once_and_the_others_in_the_order_of_doubt(
        self, scores: dict[int, float], audit: set[int], seed: int
    ) -> None:
        queue = order_queue(scores, audit, seeded(seed))
        assert sorted(queue) == sorted(scores)
        others = [task_id for task_id in queue if task_id not in audit]
        assert others == sorted(scores.keys() - audit, key=lambda i: (-scores[i], i))

    @given(scores=SCORES, audit=st.sets(st.integers(1, 60)), seed=st.integers(0, 99))
    @settings(deadline=None)
    def test_the_order_of_the_arguments_is_irrelevant(
        self, scores: dict[int, float], audit: set[int], seed: int
    ) -> None:
        backwards = dict(reversed(scores.items()))
        assert order_queue(backwards, sorted(audit, reverse=True), seeded(seed)) == order_queue(
            scores, audit, seeded(seed)
        )

    @given(scores=SCORES, audit=st.sets(st.integers(1, 60)), seed=st.integers(0, 99))
    @settings(deadline=None)
    def test_an_audit_stands_where_it_stands_whatever_its_score(
        self, scores: dict[int, float], audit: set[int], seed: int
    ) -> None:
        flipped = {
            task_id: 1 - score if task_id in audit else score for task_id, score in scores.items()
        }
        assert order_queue(flipped, audit, seeded(seed)) == order_queue(scores, audit, seeded(seed))

    def test_each_audit_takes_each_place_equally_often(self) -> None:
        scores = {task_id: float(task_id) for task_id in range(1, 6)}
        generator, draws = seeded(), 3000
        places: Counter[tuple[int, int]] = Counter()
        for _ in range(draws):
            queue = order_queue(scores, {1, 5}, generator)
            places.update({(1, queue.index(1)): 1, (5, queue.index(5)): 1})
        four_sigma = 4 * math.sqrt(0.2 * 0.8 / draws)
        for audit in (1, 5):
            for place in range(5):
                assert places[audit, place] / draws == pytest.approx(0.2, abs=four_sigma)

    def test_a_score_that_is_not_finite_is_refused_by_its_task(self) -> None:
        with pytest.raises(ValueError, match="1 of 2 scores are not finite, first of task 8: nan"):
            order_queue({3: 0.5, 8: math.nan}, set(), seeded())
