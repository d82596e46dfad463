import math

import numpy as np
import pytest

from acquisition.masks import UNKNOWN
from training.quality.metrics import Overlap, auroc, overlap, paired_bootstrap

TRUTH = np.array([[0, 0, 1, 1], [2, 2, 2, UNKNOWN]], np.uint8)
SEEN = np.array([[0, 1, 1, 0], [2, 2, 0, 2]], np.uint8)


def test_dice_and_iou_by_hand():
    counts = overlap(TRUTH, SEEN, 4)
    np.testing.assert_allclose(counts.dice(), [2 / 5, 2 / 4, 4 / 5, math.nan])
    np.testing.assert_allclose(counts.iou(), [1 / 4, 1 / 3, 2 / 3, math.nan])
    assert counts.foreground_dice() == pytest.approx((0.5 + 0.8) / 2)


def test_overlaps_of_images_add_up_to_the_overlap_of_all():
    whole = overlap(TRUTH, SEEN, 3)
    parts = overlap(TRUTH[:1], SEEN[:1], 3) + overlap(TRUTH[1:], SEEN[1:], 3)
    np.testing.assert_array_equal(whole.dice(), parts.dice())


def test_nothing_is_added_by_the_overlap_of_no_image():
    counts = overlap(TRUTH, SEEN, 3)
    np.testing.assert_array_equal((Overlap.none(3) + counts).iou(), counts.iou())
    assert np.isnan(Overlap.none(3).iou()).all()


def test_mean_iou_is_over_the_foreground_that_the_truth_shows():
    seen = np.where(SEEN == 0, 3, SEEN).astype(np.uint8)  # class 3 is an invention
    counts = overlap(TRUTH, seen, 4)
    assert counts.mean_iou() == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert counts.where_shown(counts.iou()) == pytest.approx([0, 1 / 3, 2 / 3, None])
    assert math.isnan(overlap(np.zeros_like(SEEN), SEEN, 4).mean_iou())


def test_dice_agrees_with_a_slow_count():
    rng = np.random.default_rng(0)
    truth, seen = rng.integers(0, 5, (2, 13, 17)).astype(np.uint8)
    for c in range(5):
        both = sum(t == c == s for t, s in zip(truth.flat, seen.flat, strict=True))
        expected = 2 * both / ((truth == c).sum() + (seen == c).sum())
        assert overlap(truth, seen, 5).dice()[c] == pytest.approx(expected)


def test_an_empty_image_seen_as_empty_scores_one_and_an_invention_zero():
    empty = np.zeros((4, 4), np.uint8)
    assert overlap(empty, empty, 2).foreground_dice() == 1
    assert overlap(empty, np.eye(4, dtype=np.uint8), 2).foreground_dice() == 0


def test_a_class_index_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match="class index 2"):
        overlap(TRUTH, SEEN, 2)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        overlap(TRUTH, SEEN[:1], 3)


def test_the_bootstrap_sees_a_clear_loss():
    rng = np.random.default_rng(0)
    old = rng.uniform(0.6, 0.9, 30)
    difference = paired_bootstrap(old.tolist(), (old - rng.uniform(0.03, 0.07, 30)).tolist(), 0)
    assert difference.p_worse == 0
    assert difference.low < -0.05 < difference.high < 0
    assert difference.pairs == 30


def test_the_bootstrap_finds_nothing_in_equal_scores():
    difference = paired_bootstrap([0.5, 0.7], [0.5, 0.7], 0)
    assert (difference.mean, difference.p_worse) == (0, 1)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        sample = rng.normal(0.1, 0.2, 40)
        found = paired_bootstrap([0.0] * 40, sample.tolist(), trial, resamples=400)
        held += found.low <= 0.1 <= found.high
    assert 0.89 < held / 200 < 0.99


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0])])
def test_scores_that_are_no_pairs_are_refused(first, second):
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap(first, second, 0)


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap([1.0], [math.nan], 0)


def test_auroc_is_the_share_of_pairs_in_order():
    scores = np.array([0.1, 0.4, 0.35, 0.8, 0.4])
    positive = np.array([False, False, True, True, True])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))


def test_auroc_of_one_kind_alone_is_not_a_number():
    assert np.isnan(auroc(np.array([1.0, 2.0]), np.array([True, True])))
    with pytest.raises(ValueError, match=r"two \[P\]"):
        auroc(np.zeros(3), np.zeros(2, bool))
