from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from acquisition.uncertainty import MEASURES, uncertainty_maps
from tests.training.discs import CLASSES, disc_example, disc_examples
from training import ensemble
from training.config import UNKNOWN, TrainConfig
from training.data import Example
from training.ensemble import Committee, Look, assess, compare, fold_batch_norms
from training.fit import fit_member
from training.metrics import overlap
from training.network import build_network
from training.version import DamagedVersion

CPU = torch.device("cpu")
TINY = TrainConfig(CLASSES, members=2, crop_px=64, batch=4, steps=40, network="unet")
UNTRAINED = TrainConfig(("background", "a", "b", "c"), members=3)


@pytest.fixture(scope="module")
def trained():
    examples = disc_examples(10)
    weights = [fit_member(examples, TINY, member, CPU)[0] for member in range(TINY.members)]
    return weights, examples


@pytest.fixture(scope="module")
def untrained():
    weights = []
    for member in range(UNTRAINED.members):
        torch.manual_seed(member)
        weights.append(build_network(UNTRAINED).state_dict())
    return Committee(weights, UNTRAINED, device=CPU, version=4)


def random_image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_probabilities_have_the_axes_of_the_field_and_sum_to_one(untrained):
    probs = untrained.member_probs(random_image(50, 70))
    assert probs.shape == (3, 4, 50, 70)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


def test_members_answer_as_their_networks_do(untrained):
    torch.manual_seed(1)
    network = build_network(UNTRAINED).eval()
    image = random_image(40, 60)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].softmax(dim=0)
    np.testing.assert_allclose(untrained.member_probs(image)[1], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["lite0", "unet"])
