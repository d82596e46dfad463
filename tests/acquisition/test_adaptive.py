"""What corrections say of the measures: by hand, by law, and against loops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acquisition.adaptive import (
    ARMS,
    FLOOR,
    MIN_WRONG_PX,
    RECENT,
    Evidence,
    Judgement,
    binned_auroc,
    judge,
    trust,
    weights_of,
)
from acquisition.aggregate import AGGREGATES, aggregate
from acquisition.uncertainty import MEASURES, uncertainty_maps
from tests.acquisition.ensembles import random_probs
from tests.acquisition.pools import seeded


def auroc_by_all_pairs(uncertainty: Tensor, wrong: Tensor) -> float:
    ours, others = uncertainty[wrong][:, None], uncertainty[~wrong][None, :]
    won = (ours > others).double() + 0.5 * (ours == others).double()
    return float(won.mean())


def test_the_arms_are_those_of_aggregate_in_its_order() -> None:
    probs = random_probs((2, 1, 3, 7, 8))
    predicted = probs.mean(0).argmax(1).to(torch.uint8)
    assert list(aggregate(uncertainty_maps(probs), predicted)) == list(ARMS)
    assert len(ARMS) == 30


@st.composite
def uncertainties(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Doubts that 9 bits hold, with many ties, and which of the pixels are wrong."""
    P = draw(st.integers(2, 60))
    exact = st.sampled_from([0.0, 2**-20, 0.25, 0.375, 0.5, 1.0, 1 + 2**-9, 300.0])
    uncertainty = draw(st.lists(exact, min_size=P, max_size=P))
    wrong = draw(st.lists(st.booleans(), min_size=P - 2, max_size=P - 2))
    return torch.tensor(uncertainty, dtype=torch.float64), torch.tensor([True, False, *wrong])


class TestBinnedAuroc:
    def test_it_is_1_where_every_wrong_pixel_is_more_uncertain(self) -> None:
        uncertainty = torch.tensor([0.1, 0.9, 0.2, 0.8])
        assert binned_auroc(uncertainty, torch.tensor([False, True, False, True])) == 1

    def test_it_is_0_where_every_wrong_pixel_is_less_uncertain(self) -> None:
        uncertainty = torch.tensor([0.1, 0.9, 0.2, 0.8])
        assert binned_auroc(uncertainty, torch.tensor([True, False, True, False])) == 0

    def test_it_counts_the_pairs_and_half_of_the_ties(self) -> None:
        # The wrong 3 beats 1 and ties 3; the wrong 2 beats 1 alone: 2.5 of 4 pairs.
        uncertainty = torch.tensor([3.0, 2.0, 1.0, 3.0])
        assert binned_auroc(uncertainty, torch.tensor([True, True, False, False])) == 2.5 / 4

    def test_the_two_zeros_are_a_tie(self) -> None:
        assert binned_auroc(torch.tensor([-0.0, 0.0]), torch.tensor([True, False])) == 0.5

    @given(uncertainties())
    @settings(deadline=None)
    def test_it_is_exact_where_9_bits_hold_the_uncertainties(
        self, drawn: tuple[Tensor, Tensor]
    ) -> None:
        assert binned_auroc(*drawn) == pytest.approx(auroc_by_all_pairs(*drawn), abs=1e-12)

    @given(
        P=st.integers(1000, 2000),
        share=st.floats(0.05, 0.9),
        sharpness=st.floats(0.3, 4),
        scale=st.floats(1e-4, 1e4),
        seed=st.integers(0, 999),
    )
    @settings(max_examples=40, deadline=None)
    def test_it_lies_within_two_thousandths_of_the_count_of_all_pairs(
        self, P: int, share: float, sharpness: float, scale: float, seed: int
    ) -> None:
        wrong = torch.rand(P, generator=seeded(seed)) < share
        uncertainty = torch.rand(P, generator=seeded(seed + 1), dtype=torch.float64)
        uncertainty = scale * torch.where(wrong, uncertainty ** (1 / sharpness), uncertainty)
        assert binned_auroc(uncertainty, wrong) == pytest.approx(
            auroc_by_all_pairs(uncertainty, wrong), abs=0.002
        )

    @given(uncertainties())
    @settings(deadline=None)
    def test_wrong_and_right_exchanged_give_the_complement(
        self, drawn: tuple[Tensor, Tensor]
    ) -> None:
        uncertainty, wrong = drawn
        assert binned_auroc(uncertainty, wrong) + binned_auroc(
            uncertainty, ~wrong
        ) == pytest.approx(1)

    @given(uncertainties(), st.integers(0, 99))
    @settings(deadline=None)
    def test_the_order_and_the_unit_of_the_pixels_are_irrelevant(
        self, drawn: tuple[Tensor, Tensor], seed: int
    ) -> None:
        uncertainty, wrong = drawn
        order = torch.randperm(len(uncertainty), generator=seeded(seed))
        assert binned_auroc(4 * uncertainty[order], wrong[order]) == pytest.approx(
            binned_auroc(uncertainty, wrong), abs=1e-12
        )

    def test_every_float_type_is_read_alike(self) -> None:
        wrong = torch.tensor([True, False, True, False])
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            uncertainty = torch.tensor([0.5, 0.25, 0.125, 1.0], dtype=dtype)
            assert binned_auroc(uncertainty, wrong) == 1 / 4

    @pytest.mark.parametrize("wrong", [[True, True], [False, False], []])
    def test_pixels_that_are_all_of_one_kind_are_refused(self, wrong: list[bool]) -> None:
        with pytest.raises(ValueError, match="needs wrong pixels and right ones"):
            binned_auroc(torch.ones(len(wrong)), torch.tensor(wrong, dtype=torch.bool))

    @pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
    def test_a_uncertainty_that_is_negative_or_not_finite_is_refused(self, bad: float) -> None:
        with pytest.raises(ValueError, match="must not be negative and must be finite"):
            binned_auroc(torch.tensor([0.5, bad]), torch.tensor([True, False]))


