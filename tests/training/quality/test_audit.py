from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from training.config import TrainConfig
from training.quality.audit import (
    EARLIER_ROUNDS,
    FEWEST_AUDITS,
    FEWEST_CHANCE,
    Interval,
    Scored,
    estimate,
    gain_by_chance,
    gain_on_audits,
    like_training,
    longer_training,
    recipe_digest,
)
from training.quality.metrics import Overlap

CLASSES = ("background", "cell", "crystal")


def saw(cell_shared, cell_truth, cell_predicted, crystal=(0, 0, 0)):
    """What a version saw of one image of 100 pixels."""
    columns = np.array([(50, 100, 100), (cell_shared, cell_truth, cell_predicted), crystal])
    shared, truth, predicted = columns.T
    return Overlap(shared, truth, predicted)


def test_without_an_audit_nothing_is_claimed():
    assert estimate({}, CLASSES, seed=0) is None


def test_one_audit_has_a_value_and_no_interval():
    found = estimate({"1": saw(5, 10, 10)}, CLASSES, seed=0)
    assert found.dice == Interval(0.5, None, None)
    assert found.per_class["cell"] == Interval(0.5, None, None)
    assert found.per_class["crystal"] is None


def test_the_estimate_is_the_mean_over_images_with_student_s_interval():
    found = estimate({"1": saw(5, 10, 10), "2": saw(9, 10, 10), "3": saw(7, 10, 10)}, CLASSES, 0)
    half = student.ppf(0.975, 2) * 0.2 / 3**0.5
    assert found.dice.value == pytest.approx(0.7)
    assert (found.dice.low, found.dice.high) == (
        pytest.approx(0.7 - half),
        pytest.approx(min(1, 0.7 + half)),
    )
    assert found.scores == {"1": 0.5, "2": 0.9, "3": pytest.approx(0.7)}


def test_a_class_that_is_never_hit_is_not_known_for_certain():
    found = estimate({str(i): saw(5, 10, 10, crystal=(0, 9, 1)) for i in range(3)}, CLASSES, 0)
    assert found.per_class["crystal"] == Interval(0.0, None, None)


def test_a_class_is_measured_over_the_pixels_of_all_images():
    found = estimate({"1": saw(1, 10, 10), "2": saw(90, 100, 90)}, CLASSES, seed=0)
    cell = found.per_class["cell"]
    assert cell.value == pytest.approx(2 * 91 / (20 + 190))
    assert cell.low == pytest.approx(2 * 1 / 20)
    assert cell.high == pytest.approx(2 * 90 / 190)


def test_the_interval_of_the_mean_holds_the_truth_in_nineteen_of_twenty():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        shared = rng.binomial(100, rng.beta(6, 2, size=12))
        overlaps = {str(i): saw(int(s), 100, 100) for i, s in enumerate(shared)}
        found = estimate(overlaps, CLASSES, seed=0).dice
        held += found.low <= 6 / 8 <= found.high
    assert 0.91 <= held / 400 <= 0.98


@given(st.lists(st.integers(0, 20), min_size=2, max_size=12))
def test_intervals_hold_their_value_and_stay_between_0_and_1(shared):
    found = estimate({str(i): saw(s, 20, 20) for i, s in enumerate(shared)}, CLASSES, seed=1)
    for interval in (found.dice, found.per_class["cell"]):
        if len(set(shared)) == 1:
            assert (interval.low, interval.high) == (None, None)
            continue
        assert 0 <= interval.low <= interval.value + 1e-12
        assert interval.value - 1e-12 <= interval.high <= 1


def history(*levels, audits=FEWEST_AUDITS, chance=0, step=10):
    """Versions whose images reach these levels, give or take what each image is like."""
    versions = []
    for number, level in enumerate(levels):
        spread = np.random.default_rng(number).normal(0, 0.01, audits + chance)
        scores = [float(level + each) for each in spread]
        versions.append(
            Scored(
                number + 1,
                number,
                step * (number + 1),
                {f"a{i}": score for i, score in enumerate(scores[:audits])},
                {f"c{i}": score for i, score in enumerate(scores[audits:])},
                {f"o{i}": score for i, score in enumerate(scores)},
                {f"{kind}{i}": "truth" for kind in "ac" for i in range(audits + chance)},
                "recipe",
                300,
            )
        )
    return versions


