from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.masks import UNKNOWN
from tests.training.discs import CLASSES, disc_example
from tests.training.trained import CPU, TINY
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.committee.folders import PREDICTED_FILE
from training.committee.out_of_fold import pack, read_predicted
from training.examples import Example
from training.fitting.fit import fit_member
from training.networks.build import build_network
from training.particles.sizes import typical_diameters
from training.quality.assessment import assess
from training.quality.metrics import overlap
from training.quality.promotion import compare


@pytest.fixture(scope="module")
def assessed(trained):
    """The assessment of the trained members."""
    return assess(trained.weights, TINY, trained.examples, device=CPU)


def test_an_assessment_is_out_of_fold_and_near_the_truth(trained):
    weights, examples, _ = trained
    told = []
    assessment = assess(weights, TINY, examples, told.append, device=CPU)
    assert assessment.problems == ()
    assert assessment.metrics["out_of_fold"]
    assert assessment.metrics["dice"]["bright"] > 0.7
    assert 0.25 <= assessment.metrics["temperature"] <= 8
    assert assessment.metrics["ece"] <= assessment.metrics["ece_uncalibrated"] + 0.01
    assert told[-1] == 1.0
    sizes = typical_diameters(example.mask for example in examples)
    named = {TINY.classes[i]: px for i, px in sizes.items()}
    assert assessment.metrics["particle_px"] == named
    assert assessment.committee.particle_px == assessment.metrics["particle_px"]
    for example in examples:
        _, predicted = assessment.committee.out_of_fold(example)
        expected = overlap(example.mask, predicted, 3).foreground_dice()
        assert assessment.scores[example.key] == pytest.approx(expected)


def test_a_wrong_label_is_contradicted_most_and_what_was_predicted_is_kept(trained, tmp_path):
    weights, examples, _ = trained
    right = examples[3]
    wrong = replace(right, mask=np.where(right.mask == 1, 2, right.mask).astype(np.uint8))
    found = assess(weights, TINY, [wrong, *(e for e in examples if e.key != right.key)], device=CPU)
    first = found.metrics["label_check"][0]
    assert first["key"] == right.key
    assert (first["labelled"], first["predicted"]) == ("bright", "dark")
    assert found.metrics["class_examples"]["bright"]["worst"][0][0] == right.key
    (tmp_path / PREDICTED_FILE).write_bytes(pack(found.predicted))
    _, predicted = found.committee.out_of_fold(right)
    assert np.array_equal(read_predicted(tmp_path, right.key), predicted)


def test_an_assessment_does_not_depend_on_the_order_of_the_examples(trained, assessed):
    weights, examples, _ = trained
    assert assess(weights, TINY, examples[::-1], device=CPU).metrics == assessed.metrics


def test_images_that_are_no_test_are_left_out_of_all_that_is_measured(trained, assessed):
    weights, examples, _ = trained
    seen = sorted(each.key for each in examples)[:3]
    groups = {seen[0]: "old", seen[3 - 1]: "both", examples[-1].key: "both"}
    found = assess(weights, TINY, examples, device=CPU, unmeasured=seen, groups=groups)
    alone = assess(weights, TINY, [e for e in examples if e.key not in seen], device=CPU)
    assert found.metrics["examples"] == len(examples)
    for name in ("scores", "foreground_dice", "temperature", "ece", "dice"):
        assert found.metrics[name] == alone.metrics[name]
    old, both = found.metrics["groups"]["old"], found.metrics["groups"]["both"]
    assert (old["labelled"], old["measured"]) == (1, 0)
    assert old["foreground_dice"] is old["ece"] is None
    assert (both["labelled"], both["measured"]) == (2, 1)
    assert both["foreground_dice"] == pytest.approx(found.scores[examples[-1].key])
    assert 0 <= both["ece"] <= 1
    # The gate compares what was measured, and no more.
    verdict = compare(assessed.committee, found, examples, 0)
    assert verdict.difference is not None
    assert verdict.difference.pairs == len(examples) - 3
    with pytest.raises(ValueError, match="at least one example to measure"):
        assess(weights, TINY, examples, device=CPU, unmeasured=[e.key for e in examples])