def scene(wrong: int, H: int = 12, W: int = 20) -> tuple[Tensor, Tensor]:
    """Predicted and true masks [1, H, W]; the truth has one class, the first pixels are wrong."""
    truth = torch.zeros(1, H, W, dtype=torch.uint8)
    predicted = truth.clone()
    predicted.view(-1)[:wrong] = 1
    return predicted, truth


def judgement_by_loop(uncertainty: Tensor, predicted: Tensor, truth: Tensor) -> Judgement:
    _, H, W = truth.shape
    values, wrong = [], []
    for h in range(H):
        for w in range(W):
            around = truth[0, max(0, h - 2) : h + 3, max(0, w - 2) : w + 3]
            if truth[0, h, w] == 255 or (around != truth[0, h, w]).any():
                continue
            values.append(float(uncertainty[0, h, w]))
            wrong.append(bool(predicted[0, h, w] != truth[0, h, w]))
    rewards = {}
    if 20 <= sum(wrong) < len(wrong):
        auroc = auroc_by_all_pairs(torch.tensor(values), torch.tensor(wrong))
        rewards = {"uncertainty": 2 * (auroc - 0.5)}
    return Judgement(rewards, sum(wrong), len(wrong))


class TestJudge:
    def test_a_map_that_marks_the_errors_alone_earns_1_and_its_inverse_minus_1(self) -> None:
        predicted, truth = scene(wrong=30)
        perfect = (predicted != truth).float()
        maps = {"perfect": perfect, "inverse": 1 - perfect, "flat": torch.ones_like(perfect)}
        judgement = judge(maps, predicted, truth)
        assert judgement.rewards == {"perfect": 1.0, "inverse": -1.0, "flat": 0.0}
        assert list(judgement.rewards) == list(maps)
        assert (judgement.wrong, judgement.judged, judgement.error) == (30, 240, 0.125)

    def test_a_random_map_earns_next_to_nothing(self) -> None:
        predicted, truth = scene(wrong=4000, H=100, W=120)
        reward = judge(
            {"random": torch.rand(1, 100, 120, generator=seeded())}, predicted, truth
        ).rewards["random"]
        # Hanley and McNeil's standard error of an AUROC of a half, doubled.
        sigma = 2 * math.sqrt((4000 + 8000 + 1) / (12 * 4000 * 8000))
        assert abs(reward) < 4 * sigma

    def test_two_pixels_on_either_side_of_a_true_boundary_are_not_judged(self) -> None:
        truth = torch.zeros(1, 6, 20, dtype=torch.uint8)
        truth[:, :, 10:] = 1
        predicted = truth.clone()
        predicted[:, :, 8:12] = 2
        judgement = judge({}, predicted, truth)
        assert (judgement.wrong, judgement.judged, judgement.error) == (0, 6 * 16, 0.0)

    def test_a_boundary_of_the_prediction_is_judged(self) -> None:
        predicted, truth = scene(wrong=30)
        assert judge({}, predicted, truth).judged == truth.numel()

    def test_unknown_pixels_and_those_beside_them_are_not_judged(self) -> None:
        truth = torch.zeros(1, 6, 20, dtype=torch.uint8)
        truth[:, :, 15:] = 255
        predicted = torch.zeros_like(truth)
        predicted[:, :, 12:] = 1  # wrong in one judged column, and wherever nothing is known
        judgement = judge({}, predicted, truth)
        assert (judgement.wrong, judgement.judged) == (6, 6 * 13)

    def test_uncertainty_where_nothing_is_judged_earns_nothing(self) -> None:
        truth = torch.zeros(1, 6, 20, dtype=torch.uint8)
        truth[:, :, 15:] = 255
        predicted = torch.zeros_like(truth)
        predicted[:, :, :4] = 1
        uncertainty = (predicted == 1).float()
        distracted = uncertainty.clone()
        distracted[:, :, 13:] = 9.0
        judgement = judge({"uncertainty": uncertainty, "distracted": distracted}, predicted, truth)
        assert judgement.rewards == {"uncertainty": 1.0, "distracted": 1.0}

    @pytest.mark.parametrize(("wrong", "earns"), [(MIN_WRONG_PX - 1, False), (MIN_WRONG_PX, True)])
    def test_rewards_are_given_from_twenty_wrong_pixels(self, wrong: int, earns: bool) -> None:
        predicted, truth = scene(wrong)
        judgement = judge(
            {"uncertainty": torch.rand(1, 12, 20, generator=seeded())}, predicted, truth
        )
        assert bool(judgement.rewards) is earns
        assert judgement.wrong == wrong

    def test_an_image_that_is_wrong_throughout_rewards_nothing(self) -> None:
        predicted, truth = scene(wrong=240)
        judgement = judge(
            {"uncertainty": torch.rand(1, 12, 20, generator=seeded())}, predicted, truth
        )
        assert judgement == Judgement({}, 240, 240)
        assert judgement.error == 1

    def test_an_image_of_which_nothing_is_known_has_no_error(self) -> None:
        truth = torch.full((1, 12, 20), 255, dtype=torch.uint8)
        judgement = judge({"uncertainty": torch.ones(1, 12, 20)}, torch.zeros_like(truth), truth)
        assert judgement == Judgement({}, 0, 0)
        assert judgement.error == 0

    @given(
        H=st.integers(1, 14),
        W=st.integers(1, 18),
        block=st.sampled_from([3, 7, 20]),
        flips=st.floats(0, 1),
        seed=st.integers(0, 2**31),
    )
    @settings(deadline=None)
    def test_it_equals_the_loop_over_pixels(
        self, H: int, W: int, block: int, flips: float, seed: int
    ) -> None:
        generator = seeded(seed)
        coarse = torch.tensor([0, 1, 255], dtype=torch.uint8)[
            torch.randint(0, 3, (1, 5, 6), generator=generator)
        ]
        truth = coarse.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :H, :W]
        H, W = truth.shape[1:]
        flipped = torch.rand(1, H, W, generator=generator) < flips
        predicted = torch.where(flipped, 2, truth.clamp_max(1)).to(torch.uint8)
        # Sixteenths: exact in the 9 bits that doubts are compared by.
        uncertainty = torch.randint(0, 17, (1, H, W), generator=generator) / 16
        judgement, expected = (
            judge({"uncertainty": uncertainty}, predicted, truth.contiguous()),
            judgement_by_loop(uncertainty, predicted, truth),
        )
        assert judgement.rewards == pytest.approx(expected.rewards)
        assert (judgement.wrong, judgement.judged) == (expected.wrong, expected.judged)

    def test_a_truth_of_another_size_is_refused(self) -> None:
        predicted, _ = scene(wrong=0)
        with pytest.raises(ValueError, match=r"\(1, 20, 12\) must have the map's shape"):
            judge({"uncertainty": torch.ones(1, 12, 20)}, predicted, predicted.mT.contiguous())

    def test_a_truth_that_is_not_uint8_is_refused(self) -> None:
        predicted, truth = scene(wrong=0)
        with pytest.raises(TypeError, match=r"uint8, got torch\.int64"):
            judge({"uncertainty": torch.ones(1, 12, 20)}, predicted, truth.long())

    def test_a_map_of_integers_is_refused(self) -> None:
        predicted, truth = scene(wrong=0)
        with pytest.raises(TypeError, match="floating point"):
            judge({"uncertainty": truth}, predicted, truth)

    def test_two_images_at_once_are_refused(self) -> None:
        masks = torch.zeros(2, 12, 20, dtype=torch.uint8)
        with pytest.raises(ValueError, match="one image is judged at a time, got 2"):
            judge({"uncertainty": torch.ones(2, 12, 20)}, masks, masks)

    def test_a_map_with_a_negative_uncertainty_is_refused(self) -> None:
        predicted, truth = scene(wrong=30)
        with pytest.raises(ValueError, match="must not be negative"):
            judge({"uncertainty": torch.full((1, 12, 20), -0.5)}, predicted, truth)