def test_no_advice_before_thirty_audits_or_enough_versions():
    level = [0.7] * (EARLIER_ROUNDS + 1)
    assert gain_on_audits(history(*level, audits=FEWEST_AUDITS - 1), seed=0) is None
    assert gain_on_audits(history(*level[1:]), seed=0) is None
    assert gain_on_audits([], seed=0) is None


def test_only_images_that_both_versions_were_measured_on_count():
    versions = history(0.7, 0.7, 0.7, 0.7)
    early = versions[0]
    few = dict(list(early.audits.items())[:-1])
    assert gain_on_audits([replace(early, audits=few), *versions[1:]], seed=0) is None


def test_an_image_whose_truth_was_edited_is_measured_on_something_else():
    versions = history(0.7, 0.7, 0.7, 0.7)
    edited = {**versions[0].truths, "a3": "as it was before"}
    assert gain_on_audits([replace(versions[0], truths=edited), *versions[1:]], seed=0) is None
    assert gain_on_audits(versions, seed=0) is not None
    # What an earlier release measured, it did not say against what.
    untold = replace(versions[-1], truths={})
    assert gain_on_audits([*versions[:-1], untold], seed=0) is None


def test_versions_of_another_recipe_are_no_measure_of_labels():
    falling = history(0.9, 0.7, 0.69, 0.68, 0.67, audits=0, chance=FEWEST_CHANCE)
    bigger = [replace(falling[0], recipe="more members"), *falling[1:]]
    assert gain_by_chance(bigger[:4], seed=0) is None
    found = gain_by_chance(bigger, seed=0)
    assert (found.since, found.labels) == (2, 30)
    old_release = [replace(each, recipe="") for each in falling]
    assert gain_by_chance(old_release, seed=0) is None


def test_a_recipe_is_all_but_what_is_taught_and_chance():
    config = TrainConfig(CLASSES)
    same = replace(config, classes=CLASSES[:2], seed=3, steps=7, threads=2)
    assert recipe_digest(same) == recipe_digest(config)
    for other in (replace(config, members=3), replace(config, max_side_px=512)):
        assert recipe_digest(other) != recipe_digest(config)


def test_trainings_are_alike_by_their_recipe_and_about_their_steps():
    one = history(0.7)[0]
    assert like_training(one, replace(one, steps=375))
    assert like_training(replace(one, steps=240), one)
    assert not like_training(one, replace(one, steps=376))
    assert not like_training(one, replace(one, recipe="more members"))
    untold = replace(one, recipe="", steps=0)  # by an earlier release
    assert not like_training(untold, untold)


def test_a_version_of_longer_training_is_no_measure_of_labels():
    falling = history(0.9, 0.7, 0.69, 0.68, 0.67, audits=0, chance=FEWEST_CHANCE)
    longer = [replace(falling[0], steps=900), *falling[1:]]
    assert gain_by_chance(longer[:4], seed=0) is None
    assert gain_by_chance(longer, seed=0).since == 2
    flat = history(0.7, 0.7, 0.7, 0.7)
    assert gain_on_audits([replace(flat[0], steps=900), *flat[1:]], seed=0) is None
    assert gain_on_audits([replace(flat[0], steps=330), *flat[1:]], seed=0) is not None


def test_rounds_are_counted_and_neither_version_numbers_nor_versions_that_served():
    first, second = history(0.7, 0.7)
    # Numbers of rounds that failed are missing; rounds whose version was kept are counted.
    assert gain_on_audits([first, replace(second, version=9, round=2)], seed=0) is None
    assert gain_on_audits([first, replace(second, version=4, round=3)], seed=0) is not None