def test_a_version_as_good_as_the_old_one_is_promoted(trained, assessed):
    verdict = compare(assessed.committee, assessed, trained.examples, 0)
    assert verdict.promote
    assert verdict.difference is not None
    assert verdict.difference.mean == 0


def test_the_correction_is_part_of_what_is_compared(trained, assessed):
    weights, examples, _ = trained
    verdict = compare(Committee(Ensemble(weights, TINY, device=CPU)), assessed, examples, 0)
    assert assessed.committee.calibration.bias[0] > 0  # crops that seek classes raise them
    assert verdict.difference is not None
    assert verdict.difference.mean > 0


def test_a_clearly_worse_version_is_kept_back(trained):
    weights, examples, _ = trained
    old = Committee(Ensemble(weights, TINY, device=CPU))
    hasty = [fit_member(examples, replace(TINY, steps=8), m, CPU)[0] for m in range(2)]
    assessment = replace(assess(hasty, TINY, examples, device=CPU), problems=())
    verdict = compare(old, assessment, examples, 0)
    assert not verdict.promote
    assert "clearly worse" in verdict.reason


def test_versions_of_two_resolutions_are_compared(trained, assessed):
    weights, examples, _ = trained
    old = Committee(Ensemble(weights, replace(TINY, max_side_px=44), device=CPU))  # half the size
    verdict = compare(old, assessed, examples, 0)
    assert verdict.promote
    assert verdict.difference is not None


def test_the_first_sane_version_is_promoted(trained, assessed):
    assert compare(None, assessed, trained.examples, 0).promote


def test_other_classes_are_not_compared(trained, assessed):
    weights, examples, _ = trained
    renamed = Committee(
        Ensemble(weights, replace(TINY, classes=("background", "x", "y")), device=CPU)
    )
    verdict = compare(renamed, assessed, examples, 0)
    assert verdict.promote
    assert verdict.difference is None
    assert "classes changed" in verdict.reason


def test_weights_that_are_not_finite_are_never_promoted(trained):
    weights, examples, _ = trained
    broken = {**weights[1], "head.bias": torch.full_like(weights[1]["head.bias"], torch.nan)}
    assessment = assess([weights[0], broken], TINY, examples, device=CPU)
    verdict = compare(None, assessment, examples, 0)
    assert not verdict.promote
    assert "member 1 holds weights that are not finite" in verdict.reason


def test_a_version_that_sees_one_class_everywhere_is_never_promoted(trained):
    weights, examples, _ = trained
    blind = [{**w, "head.bias": torch.tensor([99.0, 0, 0])} for w in weights]
    verdict = compare(None, assess(blind, TINY, examples, device=CPU), examples, 0)
    assert not verdict.promote
    assert "nothing but 'background'" in verdict.reason


def test_a_version_worse_than_seeing_only_background_is_never_promoted(trained):
    weights, examples, _ = trained
    turned = []
    for member in weights:
        head = {k: v[[1, 2, 0]] for k, v in member.items() if k.startswith("head.")}
        turned.append({**member, **head})
    verdict = compare(None, assess(turned, TINY, examples, device=CPU), examples, 0)
    assert not verdict.promote
    assert "background" in verdict.reason


def test_a_lone_member_says_that_it_was_measured_on_what_it_knows(trained):
    weights, examples, _ = trained
    lone = replace(TINY, members=1)
    found = assess(weights[:1], lone, examples, device=CPU)
    assert not found.metrics["out_of_fold"]
    assert found.metrics["temperature"] == 1.0
    # It has learnt the labels by heart, and contradicts none.
    assert "label_check" not in found.metrics
    assert found.predicted == {}


def test_a_class_that_nobody_shows_has_no_dice():
    example = disc_example("a", 0)
    mask = np.where(example.mask == 2, UNKNOWN, example.mask).astype(np.uint8)
    config = replace(TINY, classes=(*CLASSES, "never"), members=1)
    torch.manual_seed(0)
    weights = build_network(config).state_dict()
    weights["head.bias"] = torch.tensor([0.0, 9, -99, -99])
    metrics = assess([weights], config, [Example("a", example.image, mask)], device=CPU).metrics
    assert metrics["dice"]["never"] is None
