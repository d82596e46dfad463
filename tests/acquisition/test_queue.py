"""The queue: by hand, by law, and against loops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import acquisition.queue
from acquisition.queue import RULE, Pick, Rule, compose, with_audits
from acquisition.scores import percentiles, top_k
from tests.acquisition.pools import Pool, indices, seeded


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
        assert picks == [Pick(i, "uncertainty") for i in (1, 3, 2, 0)]

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
        doubted = [float(scores[pick.index]) for pick in queue if pick.why == "uncertainty"]
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
        assert queue == [Pick(2, "class"), Pick(1, "uncertainty"), Pick(0, "uncertainty")]

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
        assert [pick.index for pick in queue if pick.why == "uncertainty"] == rest

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
            == [Pick(0, "uncertainty")]
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


AUDITS = st.sets(st.integers(100, 160), max_size=12)


def uncertainty_in(order: Sequence[int]) -> list[Pick]:
    return [Pick(index, "uncertainty") for index in order]


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
    @settings(max_examples=30, deadline=None)
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
        monkeypatch.setattr(acquisition.queue, "COMPOSED", 10)
        features = torch.randn(60, 8, generator=seeded(1))
        scores = percentiles(torch.rand(60, generator=seeded(2)))
        rule = Rule(diverse=True, chance_share=0.2)
        queue = compose(scores, 60, rule, seeded(3), features=features)
        assert sorted(pick.index for pick in queue) == list(range(60))
        assert queue[:25] == compose(scores, 25, rule, seeded(3), features=features)
        tail = [float(scores[pick.index]) for pick in queue[10:] if pick.why == "uncertainty"]
        assert tail == sorted(tail, reverse=True)
        assert sum(pick.why == "chance" for pick in queue) == 12
        for length in (20, 40):
            drawn = sum(pick.why == "chance" for pick in queue[:length])
            assert abs(drawn - 0.2 * length) <= 1

    def test_its_beginning_does_not_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features = torch.randn(40, 8, generator=seeded(1))
        scores = percentiles(torch.rand(40, generator=seeded(2)))
        whole = compose(scores, 40, Rule(diverse=True), seeded(3), features=features)
        monkeypatch.setattr(acquisition.queue, "COMPOSED", 15)
        cut = compose(scores, 40, Rule(diverse=True), seeded(3), features=features)
        assert cut[:15] == whole[:15]


class TestNewGroups:
    def test_every_fifth_place_is_for_the_new_groups_in_turn(self) -> None:
        scores = torch.linspace(1, 0, 40)
        groups = torch.full((40,), -1)
        groups[30:34], groups[38:] = 0, 1
        picks = compose(scores, 26, Rule(), seeded(), groups=groups)
        of_groups = [(place, p.index) for place, p in enumerate(picks) if p.why == "group"]
        assert of_groups == [(0, 30), (5, 38), (10, 31), (15, 39), (20, 32), (25, 33)]
        rest = [p.index for p in picks if p.why == "uncertainty"]
        assert rest == list(range(20))

    def test_where_none_is_left_the_others_take_the_places(self) -> None:
        groups = torch.tensor([-1, -1, -1, -1, -1, -1, 2])
        picks = compose(torch.linspace(1, 0, 7), 7, Rule(), seeded(), groups=groups)
        assert [(p.index, p.why) for p in picks[:2]] == [(6, "group"), (0, "uncertainty")]
        assert indices(picks)[1:] == list(range(6))

    def test_chance_and_copies_keep_their_places(self) -> None:
        pool = Pool(40, 3)
        plain = pool.queue(40, RULE)
        grouped = pool.queue(40, RULE, groups=torch.tensor([0] * 20 + [-1] * 20))
        assert {i for i, p in enumerate(plain) if p.why == "chance"} == {
            i for i, p in enumerate(grouped) if p.why == "chance"
        }

    def test_a_wrong_shape_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"groups must be \[3\] int64"):
            compose(torch.rand(3), 3, Rule(), seeded(), groups=torch.zeros(2))
