"""From scores to an order: by hand, by law, and against loops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import acquisition.select
from acquisition.select import (
    Pick,
    Rule,
    compose,
    farthest_first,
    percentiles,
    power_noise,
    rank_mixture,
    standardised,
    top_k,
    with_audits,
)


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


SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0, 7.0]) | st.floats(0, 10), max_size=30)


def doubles(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


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


class TestRule:
    @pytest.mark.parametrize("name", ["class_share", "chance_share"])
    @pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
    def test_a_share_outside_0_and_1_is_refused(self, name: str, share: float) -> None:
        with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1, got {share}"):
            replace(Rule(), **{name: share})

    @pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
    def test_a_beta_that_is_not_above_0_is_refused(self, beta: float) -> None:
        with pytest.raises(ValueError, match=f"beta must be above 0, got {beta}"):
            Rule(beta=beta)


RULES = st.builds(
    Rule,
    beta=st.none() | st.floats(0.05, 100),
    class_share=st.sampled_from([0.0, 0.3, 0.66, 1.0]),
    diverse=st.booleans(),
    chance_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


class Pool:
    """A pool drawn from a seed: scores, features, class scores with zeros, and what is known."""

    def __init__(self, N: int, seed: int, C: int = 4) -> None:
        generator = seeded(seed)
        self.scores = percentiles(torch.rand(N, generator=generator))
        self.features = torch.randn(N, 6, generator=generator)
        shown = torch.rand(N, C, generator=generator) < 0.4
        self.class_scores = torch.rand(N, C, generator=generator) * shown
        self.known = torch.randint(0, 5, (C,), generator=generator)

    def queue(self, k: int, rule: Rule, seed: int = 0) -> list[Pick]:
        return compose(
            self.scores,
            k,
            rule,
            seeded(seed),
            features=self.features,
            class_scores=self.class_scores,
            known=self.known,
        )


def indices(picks: Sequence[Pick]) -> list[int]:
    return [pick.index for pick in picks]


Key = TypeVar("Key", bound=Hashable)


def chi_square(found: Mapping[Key, int], shares: Mapping[Key, float]) -> float:
    draws = sum(found.values())
    return sum(
        (found.get(key, 0) - draws * share) ** 2 / (draws * share) for key, share in shares.items()
    )


class TestCompose:
    def test_without_more_rules_the_most_uncertain_comes_first_and_ties_keep_pool_order(
        self,
    ) -> None:
        picks = compose(torch.tensor([0.1, 0.9, 0.5, 0.9]), 4, Rule(), seeded())
        assert picks == [Pick(i, "doubt") for i in (1, 3, 2, 0)]

    @given(N=st.integers(0, 25), k=st.integers(0, 30), rule=RULES, seed=st.integers(0, 999))
    @settings(deadline=None)
    def test_no_image_stands_twice_and_there_are_k_or_all(
        self, N: int, k: int, rule: Rule, seed: int
    ) -> None:
        queue = indices(Pool(N, seed).queue(k, rule))
        assert len(queue) == min(k, N)
        assert len(set(queue)) == len(queue)
        assert set(queue) <= set(range(N))

    @given(N=st.integers(1, 25), k=st.integers(0, 25), rule=RULES, seed=st.integers(0, 999))
    @settings(deadline=None)
    def test_a_shorter_queue_is_the_beginning_of_a_longer_one(
        self, N: int, k: int, rule: Rule, seed: int
    ) -> None:
        pool = Pool(N, seed)
        assert pool.queue(k, rule, seed) == pool.queue(N, rule, seed)[:k]

    @given(N=st.integers(1, 25), rule=RULES, seed=st.integers(0, 999))
    @settings(deadline=None)
    def test_one_seed_gives_one_queue_and_leaves_the_global_generator_and_the_arguments_alone(
        self, N: int, rule: Rule, seed: int
    ) -> None:
        pool, untouched = Pool(N, seed), Pool(N, seed)
        before = torch.random.get_rng_state()
        assert pool.queue(N, rule, seed) == pool.queue(N, rule, seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(
            torch.equal(*pair) for pair in zip(*map(tensors, (pool, untouched)), strict=True)
        )

    def test_two_seeds_give_two_queues_where_there_is_chance(self) -> None:
        pool = Pool(25, seed=0)
        for rule in (Rule(beta=1.0), Rule(chance_share=0.5)):
            assert pool.queue(25, rule, 1) != pool.queue(25, rule, 2)

    @given(
        N=st.integers(1, 40),
        chance=st.floats(0, 1),
        class_share=st.floats(0, 1),
        seed=st.integers(0, 999),
    )
    @settings(deadline=None)
    def test_every_beginning_has_its_share_of_chance_and_of_classes_to_within_one_place(
        self, N: int, chance: float, class_share: float, seed: int
    ) -> None:
        queue = compose(
            torch.rand(N, generator=seeded(seed)),
            N,
            Rule(class_share=class_share, chance_share=chance),
            seeded(seed),
            class_scores=torch.ones(N, 3),  # no class ever runs out
        )
        for places in range(1, N + 1):
            whys = Counter(pick.why for pick in queue[:places])
            assert abs(whys["chance"] - chance * places) <= 1 + 1e-9
            ranked = places - whys["chance"]
            assert abs(whys["class"] - class_share * ranked) <= 1 + 1e-9

    def test_where_the_first_place_of_chance_falls_is_itself_chance(self) -> None:
        firsts = Counter(
            [
                pick.why
                for pick in compose(torch.ones(8), 4, Rule(chance_share=0.25), seeded(seed))
            ].index("chance")
            for seed in range(800)
        )
        assert chi_square(firsts, dict.fromkeys(range(4), 0.25)) < 16.27  # 3 degrees, p = .001

    @given(N=st.integers(1, 25), seed=st.integers(0, 999))
    @settings(deadline=None)
    def test_what_chance_alone_draws_does_not_depend_on_the_scores(self, N: int, seed: int) -> None:
        scores = torch.rand(N, generator=seeded(seed))
        rule = Rule(chance_share=1.0)
        queue = compose(scores, N, rule, seeded(seed))
        assert queue == compose(1 - scores, N, rule, seeded(seed))
        assert {pick.why for pick in queue} == {"chance"}

    def test_chance_draws_every_image_equally_often(self) -> None:
        rule, scores = Rule(chance_share=1.0), torch.tensor([0.0, 0.1, 0.5, 0.9])
        firsts = Counter(compose(scores, 1, rule, seeded(seed))[0].index for seed in range(1000))
        assert chi_square(firsts, dict.fromkeys(range(4), 0.25)) < 16.27  # 3 degrees, p = .001

    def test_the_images_not_drawn_by_chance_stand_in_the_order_of_their_uncertainty(self) -> None:
        scores = torch.rand(40, generator=seeded())
        queue = compose(scores, 40, Rule(chance_share=0.3), seeded(1))
        doubted = [float(scores[pick.index]) for pick in queue if pick.why == "doubt"]
        assert doubted == sorted(doubted, reverse=True)


def tensors(pool: Pool) -> list[Tensor]:
    return [pool.scores, pool.features, pool.class_scores, pool.known]


class TestComposeWithNoise:
    def test_the_first_two_are_a_draw_without_replacement_by_the_power_of_the_score(
        self,
    ) -> None:
        scores, beta = torch.tensor([0.25, 0.5, 0.75, 1.0]), 2.0
        pairs: Counter[tuple[int, ...]] = Counter(
            tuple(indices(compose(scores, 2, Rule(beta=beta), seeded(seed))))
            for seed in range(3000)
        )
        powers = [score**beta for score in scores.tolist()]
        shares: dict[tuple[int, ...], float] = {
            (i, j): powers[i] / sum(powers) * powers[j] / (sum(powers) - powers[i])
            for i, j in permutations(range(4), 2)
        }
        assert sum(shares.values()) == pytest.approx(1)
        assert chi_square(pairs, shares) < 31.26  # 11 degrees, p = .001

    def test_a_large_beta_keeps_the_order(self) -> None:
        scores = torch.rand(30, generator=seeded())
        queue = indices(compose(scores, 30, Rule(beta=1e9), seeded()))
        assert queue == top_k(scores, 30).tolist()

    def test_images_without_any_uncertainty_come_last(self) -> None:
        scores = torch.tensor([0.0, 0.4, 0.0, 0.6])
        for seed in range(20):
            assert set(indices(compose(scores, 2, Rule(beta=1.0), seeded(seed)))) == {1, 3}


def classes_by_loop(scores: Tensor, known: Sequence[int]) -> list[int]:
    """A queue of class places only, without noise: one image at a time."""
    table, counts, queue = scores.tolist(), list(known), list[int]()
    while True:
        left = [i for i in range(len(table)) if i not in queue]
        shown = {c for i in left for c in range(1, len(counts)) if table[i][c] > 0}
        if not shown:
            return queue
        turn = min(shown, key=lambda c: (counts[c], c))
        queue.append(max(left, key=lambda i: (table[i][turn], -i)))
        counts = [
            count + (score > 0) for count, score in zip(counts, table[queue[-1]], strict=True)
        ]


class TestComposeByClass:
    def test_the_least_known_class_has_the_first_turn_and_the_image_most_uncertain_of_it(
        self,
    ) -> None:
        class_scores = torch.tensor(
            [[9.0, 0.3, 0.0, 0.1], [9.0, 0.8, 0.0, 0.0], [9.0, 0.0, 0.2, 0.0], [9.0, 0.0, 0.7, 0.0]]
        )
        queue = compose(
            torch.tensor([0.9, 0.8, 0.7, 0.6]),
            4,
            Rule(class_share=1.0),
            seeded(),
            class_scores=class_scores,
            known=torch.tensor([0, 2, 1, 5]),
        )
        # Class 2 is known of one image: image 3, then both 1 and 2 are known of two; 1 is first.
        # Then class 2 again; and last the image left shows classes 1 and 3.
        assert queue == [Pick(i, "class") for i in (3, 1, 2, 0)]

    def test_the_background_has_no_turn_and_an_image_of_nothing_else_goes_by_its_uncertainty(
        self,
    ) -> None:
        queue = compose(
            torch.tensor([0.2, 0.9, 0.1]),
            3,
            Rule(class_share=1.0),
            seeded(),
            class_scores=torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.5]]),
        )
        assert queue == [Pick(2, "class"), Pick(1, "doubt"), Pick(0, "doubt")]

    @given(
        N=st.integers(0, 20),
        C=st.integers(1, 5),
        coarse=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    @settings(deadline=None)
    def test_the_class_places_are_those_of_the_loop(
        self, N: int, C: int, coarse: bool, seed: int
    ) -> None:
        pool = Pool(N, seed, C)
        if coarse:  # ties go to the earlier image
            pool.class_scores = (3 * pool.class_scores).ceil()
        queue = pool.queue(N, Rule(class_share=1.0), seed)
        by_class = [pick.index for pick in queue if pick.why == "class"]
        assert by_class == classes_by_loop(pool.class_scores, pool.known.tolist())
        rest = [i for i in top_k(pool.scores, N).tolist() if i not in by_class]
        assert [pick.index for pick in queue if pick.why == "doubt"] == rest

    def test_images_queued_for_their_uncertainty_count_as_showing_their_classes(self) -> None:
        # The first place goes to doubt, whose image shows class 1: the turn is then class 2's.
        class_scores = torch.tensor([[0.0, 0.9, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 0.1]])
        seeds = [
            seed
            for seed in range(20)
            if compose(
                torch.tensor([1.0, 0.5, 0.2]),
                1,
                Rule(class_share=0.5),
                seeded(seed),
                class_scores=class_scores,
            )
            == [Pick(0, "doubt")]
        ]
        assert seeds
        for seed in seeds:
            queue = compose(
                torch.tensor([1.0, 0.5, 0.2]),
                2,
                Rule(class_share=0.5),
                seeded(seed),
                class_scores=class_scores,
            )
            assert queue[1] == Pick(2, "class")

    def test_a_rare_class_comes_early_though_the_scores_do_not_see_it(self) -> None:
        N = 60
        scores = torch.linspace(1, 0.1, N)
        class_scores = torch.zeros(N, 3)
        class_scores[:, 1] = scores
        class_scores[-2:] = torch.tensor([0.0, 0.0, 0.1])
        queue = compose(scores, 6, Rule(class_share=0.66), seeded(), class_scores=class_scores)
        assert {N - 1, N - 2} <= set(indices(queue))

    def test_noise_draws_the_first_of_a_class_by_the_power_of_its_percentile_in_the_class(
        self,
    ) -> None:
        class_scores = torch.tensor([[0.0, 0.9], [0.0, 0.0], [0.0, 0.1], [0.0, 0.3]])
        rule, scores = Rule(beta=2.0, class_share=1.0), torch.tensor([0.1, 0.9, 0.5, 0.3])
        firsts = Counter(
            compose(scores, 1, rule, seeded(seed), class_scores=class_scores)[0].index
            for seed in range(2000)
        )
        assert 1 not in firsts
        shares = {0: 25 / 35, 2: 1 / 35, 3: 9 / 35}  # the squares of 5/6, 1/6 and 3/6
        assert chi_square(firsts, shares) < 13.82  # 2 degrees, p = .001

    def test_what_is_known_is_not_changed(self) -> None:
        known = torch.zeros(4, dtype=torch.float64)
        pool = Pool(9, seed=0)
        pool.known = known
        pool.queue(9, Rule(class_share=1.0))
        assert not known.any()


class TestComposeDiverse:
    @given(
        distinct=st.integers(1, 8),
        copies=st.integers(1, 12),
        beta=st.none() | st.floats(0.05, 100),
        best_first=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    @settings(deadline=None)
    def test_no_copy_is_asked_for_before_every_distinct_image_was(
        self, distinct: int, copies: int, beta: float | None, best_first: bool, seed: int
    ) -> None:
        generator = seeded(seed)
        shown = torch.cat([torch.arange(distinct), torch.zeros(copies, dtype=torch.int64)])
        shown = shown[torch.randperm(len(shown), generator=generator)]
        features = 100 * torch.randn(distinct, 6, generator=generator) + 5
        scores = torch.rand(len(shown), generator=generator)
        if best_first:
            scores += shown == 0
        queue = compose(
            percentiles(scores),
            distinct,
            Rule(beta=beta, diverse=True),
            generator,
            features=features[shown],
        )
        assert sorted(shown[indices(queue)].tolist()) == list(range(distinct))

    def test_copies_are_known_in_spite_of_the_rounding_of_many_features(self) -> None:
        features = torch.randn(40, 3200, generator=seeded()).repeat(3, 1)
        scores = torch.where(torch.arange(120) % 40 < 20, 1.0, 1e-4)
        queue = indices(compose(scores, 40, Rule(diverse=True), seeded(), features=features))
        assert sorted(index % 40 for index in queue) == list(range(40))

    def test_where_all_images_are_copies_the_scores_decide(self) -> None:
        scores = torch.rand(12, generator=seeded())
        queue = compose(scores, 12, Rule(diverse=True), seeded(), features=torch.ones(12, 3))
        assert indices(queue) == top_k(scores, 12).tolist()

    @given(N=st.integers(3, 25), F=st.integers(2, 5), seed=st.integers(0, 2**31))
    @settings(deadline=None)
    def test_each_place_goes_to_the_largest_product_of_score_and_newness(
        self, N: int, F: int, seed: int
    ) -> None:
        generator = seeded(seed)
        features = torch.randn(N, F, generator=generator, dtype=torch.float64)
        scores = percentiles(torch.rand(N, generator=generator)).tolist()
        queue = indices(
            compose(doubles(scores), N, Rule(diverse=True), generator, features=features)
        )
        # With the exact median: the drawn one lies between nearby quantiles.
        points = standardised_by_loop(features.numpy())
        apart = np.linalg.norm(points[:, None] - points[None, :], axis=2)
        pairs = apart[np.triu_indices(N, 1)]
        pairs = pairs[pairs > 2e-3]
        few, many = (
            (
                np.quantile(pairs, 0.42, method="lower") / 2,
                np.quantile(pairs, 0.58, method="higher") / 2,
            )
            if len(pairs)
            else (0.5, 0.5)
        )
        for place in range(1, N):
            taken, left = queue[:place], queue[place:]
            nearest = {i: apart[i, taken].min() for i in left}
            least = {i: scores[i] * min(1.0, nearest[i] / many) for i in left}
            most = {i: scores[i] * min(1.0, nearest[i] / few) for i in left}
            assert most[queue[place]] >= max(least.values()) - 5e-3

    @pytest.mark.parametrize("copies", [0, 60])
    def test_a_uncertain_image_beside_a_queued_one_waits_for_a_less_uncertain_one_elsewhere(
        self, copies: int
    ) -> None:
        around = torch.linspace(0, 2 * math.pi, 13)[:12]
        around[1] = around[0] + 0.05
        # Most pairs of the pool may be copies of the image opposite: apart by nothing.
        around = torch.cat([around, around[6].expand(copies)])
        features = torch.stack([around.cos(), around.sin()], dim=1)
        scores = torch.full((12 + copies,), 0.5)
        scores[:2] = torch.tensor([1.0, 0.99])
        assert indices(compose(scores, 2, Rule(), seeded(), features=features)) == [0, 1]
        queue = indices(compose(scores, 12, Rule(diverse=True), seeded(), features=features))
        assert queue[0] == 0
        assert queue.index(1) > 1

    @given(seed=st.integers(0, 999))
    @settings(max_examples=30, deadline=None)
    def test_the_unit_of_a_feature_is_irrelevant(self, seed: int) -> None:
        pool = Pool(15, seed)
        plain = pool.queue(15, Rule(diverse=True))
        pool.features = pool.features * torch.tensor([1, 2, 4, 8, 0.5, 0.25])
        assert pool.queue(15, Rule(diverse=True)) == plain


class TestComposeRefusals:
    def test_scores_that_are_not_finite(self) -> None:
        with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
            compose(torch.tensor([0.5, math.nan]), 1, Rule(), seeded())

    @pytest.mark.parametrize("beta", [None, 1.0])
    def test_a_negative_score(self, beta: float | None) -> None:
        with pytest.raises(ValueError, match=r"at least 0, the lowest is -0\.5"):
            compose(torch.tensor([0.5, -0.5]), 1, Rule(beta=beta), seeded())

    def test_a_negative_k(self) -> None:
        with pytest.raises(ValueError, match="k must not be negative, got -1"):
            compose(torch.ones(2), -1, Rule(), seeded())

    @pytest.mark.parametrize(
        ("features", "got"),
        [
            (None, "None"),
            (torch.ones(3), r"\(3,\)"),
            (torch.ones(2, 5), r"\(2, 5\)"),
            (torch.ones(3, 0), r"\(3, 0\)"),
        ],
    )
    def test_features_that_a_diverse_rule_cannot_use(
        self, features: Tensor | None, got: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"features must be \[3, F\], got {got}"):
            compose(torch.ones(3), 1, Rule(diverse=True), seeded(), features=features)

    def test_features_that_are_not_finite(self) -> None:
        features = torch.tensor([[1.0], [math.nan]])
        with pytest.raises(ValueError, match="features must be finite"):
            compose(torch.ones(2), 1, Rule(diverse=True), seeded(), features=features)

    @pytest.mark.parametrize(
        ("class_scores", "got"),
        [
            (None, "None"),
            (torch.ones(3), r"\(3,\)"),
            (torch.ones(2, 4), r"\(2, 4\)"),
            (torch.ones(3, 0), r"\(3, 0\)"),
        ],
    )
    def test_class_scores_that_a_class_share_cannot_use(
        self, class_scores: Tensor | None, got: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"class_scores must be \[3, C\], got {got}"):
            compose(torch.ones(3), 1, Rule(class_share=0.5), seeded(), class_scores=class_scores)

    @pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
    def test_class_scores_that_are_negative_or_not_finite(self, bad: float) -> None:
        class_scores = torch.tensor([[0.0, 0.5], [0.0, bad]])
        with pytest.raises(ValueError, match="must not be negative and must be finite"):
            compose(torch.ones(2), 1, Rule(class_share=0.5), seeded(), class_scores=class_scores)

    def test_known_classes_of_another_number(self) -> None:
        with pytest.raises(ValueError, match=r"known must be \[4\], got shape \(1,\)"):
            compose(
                torch.ones(3),
                1,
                Rule(class_share=0.5),
                seeded(),
                class_scores=torch.ones(3, 4),
                known=torch.zeros(1),
            )


def standardised_by_loop(features: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = []
    for column in features.T:
        spread = column.std()
        columns.append((column - column.mean()) / spread if spread > 0 else 0 * column)
    points = np.stack(columns, axis=1)
    return np.stack([point / max(float(np.linalg.norm(point)), 1e-6) for point in points])


class TestStandardised:
    def test_features_become_comparable_and_images_of_length_1(self) -> None:
        # Each feature is -1 and 1 once standardised: two coordinates of 1 have length sqrt 2.
        features = torch.tensor([[0.0, 500.0], [0.0, 100.0], [4.0, 500.0], [4.0, 100.0]])
        half = math.sqrt(0.5)
        expected = torch.tensor([[-half, half], [-half, -half], [half, half], [half, -half]])
        torch.testing.assert_close(standardised(features), expected)

    @given(N=st.integers(2, 30), F=st.integers(1, 6), seed=st.integers(0, 2**31))
    @settings(deadline=None)
    def test_it_equals_the_loop(self, N: int, F: int, seed: int) -> None:
        features = torch.randn(N, F, generator=seeded(seed), dtype=torch.float64)
        ours = standardised(features)
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.numpy(), standardised_by_loop(features.numpy()), atol=1e-3)

    @pytest.mark.parametrize("constant", [0.0, 0.1, -1000.1, 123456.7])
    def test_a_feature_that_does_not_vary_is_0(self, constant: float) -> None:
        features = torch.randn(1000, 3, generator=seeded())
        beside = torch.cat([features, torch.full((1000, 1), constant)], dim=1)
        assert not standardised(beside)[:, 3].any()
        torch.testing.assert_close(standardised(beside)[:, :3], standardised(features))
        assert not standardised(torch.full((1000, 3), constant)).any()


def farthest_first_by_loop(features: NDArray[np.float64], k: int) -> list[int]:
    points = standardised_by_loop(features)
    apart = [[float(np.linalg.norm(one - other)) for other in points] for one in points]
    order = [min(range(len(points)), key=lambda i: sum(apart[i]))]
    while len(order) < min(k, len(points)):
        left = [i for i in range(len(points)) if i not in order]
        order.append(max(left, key=lambda i: min(apart[i][j] for j in order)))
    return order


class TestFarthestFirst:
    @pytest.mark.parametrize("k", [1, 4, 30, 99])
    def test_it_equals_the_loop(self, k: int) -> None:
        features = torch.randn(30, 5, generator=seeded(k), dtype=torch.float64)
        assert farthest_first(features, k, seeded()) == farthest_first_by_loop(features.numpy(), k)

    def test_of_three_kinds_the_first_three_show_each(self) -> None:
        centres = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
        kind = torch.tensor([0] * 40 + [1] * 15 + [2] * 3)
        features = centres[kind] + 0.2 * torch.randn(58, 3, generator=seeded())
        first = farthest_first(features, 3, seeded())
        assert sorted(kind[first].tolist()) == [0, 1, 2]

    def test_copies_come_last(self) -> None:
        features = torch.randn(6, 4, generator=seeded())
        copied = torch.cat([features, features[:3]])
        order = farthest_first(copied, 9, seeded())
        assert sorted(order) == list(range(9))
        assert {i % 6 for i in order[:6]} == set(range(6))

    def test_beyond_the_composed_places_what_is_left_stands_by_its_distance(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        features = torch.randn(12, 4, generator=seeded(), dtype=torch.float64)
        whole = farthest_first(features, 12, seeded())
        monkeypatch.setattr(acquisition.select, "COMPOSED", 5)
        order = farthest_first(features, 10, seeded())
        assert order[:6] == whole[:6]  # the sixth is the farthest of those left, either way
        assert len(set(order)) == 10

    def test_of_a_large_pool_the_middle_is_found_among_the_references(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(acquisition.select, "REFERENCES", 9)
        features = torch.randn(40, 4, generator=seeded(), dtype=torch.float64)
        points = standardised_by_loop(features.numpy())
        chosen = torch.randperm(40, generator=seeded(5))[:9].tolist()
        middle = min(
            range(40), key=lambda i: sum(np.linalg.norm(points[i] - points[j]) for j in chosen)
        )
        assert farthest_first(features, 1, seeded(5)) == [middle]

    @given(N=st.integers(2, 20), seed=st.integers(0, 999))
    @settings(max_examples=30, deadline=None)
    def test_the_order_of_the_pool_is_irrelevant(self, N: int, seed: int) -> None:
        features = torch.randn(N, 6, generator=seeded(seed), dtype=torch.float64)
        shuffled = torch.randperm(N, generator=seeded(seed + 1))
        there = farthest_first(features[shuffled], N, seeded())
        # Of two images both are the middle.
        assert N == 2 or shuffled[there].tolist() == farthest_first(features, N, seeded(9))

    def test_no_image_and_no_place_make_no_queue(self) -> None:
        assert farthest_first(torch.ones(0, 3), 5, seeded()) == []
        assert farthest_first(torch.ones(3, 3), 0, seeded()) == []
        assert farthest_first(torch.ones(1, 3), 5, seeded()) == [0]

    def test_what_cannot_be_ordered_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"features must be \[4, F\], got \(4,\)"):
            farthest_first(torch.ones(4), 1, seeded())
        with pytest.raises(ValueError, match="features must be finite"):
            farthest_first(torch.tensor([[1.0], [math.inf]]), 1, seeded())
        with pytest.raises(ValueError, match="k must not be negative"):
            farthest_first(torch.ones(4, 2), -1, seeded())


AUDITS = st.sets(st.integers(100, 160), max_size=12)


def uncertainty_in(order: Sequence[int]) -> list[Pick]:
    return [Pick(index, "doubt") for index in order]


class TestWithAudits:
    def test_nothing_makes_an_empty_queue(self) -> None:
        assert with_audits([], set(), seeded()) == []

    def test_without_audits_the_queue_is_as_it_was(self) -> None:
        picks = [Pick(3, "chance"), Pick(1, "class")]
        assert with_audits(picks, set(), seeded()) == picks

    def test_audits_alone_are_a_queue(self) -> None:
        queue = with_audits([], {4, 2}, seeded())
        assert sorted(queue, key=lambda pick: pick.index) == [Pick(2, "audit"), Pick(4, "audit")]

    @given(N=st.integers(0, 30), audits=AUDITS, seed=st.integers(0, 99))
    @settings(deadline=None)
    def test_every_audit_stands_once_and_the_others_in_their_order(
        self, N: int, audits: set[int], seed: int
    ) -> None:
        picks = Pool(N, seed).queue(N, Rule(class_share=0.4, chance_share=0.3))
        queue = with_audits(picks, audits, seeded(seed))
        assert [pick for pick in queue if pick.why != "audit"] == picks
        assert sorted(pick.index for pick in queue if pick.why == "audit") == sorted(audits)

    @given(N=st.integers(0, 30), audits=AUDITS, seed=st.integers(0, 99))
    @settings(deadline=None)
    def test_an_audit_stands_where_it_stands_whatever_the_scores_of_the_others(
        self, N: int, audits: set[int], seed: int
    ) -> None:
        order = list(range(N))
        places = [
            [(place, pick.index) for place, pick in enumerate(queue) if pick.why == "audit"]
            for queue in (
                with_audits(uncertainty_in(order), audits, seeded(seed)),
                with_audits(uncertainty_in(order[::-1]), audits, seeded(seed)),
            )
        ]
        assert places[0] == places[1]

    @given(audits=AUDITS, seed=st.integers(0, 99))
    @settings(deadline=None)
    def test_the_order_in_which_the_audits_are_given_is_irrelevant(
        self, audits: set[int], seed: int
    ) -> None:
        forwards, backwards = sorted(audits), sorted(audits, reverse=True)
        picks = uncertainty_in(range(5))
        assert with_audits(picks, forwards, seeded(seed)) == with_audits(
            picks, backwards, seeded(seed)
        )

    def test_each_two_audits_take_each_two_places_equally_often(self) -> None:
        generator, places = seeded(), Counter[tuple[int, int]]()
        for _ in range(4000):
            queue = indices(with_audits(uncertainty_in([0, 1, 2]), {8, 9}, generator))
            places[queue.index(8), queue.index(9)] += 1
        shares = dict.fromkeys(permutations(range(5), 2), 1 / 20)
        assert chi_square(places, shares) < 43.82  # 19 degrees, p = .001


class TestChance:
    """What chance places must be an even sample of the pool: whether labels pay is told by it."""

    def test_no_score_decides_what_chance_draws(self) -> None:
        scores = percentiles(torch.arange(60.0))
        drawn = torch.zeros(60)
        for seed in range(400):
            picks = compose(scores, 40, Rule(chance_share=0.2), seeded(seed))
            for pick in picks:
                drawn[pick.index] += pick.why == "chance"
        # 8 of 60 each time: 53 expected of each image, whose standard deviation is 6.8.
        assert float((drawn - 400 * 8 / 60).abs().max()) < 4.5 * 6.8
        assert float((scores * drawn).sum() / drawn.sum()) == pytest.approx(0.5, abs=0.02)

    def test_only_what_may_be_drawn_is_drawn(self) -> None:
        allowed = torch.arange(30) >= 20
        picks = compose(
            percentiles(torch.arange(30.0).flip(0)),
            30,
            Rule(chance_share=0.5),
            seeded(),
            by_chance=allowed,
        )
        chance = [pick.index for pick in picks if pick.why == "chance"]
        assert sorted(chance) == list(range(20, 30))
        assert sorted(pick.index for pick in picks) == list(range(30))

    def test_a_mask_of_another_shape_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"by_chance must be \[3\] bool, got \(2,\)"):
            compose(torch.ones(3), 1, Rule(), seeded(), by_chance=torch.ones(2, dtype=torch.bool))

    def test_neither_a_class_nor_chance_asks_for_a_copy_while_there_is_another(self) -> None:
        features = torch.randn(40, 8, generator=seeded(3))
        features[:20] = features[0]  # twenty copies, the only images of a class
        class_scores = torch.zeros(40, 2)
        class_scores[:20, 1] = 1
        rule = Rule(class_share=0.5, diverse=True, chance_share=0.2)
        picks = compose(
            percentiles(torch.rand(40, generator=seeded(4))),
            40,
            rule,
            seeded(5),
            features=features,
            class_scores=class_scores,
        )
        assert sum(pick.index < 20 for pick in picks[:21]) == 1
        assert sorted(pick.index for pick in picks) == list(range(40))


class TestTheEndOfALongQueue:
    """Behind ``COMPOSED`` places only scores, noise and chance count."""

    def test_it_goes_on_in_the_order_of_the_scores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(acquisition.select, "COMPOSED", 10)
        features = torch.randn(60, 8, generator=seeded(1))
        scores = percentiles(torch.rand(60, generator=seeded(2)))
        rule = Rule(diverse=True, chance_share=0.2)
        queue = compose(scores, 60, rule, seeded(3), features=features)
        assert sorted(pick.index for pick in queue) == list(range(60))
        assert queue[:25] == compose(scores, 25, rule, seeded(3), features=features)
        tail = [float(scores[pick.index]) for pick in queue[10:] if pick.why == "doubt"]
        assert tail == sorted(tail, reverse=True)
        assert sum(pick.why == "chance" for pick in queue) == 12
        for length in (20, 40):
            drawn = sum(pick.why == "chance" for pick in queue[:length])
            assert abs(drawn - 0.2 * length) <= 1

    def test_its_beginning_does_not_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features = torch.randn(40, 8, generator=seeded(1))
        scores = percentiles(torch.rand(40, generator=seeded(2)))
        whole = compose(scores, 40, Rule(diverse=True), seeded(3), features=features)
        monkeypatch.setattr(acquisition.select, "COMPOSED", 15)
        cut = compose(scores, 40, Rule(diverse=True), seeded(3), features=features)
        assert cut[:15] == whole[:15]