def rewards_of(**given: float) -> dict[str, float]:
    """Measure to reward, 0 where none is given."""
    return dict.fromkeys(MEASURES, 0.0) | given


def of_image(
    batch: int,
    rewards: Mapping[str, float],
    version: int = 1,
    score: float = 0.5,
    error: float = 0.1,
) -> Evidence:
    """Evidence of an image that has one score by all arms."""
    return Evidence(batch, version, rewards, dict.fromkeys(ARMS, score), error)


def random_evidence(
    batches: Sequence[int], versions: int = 1, blanks: float = 0.2, seed: int = 0
) -> list[Evidence]:
    """Evidence of batches of these sizes; coarse scores and errors, so that some are tied."""
    rng = np.random.default_rng(seed)
    return [
        Evidence(
            batch=number,
            version=1 + number * versions // len(batches),
            rewards={}
            if rng.random() < blanks
            else {measure: rng.uniform(-1, 1) for measure in MEASURES},
            scores={arm: round(rng.random(), 1) for arm in ARMS},
            error=round(rng.random(), 1),
        )
        for number, size in enumerate(batches)
        for _ in range(size)
    ]


def correlations_by_loop(evidence: Sequence[Evidence]) -> dict[str, float]:
    """Of the newest batches that together hold 50 corrections, or of all."""
    latest: list[Evidence] = []
    for number in sorted({each.batch for each in evidence}, reverse=True):
        if len(latest) < 50:
            latest += [each for each in evidence if each.batch == number]
    n = len(latest)
    found = {}
    for arm in ARMS:
        ours: list[float] = []
        errors: list[float] = []
        for version in {each.version for each in latest}:
            group = [each for each in latest if each.version == version]
            for ranks, values in (
                (ours, [each.scores[arm] for each in group]),
                (errors, [each.error for each in group]),
            ):
                ranks += [(rank - 0.5) / len(group) for rank in scipy.stats.rankdata(values)]
        flat = n < 3 or np.ptp(ours) == 0 or np.ptp(errors) == 0
        found[arm] = 0.0 if flat else float(np.corrcoef(ours, errors)[0, 1]) * n / (n + 20)
    return found