def test_folding_the_batch_norms_changes_no_answer(name):
    torch.manual_seed(0)
    network = build_network(replace(UNTRAINED, network=name))
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))  # moves the running statistics
        network.eval()
        x = torch.rand(1, 3, 64, 64)
        before = network(x)
        fold_batch_norms(network)
        torch.testing.assert_close(network(x), before, atol=1e-3, rtol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_the_temperature_divides_the_logits(untrained):
    image = random_image(32, 32)
    cold = untrained.member_probs(image)
    untrained.temperature = 2.0
    try:
        warmed = untrained.member_probs(image)
    finally:
        untrained.temperature = 1.0
    expected = torch.from_numpy(cold).log().div(2).softmax(dim=1)
    np.testing.assert_allclose(warmed, expected, atol=1e-5)


def test_a_look_agrees_with_the_members_and_the_measures(untrained):
    image = random_image(45, 64)
    look = untrained.look(image)
    probs = torch.from_numpy(untrained.member_probs(image))
    np.testing.assert_allclose(look.probs, probs.mean(dim=0), atol=1e-6)
    np.testing.assert_array_equal(look.predicted, look.probs.argmax(axis=0))
    maps = uncertainty_maps(probs[:, None])
    assert tuple(look.maps) == MEASURES
    for name in MEASURES:
        np.testing.assert_allclose(look.maps[name], maps[name][0], atol=1e-5)
    mean = look.maps["mutual_information"].mean()
    assert look.arms["mutual_information/image_mean"] == pytest.approx(mean, rel=1e-4)
    assert all(np.isfinite(score) for score in look.arms.values())


def test_a_large_image_is_seen_small_and_answered_at_its_own_size():
    config = replace(UNTRAINED, members=1, max_side_px=64)
    committee = Committee([build_network(config).state_dict()], config, device=CPU)
    look = committee.look(random_image(150, 100))
    assert look.probs.shape == (4, 64, 43)
    assert look.size == (150, 100)
    assert look.mask().shape == look.confidence().shape == (150, 100)


def look_of(probs, size):
    predicted = probs.argmax(axis=0).astype(np.uint8)
    return Look(size, probs, predicted, {}, {})


@pytest.mark.parametrize("strip_px", [1, 300, 1 << 19])
def test_masks_are_enlarged_in_strips_without_seams(monkeypatch, strip_px):
    monkeypatch.setattr(ensemble, "STRIP_PX", strip_px)
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(3, 11, 13, generator=generator).mul(2).softmax(dim=0)
    look = look_of(probs.numpy(), (47, 59))
    whole = F.interpolate(probs[None], (47, 59), mode="bilinear", align_corners=False)[0]
    assert (look.mask() == whole.argmax(dim=0).numpy()).mean() > 0.999
    np.testing.assert_allclose(look.confidence(), whole.amax(dim=0), atol=1 / 255)


def test_a_mask_at_the_networks_own_size_is_what_was_predicted(untrained):
    look = untrained.look(random_image(33, 47))
    np.testing.assert_array_equal(look.mask(), look.predicted)
    np.testing.assert_allclose(look.confidence(), look.probs.max(axis=0), atol=1 / 255)


def test_what_is_no_image_is_refused(untrained):
    with pytest.raises(ValueError, match="must be"):
        untrained.look(np.zeros((8, 8), np.uint8))


def test_weights_of_another_network_are_refused():
    weights = build_network(replace(UNTRAINED, network="unet")).state_dict()
    with pytest.raises(DamagedVersion, match="member 0 does not fit"):
        Committee([weights], replace(UNTRAINED, members=1), device=CPU)


def test_too_few_members_are_refused():
    with pytest.raises(DamagedVersion, match="expected 3 members, got 0"):
        Committee([], UNTRAINED, device=CPU)


def test_an_assessment_is_out_of_fold_and_near_the_truth(trained):
    weights, examples = trained
    told = []
    assessment = assess(weights, TINY, examples, told.append, device=CPU)
    assert assessment.problems == ()
    assert assessment.metrics["out_of_fold"]
    assert assessment.metrics["dice"]["bright"] > 0.7
    assert 0.25 <= assessment.metrics["temperature"] <= 8
    assert assessment.metrics["ece"] <= assessment.metrics["ece_uncalibrated"] + 0.01
    assert told[-1] == 1.0
    committee = Committee(weights, TINY, device=CPU)
    for example in examples:
        predicted = committee.out_of_fold(example)[1]
        expected = overlap(example.mask, predicted, 3).foreground_dice()
        assert assessment.scores[example.key] == pytest.approx(expected)


def test_an_assessment_does_not_depend_on_the_order_of_the_examples(trained):
    weights, examples = trained
    first = assess(weights, TINY, examples, device=CPU)
    assert assess(weights, TINY, examples[::-1], device=CPU).metrics == first.metrics


def test_a_committee_doubts_what_it_never_saw_more_than_what_it_knows(trained):
    weights, examples = trained
    committee = Committee(weights, TINY, device=CPU)
    strange = np.random.default_rng(0).integers(0, 256, (72, 88, 3), np.uint8)
    arm = "predictive_entropy/image_mean"
    known = max(committee.look(example.image).arms[arm] for example in examples[:3])
    assert committee.look(strange).arms[arm] > known


def test_a_version_as_good_as_the_old_one_is_promoted(trained):
    weights, examples = trained
    old = Committee(weights, TINY, device=CPU)
    verdict = compare(old, assess(weights, TINY, examples, device=CPU), examples, 0)
    assert verdict.promote
    assert verdict.difference is not None
    assert verdict.difference.mean == 0


def test_a_clearly_worse_version_is_kept_back(trained):
    weights, examples = trained
    old = Committee(weights, TINY, device=CPU)
    hasty = [fit_member(examples, replace(TINY, steps=8), m, CPU)[0] for m in range(2)]
    assessment = replace(assess(hasty, TINY, examples, device=CPU), problems=())
    verdict = compare(old, assessment, examples, 0)
    assert not verdict.promote
    assert "clearly worse" in verdict.reason


def test_the_first_sane_version_is_promoted(trained):
    weights, examples = trained
    assert compare(None, assess(weights, TINY, examples, device=CPU), examples, 0).promote


def test_other_classes_are_not_compared(trained):
    weights, examples = trained
    assessment = assess(weights, TINY, examples, device=CPU)
    renamed = Committee(weights, replace(TINY, classes=("background", "x", "y")), device=CPU)
    verdict = compare(renamed, assessment, examples, 0)
    assert verdict.promote
    assert verdict.difference is None
    assert "classes changed" in verdict.reason


def test_weights_that_are_not_finite_are_never_promoted(trained):
    weights, examples = trained
    broken = {**weights[1], "head.bias": torch.full_like(weights[1]["head.bias"], torch.nan)}
    assessment = assess([weights[0], broken], TINY, examples, device=CPU)
    verdict = compare(None, assessment, examples, 0)
    assert not verdict.promote
    assert "member 1 holds weights that are not finite" in verdict.reason


def test_a_version_that_sees_one_class_everywhere_is_never_promoted(trained):
    weights, examples = trained
    blind = [{**w, "head.bias": torch.tensor([99.0, 0, 0])} for w in weights]
    verdict = compare(None, assess(blind, TINY, examples, device=CPU), examples, 0)
    assert not verdict.promote
    assert "nothing but 'background'" in verdict.reason


def test_a_version_worse_than_seeing_only_background_is_never_promoted(trained):
    weights, examples = trained
    turned = []
    for member in weights:
        head = {k: v[[1, 2, 0]] for k, v in member.items() if k.startswith("head.")}
        turned.append({**member, **head})
    verdict = compare(None, assess(turned, TINY, examples, device=CPU), examples, 0)
    assert not verdict.promote
    assert "only background" in verdict.reason


def test_a_lone_member_says_that_it_was_measured_on_what_it_knows(trained):
    weights, examples = trained
    lone = replace(TINY, members=1)
    metrics = assess(weights[:1], lone, examples, device=CPU).metrics
    assert not metrics["out_of_fold"]
    assert metrics["temperature"] == 1.0


def test_a_class_that_nobody_shows_has_no_dice():
    example = disc_example("a", 0)
    mask = np.where(example.mask == 2, UNKNOWN, example.mask).astype(np.uint8)
    config = replace(TINY, classes=(*CLASSES, "never"), members=1)
    torch.manual_seed(0)
    weights = build_network(config).state_dict()
    weights["head.bias"] = torch.tensor([0.0, 9, -99, -99])
    metrics = assess([weights], config, [Example("a", example.image, mask)], device=CPU).metrics
    assert metrics["dice"]["never"] is None
