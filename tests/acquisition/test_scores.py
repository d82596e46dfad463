"""Scores: by hand, by law, and against loops."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.scores import percentiles, power_noise, rank_mixture, top_k
from tests.acquisition.pools import doubles, seeded

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0, 7.0]) | st.floats(0, 10), max_size=30)


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

    def test_images_without_any_uncertainty_come_last_in_a_random_order(self) -> None:
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


class TestPercentiles:
    def test_a_percentile_is_the_share_below_and_half_of_the_ties(self) -> None:
        # Below 3 lies 1 of 4, and two are tied with it, itself included.
        found = percentiles(torch.tensor([3.0, 9.0, 3.0, -1.0]))
        assert found.tolist() == [(1 + 2 / 2) / 4, (3 + 1 / 2) / 4, (1 + 2 / 2) / 4, (1 / 2) / 4]

    @given(SCORES)
    @settings(deadline=None)
    def test_it_is_a_count(self, scores: list[float]) -> None:
        expected = [
            (sum(other < one for other in scores) + sum(other == one for other in scores) / 2)
            / len(scores)
            for one in scores
        ]
        assert percentiles(doubles(scores)).tolist() == pytest.approx(expected)

    @given(SCORES)
    @settings(deadline=None)
    def test_percentiles_lie_between_0_and_1_and_their_mean_is_a_half(
        self, scores: list[float]
    ) -> None:
        found = percentiles(doubles(scores))
        assert ((found > 0) & (found < 1)).all()
        assert found.sum().item() == pytest.approx(len(scores) / 2)

    @given(st.lists(st.integers(-20, 20), min_size=1, max_size=30))
    @settings(deadline=None)
    def test_a_growing_map_of_the_scores_changes_nothing_and_a_falling_one_mirrors(
        self, scores: list[int]
    ) -> None:
        found = percentiles(doubles(scores))
        assert torch.equal(percentiles(doubles(scores).exp()), found)
        torch.testing.assert_close(percentiles(-(doubles(scores) ** 3)), 1 - found)

    def test_a_score_that_is_not_finite_is_refused(self) -> None:
        with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
            percentiles(torch.tensor([1.0, math.inf]))

    def test_a_map_in_place_of_scores_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[N\], got shape \(2, 3\)"):
            percentiles(torch.zeros(2, 3))


class TestRankMixture:
    def test_it_is_the_weighted_mean_of_the_percentiles(self) -> None:
        scores = {"nats": torch.tensor([0.1, 0.3, 0.2]), "share": torch.tensor([90.0, 10.0, 50.0])}
        mixed = rank_mixture(scores, {"nats": 3.0, "share": 1.0})
        expected = [(3 * a / 6 + b / 6) / 4 for a, b in zip((1, 5, 3), (5, 1, 3), strict=True)]
        assert mixed.tolist() == pytest.approx(expected)

    @given(SCORES, st.floats(1e-3, 1e3))
    @settings(deadline=None)
    def test_of_one_arm_it_is_the_percentiles_whatever_the_weight(
        self, scores: list[float], weight: float
    ) -> None:
        one = {"arm": doubles(scores), "other": torch.rand(len(scores), generator=seeded())}
        expected = percentiles(doubles(scores))
        torch.testing.assert_close(rank_mixture(one, {"arm": weight}), expected)
        torch.testing.assert_close(rank_mixture(one, {"arm": weight, "other": 0.0}), expected)

    @given(st.integers(1, 20), st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
    @settings(deadline=None)
    def test_it_lies_between_the_percentiles_it_mixes_and_the_sum_of_the_weights_is_irrelevant(
        self, N: int, given_weights: list[float]
    ) -> None:
        scores = {f"arm {a}": torch.rand(N, generator=seeded(a)) for a in range(len(given_weights))}
        weights = dict(zip(scores, given_weights, strict=True))
        mixed = rank_mixture(scores, weights)
        each = torch.stack([percentiles(of_arm) for of_arm in scores.values()])
        assert (mixed >= each.amin(dim=0) - 1e-12).all()
        assert (mixed <= each.amax(dim=0) + 1e-12).all()
        doubled = {arm: 2 * weight for arm, weight in weights.items()}
        torch.testing.assert_close(rank_mixture(scores, doubled), mixed)

    def test_arms_without_scores_are_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match="there are no scores of bald, entropy"):
            rank_mixture({"arm": torch.ones(3)}, {"entropy": 1.0, "arm": 1.0, "bald": 0.0})

    @pytest.mark.parametrize("weights", [{}, {"arm": 0.0}, {"arm": -1.0}, {"arm": math.nan}])
    def test_weights_that_weigh_nothing_are_refused(self, weights: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="weights must not be negative and not all 0"):
            rank_mixture({"arm": torch.ones(3)}, weights)

    def test_a_negative_weight_is_refused_though_the_sum_is_positive(self) -> None:
        with pytest.raises(ValueError, match=r"not be negative .* they sum to 1\.0"):
            rank_mixture({"a": torch.ones(3), "b": torch.ones(3)}, {"a": 2.0, "b": -1.0})

    def test_scores_that_are_not_finite_are_refused(self) -> None:
        with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
            rank_mixture({"arm": torch.tensor([1.0, math.nan])}, {"arm": 1.0})