def trust_by_loop(evidence: Sequence[Evidence]) -> tuple[dict[str, float], dict[str, float]]:
    """Weights, and the rewards in the latest batch that had any."""
    L = [0.0] * len(ARMS)
    rewards: dict[str, float] = {}
    for number in sorted({each.batch for each in evidence}):
        judged = [each for each in evidence if each.batch == number and each.rewards]
        if judged:
            past = [each for each in evidence if each.batch <= number]
            rewards = correlations_by_loop(past)
            for a, arm in enumerate(ARMS):
                measure = arm.split("/")[0]
                rewards[arm] += sum(each.rewards[measure] for each in judged) / len(judged)
                L[a] = 0.9 * L[a] + rewards[arm]
    softmax = torch.softmax(4 * torch.tensor(L, dtype=torch.float64), dim=0).tolist()
    return {arm: 0.9 * p + 0.1 / 30 for arm, p in zip(ARMS, softmax, strict=True)}, rewards


@st.composite
def histories(draw: st.DrawFn) -> list[Evidence]:
    """Up to six batches of up to 25 images, looked at by up to three versions."""
    sizes = draw(st.lists(st.integers(1, 25), max_size=6))
    return random_evidence(
        sizes,
        versions=draw(st.integers(1, 3)),
        blanks=draw(st.sampled_from([0.0, 0.3, 0.9])),
        seed=draw(st.integers(0, 2**31)),
    )


