"""The queue that a publication ranks: weights, places, reasons, and who comes from outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from acquisition.adaptive import ARMS, Evidence, trust
from acquisition.queue import Rule
from acquisition.scores import percentiles
from backend.ledger import Publication
from backend.outside_score import outside_score
from backend.rounds.ranking import (
    QUANTILES,
    Candidate,
    Ranked,
    arm_quantiles,
    first_rank,
    queue_quantiles,
    rank,
    unusable_last,
    weights_of,
)
from tests.backend import rows

ARM = "mutual_information/image_mean"
OTHER = "predictive_entropy/object_max"


def candidates(count: int, first: int = 100, **left_out: None) -> dict[int, Candidate]:
    """Images whose arms, features and classes are drawn; the first class is shown by few."""
    rng = np.random.default_rng(count)
    found = {}
    for task_id in range(first, first + count):
        shown = rng.random(3) * (rng.random(3) < (1.0, 0.2, 0.9))
        values: dict[str, Any] = {
            "arms": {arm: float(rng.random()) for arm in ARMS},
            "features": rng.normal(size=6).astype(np.float16),
            "class_scores": shown.astype(np.float32),
            **left_out,
        }
        found[task_id] = Candidate(**values)
    return found


def seen(reward: float, batch: int = 1) -> Evidence:
    """Evidence that speaks for mutual information."""
    rewards = dict.fromkeys((arm.partition("/")[0] for arm in ARMS), 0.1)
    rewards["mutual_information"] = reward
    return Evidence(batch, 1, rewards, dict.fromkeys(ARMS, 0.5), 0.1)


NONE, SOME = trust([]), trust([seen(0.8), seen(0.9)])


class TestWeights:
    def test_hedge_takes_what_the_evidence_says(self) -> None:
        assert weights_of("hedge", SOME) == SOME.weights
        assert weights_of("hedge", SOME)[ARM] > 1 / len(ARMS)

    def test_the_leader_alone_ranks_once_there_is_one(self) -> None:
        weights = weights_of("leader", SOME)
        assert list(weights.values()) == [1.0]
        assert next(iter(weights)).startswith("mutual_information/")

    @pytest.mark.parametrize("mode", ["hedge", "leader"])
    def test_before_any_evidence_all_weigh_the_same(self, mode: str) -> None:
        weights = weights_of(mode, NONE)
        assert weights == pytest.approx(dict.fromkeys(ARMS, 1 / len(ARMS)))

    def test_a_fixed_arm_ranks_whatever_the_evidence(self) -> None:
        assert weights_of(f"fixed:{OTHER}", SOME) == {OTHER: 1.0}
        assert weights_of("fixed:standard_deviation", SOME) == {
            "standard_deviation/top_quantile_mean": 1.0
        }

    def test_chance_weighs_nothing(self) -> None:
        assert weights_of("random", SOME) == {}


def the_queue(found: dict[int, Candidate], **values: Any) -> list[tuple[int, str]]:
    given: dict[str, Any] = {"audits": set(), "weights": {ARM: 1.0}, "length": 20, "seed": 3}
    places = rank(found, **{**given, **values})
    return [(place.task_id, place.why) for place in places]


class TestRank:
    def test_the_order_of_the_tasks_does_not_matter_and_the_seed_does(self) -> None:
        found = candidates(40)
        backwards = dict(reversed(found.items()))
        audits = {103, 120, 121}
        queue = the_queue(found, audits=audits)
        assert the_queue(backwards, audits=audits) == queue
        assert the_queue(found, audits=audits, seed=4) != queue

    def test_without_a_rule_it_is_the_order_of_the_uncertainty(self) -> None:
        found = candidates(30)
        places = rank(found, set(), {ARM: 1.0}, 30, seed=0, rule=Rule())
        assert [place.task_id for place in places] == sorted(
            found, key=lambda task_id: -found[task_id].arms[ARM]
        )
        assert {place.why for place in places} == {"uncertainty"}
        assert places[0].uncertainty == pytest.approx(1 - 0.5 / 30)

    def test_the_uncertainty_is_the_weighted_percentile(self) -> None:
        found = candidates(30)
        places = rank(found, set(), {ARM: 3.0, OTHER: 1.0}, 30, seed=0)
        ranks = {
            arm: dict(
                zip(
                    found,
                    percentiles(torch.tensor([each.arms[arm] for each in found.values()])).tolist(),
                    strict=True,
                )
            )
            for arm in (ARM, OTHER)
        }
        for place in places:
            expected = 0.75 * ranks[ARM][place.task_id] + 0.25 * ranks[OTHER][place.task_id]
            assert place.uncertainty == pytest.approx(expected)

    def test_each_place_says_why(self) -> None:
        queue = the_queue(candidates(200), audits={100, 101, 150}, length=200)
        whys = [why for _, why in queue]
        assert {*whys} == {"uncertainty", "class", "chance", "audit"}
        assert whys.count("audit") == 3
        assert 36 <= whys.count("chance") <= 43  # a fifth of the places
        assert sorted(task_id for task_id, _ in queue) == list(range(100, 300))

    def test_the_class_that_few_labelled_images_show_gets_the_turns(self) -> None:
        found = candidates(200)
        rare = {task_id for task_id, each in found.items() if each.class_scores[1] > 0}  # type: ignore[index]

        def of_rare(known: list[int]) -> int:
            queue = the_queue(found, known=known, length=30)
            return sum(task_id in rare for task_id, why in queue if why == "class")

        assert of_rare([50, 0, 50]) > of_rare([50, 50, 0])

    def test_a_short_queue_holds_the_audits_share(self) -> None:
        found = candidates(200)
        audits = set(range(100, 140))
        queue = the_queue(found, audits=audits, length=50)
        assert len(queue) == 50
        assert [why for task_id, why in queue if task_id in audits] == ["audit"] * 10

    def test_the_shortest_queues_hold_an_audit_in_their_share_of_seeds(self) -> None:
        found = candidates(200)
        audits = set(range(100, 110))  # 5 %, and 8 places
        queues = [the_queue(found, audits=audits, length=8, seed=seed) for seed in range(300)]
        held = sum(why == "audit" for queue in queues for _, why in queue) / 300
        assert 0.4 - 0.12 < held < 0.4 + 0.12  # four standard deviations

    def test_chance_draws_only_of_those_that_were_drawn_evenly(self) -> None:
        found = candidates(200)
        drawn = set(range(200, 300))
        queue = the_queue(found, drawn=drawn, length=60)
        by_chance = {task_id for task_id, why in queue if why == "chance"}
        assert len(by_chance) >= 10
        assert by_chance <= drawn
        assert not {task_id for task_id, _ in queue} <= drawn
        fallback = the_queue(found, drawn=drawn, weights={}, length=150)
        assert {task_id for task_id, _ in fallback} == drawn

    def test_a_committee_of_one_ranks_though_it_disagrees_with_nobody(self) -> None:
        alone = {"variation_ratio", "mutual_information", "standard_deviation"}
        found = {
            task_id: Candidate(
                {a: 0.0 if a.partition("/")[0] in alone else s for a, s in each.arms.items()},
                each.features,
                each.class_scores,
            )
            for task_id, each in candidates(60).items()
        }
        for weights in (weights_of("hedge", NONE), weights_of("hedge", SOME), {ARM: 1.0}):
            queue = the_queue(found, weights=weights, length=60)
            assert sorted(task_id for task_id, _ in queue) == list(found)
            arm_quantiles(found, weights)

    def test_one_image_without_features_costs_the_diversity_and_not_the_queue(self) -> None:
        found = candidates(40)
        found[105] = Candidate(found[105].arms, None, found[105].class_scores)
        assert len(the_queue(found, length=40)) == 40

    def test_which_audits_and_where_depends_on_no_score(self) -> None:
        found = candidates(60)
        flipped = {
            task_id: Candidate(
                {arm: 1 - score for arm, score in each.arms.items()},
                each.features,
                each.class_scores,
            )
            for task_id, each in found.items()
        }
        audits = set(range(100, 130))

        def places(of: dict[int, Candidate]) -> list[tuple[int, int]]:
            queue = the_queue(of, audits=audits, length=30)
            return [(i, task_id) for i, (task_id, why) in enumerate(queue) if why == "audit"]

        assert places(found) == places(flipped)

    def test_by_chance_everything_is(self) -> None:
        found = candidates(100)
        queue = the_queue(found, weights={}, audits={100}, length=100)
        assert {why for task_id, why in queue if task_id != 100} == {"chance"}
        assert sorted(task_id for task_id, _ in queue) == list(found)
        assert [task_id for task_id, _ in queue] != list(found)
        assert the_queue(found, weights={}, audits={100}, length=100) == queue

    def test_what_the_images_lack_is_left_out_of_the_rule(self) -> None:
        bare = candidates(50, features=None, class_scores=None)
        assert {why for _, why in the_queue(bare)} == {"uncertainty", "chance"}

    def test_nobody_all_audits_and_a_single_image_make_queues_too(self) -> None:
        assert the_queue({}) == []
        assert the_queue(candidates(1), length=5) in (
            [(100, "uncertainty")],
            [(100, "class")],
            [(100, "chance")],
        )
        assert the_queue(candidates(2), audits={100, 101}, length=1)[0][1] == "audit"


class TestFirstRank:
    def features(self) -> dict[int, Candidate]:
        """A crowd of images that look alike, a smaller crowd, and one like no other."""
        rng = np.random.default_rng(0)
        at = [0.0] * 30 + [5.0] * 25 + [40.0]
        return {
            task_id: Candidate({}, (centre + rng.normal(0, 0.3, 4)).astype(np.float16))
            for task_id, centre in enumerate(at)
        }

    def test_the_middle_comes_first_and_then_what_is_unlike_it(self) -> None:
        places = first_rank(self.features(), set(), 56, seed=0)
        kinds = [min(place.task_id // 30, 1) + (place.task_id == 55) for place in places]
        assert sorted(kinds[:3]) == [0, 1, 2]  # one of each crowd, and the one like no other
        assert kinds[0] != 2
        uncertainties = [place.uncertainty for place in places]
        assert uncertainties == sorted(uncertainties, reverse=True)
        assert {place.why for place in places} == {"diverse"}
        assert places == first_rank(dict(reversed(self.features().items())), set(), 56, seed=0)

    def test_images_that_nobody_looked_at_come_by_chance(self) -> None:
        bare = {task_id: Candidate({}) for task_id in range(20)}
        places = first_rank(bare, {3}, 20, seed=0)
        assert {place.why for place in places} == {"chance", "audit"}
        assert sorted(place.task_id for place in places) == list(range(20))


def test_what_is_of_no_use_goes_last_unless_chance_drew_it() -> None:
    queue = [
        Ranked(task_id, 0.5, why)
        for task_id, why in ((1, "uncertainty"), (2, "class"), (3, "audit"), (4, "chance"))
    ]
    found = unusable_last(queue, {1: "blurred", 3: "blank", 4: "blurred", 9: "blank"})
    assert [(each.task_id, each.why) for each in found] == [
        (2, "class"),
        (3, "audit"),
        (4, "chance"),
        (1, "blurred"),
    ]
    assert found[-1].uncertainty == 0.5


class TestOutside:
    def publication(self, weights: dict[str, float] | None) -> Publication:
        found = candidates(200)
        places = rank(found, set(), weights or {ARM: 1.0}, 200, seed=0)
        return rows.publication(
            arm=ARM,
            weights=weights,
            arm_quantiles=None if weights is None else arm_quantiles(found, weights),
            quantiles=queue_quantiles([place.uncertainty for place in places]),
        )

    def test_its_score_falls_with_its_uncertainty_through_the_whole_queue(self) -> None:
        publication = self.publication({ARM: 0.6, OTHER: 0.4})
        scores = [outside_score({ARM: x, OTHER: x}, publication) for x in (2.0, 0.9, 0.5, 0.1, -1)]
        assert scores == sorted(scores)
        assert (scores[0], scores[-1]) == (0.0, 1.0)
        assert scores[2] == pytest.approx(0.5, abs=0.1)

    def test_one_of_the_pool_stands_about_where_its_uncertainty_does(self) -> None:
        found = candidates(200)
        weights = {ARM: 0.6, OTHER: 0.4}
        publication = self.publication(weights)
        places = rank(found, set(), weights, 200, seed=0, rule=Rule())
        for position, place in enumerate(places):
            score = outside_score(found[place.task_id].arms, publication)
            assert score == pytest.approx((position + 0.5) / 200, abs=0.02)

    def test_only_weighted_arms_leave_quantiles_ascending(self) -> None:
        found = arm_quantiles(candidates(7), {ARM: 1.0, OTHER: 0.0})
        assert list(found) == [ARM]
        assert len(found[ARM]) == QUANTILES
        assert found[ARM] == sorted(found[ARM])


def test_a_group_that_the_version_does_not_know_gets_places_and_no_audit_s() -> None:
    pool = candidates(30)
    unknown = {"Leica": [110, 111, 112, 999], "Zeiss": [120]}  # 999 is no candidate
    ranked = rank(pool, {111}, {ARM: 1.0}, 30, seed=1, groups=unknown)
    placed = {each.task_id: each.why for each in ranked}
    assert sorted(placed) == sorted(pool)
    assert placed[111] == "audit"
    assert {task for task, why in placed.items() if why == "group"} <= {110, 112, 120}
    first = next(each for each in ranked if each.why not in ("audit", "chance"))
    assert first.why == "group"
    plain = rank(pool, {111}, {ARM: 1.0}, 30, seed=1)
    assert plain == rank(pool, {111}, {ARM: 1.0}, 30, seed=1, groups={})