def test_longer_training_from_no_more_labels_that_was_better_is_found():
    longer, last = history(0.73, 0.7)
    longer = replace(longer, steps=600)
    found = longer_training([longer, last])
    assert (found.version, found.steps, found.pairs) == (1, 600, FEWEST_AUDITS)
    assert found.mean == pytest.approx(0.03, abs=0.01)
    assert found.standard_error == pytest.approx(0.01 * (2 / FEWEST_AUDITS) ** 0.5, rel=0.5)


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 370},  # about as long
        {"steps": 200},
        {"recipe": "more members"},
        {"labelled": 23},  # 20 taught the last one
        {"out_of_fold": {}},  # a lone member
    ],
)
def test_another_version_that_was_better_says_nothing_of_training(changed):
    better, last = history(0.73, 0.7)
    better = replace(better, steps=600, labelled=22)
    assert longer_training([better, last]) is not None
    assert longer_training([replace(better, **changed), last]) is None


def test_longer_training_that_was_no_better_says_nothing():
    worse, last = history(0.69, 0.7)
    assert longer_training([replace(worse, steps=600), last]) is None
    assert longer_training([last]) is None
    assert longer_training([]) is None


def test_without_new_labels_nothing_is_owed_to_labels():
    versions = history(0.9, 0.8, 0.7, 0.6, audits=0, chance=FEWEST_CHANCE)
    same = [replace(each, labelled=10) for each in versions]
    assert gain_by_chance(same, seed=0) is None
    fewer = [*versions[:-1], replace(versions[-1], labelled=5)]
    assert gain_by_chance(fewer, seed=0) is None


def test_rounds_without_new_labels_are_looked_back_over():
    first, *pressed = history(*[0.7] * 6)
    found = gain_on_audits([first, *(replace(each, labelled=20) for each in pressed)], seed=0)
    assert (found.since, found.labels) == (1, 10)


def test_labels_that_still_pay_are_told_from_those_that_do_not():
    rising = gain_on_audits(history(0.6, 0.63, 0.66, 0.69), seed=0)
    assert rising.pays
    assert not rising.harms
    assert rising.labels == 30
    assert rising.since == 1
    assert rising.difference.mean == pytest.approx(0.09, abs=0.01)
    flat = gain_on_audits(history(0.7, 0.7, 0.7, 0.7), seed=0)
    assert not flat.pays
    assert flat.difference.pairs == FEWEST_AUDITS


def test_an_uncertain_gain_still_pays():
    versions = history(0.7, 0.7, 0.7, 0.7)
    rng = np.random.default_rng(1)
    noisy = {key: score + rng.normal(0, 0.2) for key, score in versions[-1].audits.items()}
    assert gain_on_audits([*versions[:-1], replace(versions[-1], audits=noisy)], seed=0).pays


def test_harm_is_seen_on_images_that_chance_chose_and_only_when_it_is_sure():
    assert gain_by_chance(history(0.7, 0.7, 0.7, 0.7, audits=0, chance=14), seed=0) is None
    falling = history(0.7, 0.68, 0.66, 0.64, audits=3, chance=FEWEST_CHANCE - 3)
    assert gain_by_chance(falling, seed=0).harms
    assert not gain_by_chance(history(0.7, 0.7, 0.7, 0.7, audits=0, chance=15), seed=0).harms


def test_what_chance_brings_about_once_in_a_hundred_rounds_is_no_harm_yet():
    versions = history(0.7, 0.7, 0.7, 0.7, audits=0, chance=40)
    spread = np.random.default_rng(5).normal(0, 1, 40)
    spread = (spread - spread.mean()) / spread.std(ddof=1)
    for errors, harms in ((2.3, False), (3.5, True)):  # the mean lies so many of its own below 0
        changes = 0.05 * (spread - errors / 40**0.5)
        after = {
            key: versions[0].chance[key] + float(change)
            for key, change in zip(versions[0].chance, changes, strict=True)
        }
        found = gain_by_chance([*versions[:-1], replace(versions[-1], chance=after)], seed=0)
        assert found.difference.high < 0
        assert found.harms == harms