class TestTrust:
    def test_without_evidence_all_arms_weigh_alike_and_none_leads(self) -> None:
        nothing = trust([])
        assert nothing.weights == pytest.approx(dict.fromkeys(ARMS, 1 / 30))
        assert nothing.leader is None
        assert (nothing.rewards, nothing.pixel_rewards, nothing.correlations) == ({}, {}, {})
        assert (nothing.batches, nothing.images) == (0, 0)

    def test_images_without_an_error_that_could_be_judged_leave_the_weights_equal(self) -> None:
        clean = trust([of_image(1, {}), of_image(1, {}), of_image(2, {})])
        assert clean.weights == pytest.approx(dict.fromkeys(ARMS, 1 / 30))
        assert clean.leader is None
        assert (clean.batches, clean.images) == (0, 3)

    def test_one_batch_weighs_by_the_exponential_of_four_times_the_reward(self) -> None:
        said = trust([of_image(1, rewards_of(mutual_information=0.5))])
        for arm in ARMS:
            of_it = arm.startswith("mutual_information/")
            share = math.exp(2 if of_it else 0) / (6 * math.exp(2) + 24)
            assert said.weights[arm] == pytest.approx(0.9 * share + 0.1 / 30)
            assert said.rewards[arm] == (0.5 if of_it else 0)
        assert said.leader == f"mutual_information/{AGGREGATES[0]}"
        assert (said.batches, said.images) == (1, 1)

    def test_the_reward_of_a_batch_is_the_mean_over_the_images_that_have_one(self) -> None:
        said = trust(
            [
                of_image(1, rewards_of(variation_ratio=0.2)),
                of_image(1, {}),
                of_image(1, rewards_of(variation_ratio=0.6)),
            ]
        )
        assert said.pixel_rewards == pytest.approx(rewards_of(variation_ratio=0.4))

    def test_a_round_later_evidence_is_worth_nine_tenths(self) -> None:
        said = trust(
            [
                of_image(1, rewards_of(variation_ratio=0.5)),
                of_image(2, rewards_of(least_confidence=0.25)),
            ]
        )
        total = 6 * math.exp(4 * 0.45) + 6 * math.exp(4 * 0.25) + 18
        for measure, gain in (("variation_ratio", 0.45), ("least_confidence", 0.25)):
            expected = 0.9 * math.exp(4 * gain) / total + 0.1 / 30
            assert said.weights[f"{measure}/object_max"] == pytest.approx(expected)
        assert said.leader is not None
        assert said.leader.startswith("least_confidence/")

    def test_a_batch_that_rewards_nothing_ages_nothing(self) -> None:
        one = [of_image(1, rewards_of(variation_ratio=0.5))]
        then = trust([*one, of_image(2, {})])
        assert then.weights == trust(one).weights
        assert (then.leader, then.batches, then.images) == (trust(one).leader, 1, 2)

    def test_an_aggregate_that_ranks_images_by_their_error_leads_its_measure(self) -> None:
        evidence = []
        for i in range(10):
            scores = dict.fromkeys(ARMS, 0.5)
            scores |= {"least_confidence/object_max": i, "least_confidence/image_mean": -i}
            evidence.append(Evidence(1, 1, rewards_of(), scores, error=i / 10))
        said = trust(evidence)
        assert said.leader == "least_confidence/object_max"
        # Ten corrections in perfect order, shrunk by 10 / (10 + 20).
        assert said.correlations["least_confidence/object_max"] == pytest.approx(1 / 3)
        assert said.correlations["least_confidence/image_mean"] == pytest.approx(-1 / 3)
        assert said.correlations["mutual_information/object_max"] == 0

    @pytest.mark.parametrize(("images", "expected"), [(2, 0.0), (3, 3 / 23)])
    def test_a_correlation_needs_three_corrections(self, images: int, expected: float) -> None:
        evidence = [of_image(1, rewards_of(), score=i, error=i / 9) for i in range(images)]
        assert trust(evidence).correlations[ARMS[7]] == pytest.approx(expected)

    def test_scores_of_two_versions_are_not_compared(self) -> None:
        # Within each version the order is right; the second one doubts ten times as much, and
        # errs less.
        evidence = [
            of_image(1, rewards_of(), version=1, score=0.01 * i, error=0.5 + 0.01 * i)
            for i in range(5)
        ] + [
            of_image(2, rewards_of(), version=2, score=0.1 + 0.1 * i, error=0.01 * i)
            for i in range(5)
        ]
        assert trust(evidence).correlations[ARMS[0]] == pytest.approx(10 / 30)

    @given(n=st.integers(3, 50), seed=st.integers(0, 2**31))
    @settings(max_examples=30, deadline=None)
    def test_of_one_version_the_correlation_is_spearmans(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        evidence = [
            Evidence(1, 1, rewards_of(), {arm: rng.random() for arm in ARMS}, rng.random())
            for _ in range(n)
        ]
        for arm, found in trust(evidence).correlations.items():
            rho = scipy.stats.spearmanr(
                [each.scores[arm] for each in evidence], [each.error for each in evidence]
            ).statistic
            assert found == pytest.approx(rho * n / (n + 20))

    def test_what_lies_further_back_than_fifty_corrections_is_not_correlated(self) -> None:
        old = [of_image(b, rewards_of(), score=-b, error=b / 99) for b in range(20)]
        new = [of_image(20 + b, rewards_of(), score=b, error=b / 99) for b in range(RECENT)]
        assert trust(old + new).correlations[ARMS[0]] == pytest.approx(50 / 70)

    def test_the_oldest_batch_looked_back_on_is_taken_whole(self) -> None:
        sizes = [10, 20, 40]  # the last 50 would cut the batch of 20 in two
        evidence = random_evidence(sizes, blanks=0)
        correlations = trust(evidence).correlations
        assert correlations == pytest.approx(correlations_by_loop(evidence[10:]))

    @given(histories())
    @settings(max_examples=40, deadline=None)
    def test_it_equals_the_loop(self, evidence: list[Evidence]) -> None:
        said, (weights, rewards) = trust(evidence), trust_by_loop(evidence)
        assert said.weights == pytest.approx(weights)
        assert said.rewards == pytest.approx(rewards)
        if rewards:
            assert said.leader is not None
            assert rewards[said.leader] == pytest.approx(max(rewards.values()))

    @given(histories())
    @settings(max_examples=40, deadline=None)
    def test_the_weights_sum_to_1_and_none_falls_below_its_part_of_the_floor(
        self, evidence: list[Evidence]
    ) -> None:
        weights = trust(evidence).weights
        assert list(weights) == list(ARMS)
        assert sum(weights.values()) == pytest.approx(1)
        assert min(weights.values()) >= FLOOR / 30

    def test_no_arm_is_lost_however_long_the_evidence_is_against_it(self) -> None:
        evidence = [
            of_image(batch, rewards_of(variation_ratio=1, least_confidence=-1))
            for batch in range(60)
        ]
        weights = trust(evidence).weights
        assert weights["least_confidence/image_mean"] == pytest.approx(FLOOR / 30)
        assert weights["variation_ratio/image_mean"] == pytest.approx(0.9 / 6 + FLOOR / 30)

    @given(histories(), st.integers(0, 99))
    @settings(max_examples=40, deadline=None)
    def test_the_order_within_a_batch_is_irrelevant(
        self, evidence: list[Evidence], seed: int
    ) -> None:
        order = torch.randperm(len(evidence), generator=seeded(seed)).tolist()
        shuffled = sorted((evidence[i] for i in order), key=lambda each: each.batch)
        assert trust(shuffled).weights == pytest.approx(trust(evidence).weights)
        assert trust(shuffled).rewards == pytest.approx(trust(evidence).rewards)

    @given(histories(), st.integers(1, 5), st.integers(-9, 9))
    @settings(max_examples=30, deadline=None)
    def test_batches_and_versions_count_by_their_order_and_not_by_their_numbers(
        self, evidence: list[Evidence], step: int, start: int
    ) -> None:
        renumbered = [
            replace(each, batch=start + step * each.batch, version=7 - each.version)
            for each in evidence
        ]
        assert trust(renumbered).weights == pytest.approx(trust(evidence).weights)

    @given(histories(), st.integers(0, 5))
    @settings(max_examples=30, deadline=None)
    def test_a_batch_withdrawn_is_as_if_it_had_never_been(
        self, evidence: list[Evidence], withdrawn: int
    ) -> None:
        trust(evidence)  # leaves nothing behind
        kept = [each for each in evidence if each.batch != withdrawn]
        closed_up = [replace(each, batch=each.batch - (each.batch > withdrawn)) for each in kept]
        assert trust(kept) == trust(closed_up)
        assert trust(kept).weights == pytest.approx(trust_by_loop(closed_up)[0])

    @given(histories())
    @settings(max_examples=30, deadline=None)
    def test_any_growing_map_of_an_arms_scores_and_of_the_errors_changes_nothing(
        self, evidence: list[Evidence]
    ) -> None:
        mapped = [
            replace(
                each,
                scores={arm: math.exp(score) for arm, score in each.scores.items()},
                error=each.error**3,
            )
            for each in evidence
        ]
        assert trust(mapped).weights == pytest.approx(trust(evidence).weights)


class TestWeightsOf:
    EVEN = pytest.approx(dict.fromkeys(ARMS, 1 / len(ARMS)))

    @pytest.mark.parametrize("mode", ["hedge", "leader", "rank_average"])
    def test_before_any_evidence_all_arms_weigh_alike(self, mode: str) -> None:
        assert weights_of(mode, trust([])) == self.EVEN

    def test_evidence_moves_hedge_and_leader_and_nothing_else(self) -> None:
        found = trust(random_evidence([3, 4, 5]))
        assert found.leader is not None
        assert weights_of("hedge", found) == found.weights != self.EVEN
        assert weights_of("leader", found) == {found.leader: 1.0}
        assert weights_of("rank_average", found) == self.EVEN
        assert weights_of("fixed:" + ARMS[3], found) == {ARMS[3]: 1.0}

    @pytest.mark.parametrize("mode", ["random", ARMS[3], "fixed:entropy", "fixed:"])
    def test_a_mode_that_weighs_no_arm_is_refused(self, mode: str) -> None:
        with pytest.raises(ValueError, match=f"'{mode}' is not a mode that weighs the arms"):
            weights_of(mode, trust([]))
