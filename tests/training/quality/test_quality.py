import numpy as np
import pytest
import torch

from acquisition.masks import UNKNOWN
from training.quality.calibrate import expected_calibration_error
from training.quality.metrics import overlap
from training.quality.quality import Quality, draw_known

C = 3


def predicted_images(count, seed=0):
    """Truth [h, w] with unknown pixels, prediction and probabilities, each of its own size."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        h, w = rng.integers(4, 9, 2)
        truth = rng.integers(0, C, (h, w)).astype(np.uint8)
        truth[rng.random((h, w)) < 0.2] = UNKNOWN
        probs = rng.dirichlet(np.ones(C), (h, w)).transpose(2, 0, 1).astype(np.float32)
        yield truth, probs.argmax(axis=0).astype(np.uint8), probs


def test_of_all_known_pixels_it_is_the_overlap_and_the_calibration_of_all_images_in_one():
    quality = Quality(C, 10**6)
    pixels = []
    for truth, predicted, probs in predicted_images(4):
        quality.add(truth, predicted, probs)
        known = truth != UNKNOWN
        pixels += zip(truth[known], predicted[known], probs[:, known].T, strict=True)
    truths, seen, rows = (np.stack(each) for each in zip(*pixels, strict=True))
    np.testing.assert_array_equal(quality.overlap.iou(), overlap(truths, seen, C).iou())
    whole = expected_calibration_error(torch.from_numpy(rows), torch.from_numpy(truths).long())
    assert quality.ece() == pytest.approx(whole)


def test_the_same_pixels_are_drawn_whoever_predicts():
    one, other = Quality(C, 5), Quality(C, 5)
    for truth, predicted, probs in predicted_images(3):
        drawn = one.add(truth, predicted, probs)
        again = other.add(truth, np.zeros_like(predicted), probs[::-1])
        assert drawn.tolist() == again.tolist()
        assert len(drawn) == 5
    assert one.overlap.mean_iou() != other.overlap.mean_iou()


def test_only_known_pixels_are_drawn_and_none_twice():
    mask = np.full((6, 7), UNKNOWN, np.uint8)
    mask[1, 2:6] = 1
    rng = np.random.default_rng(0)
    assert sorted(draw_known(mask, 99, rng).tolist()) == [9, 10, 11, 12]
    assert len(set(draw_known(mask, 3, rng).tolist())) == 3
    assert draw_known(np.full((2, 2), UNKNOWN, np.uint8), 3, rng).size == 0


def test_masks_that_do_not_belong_together_are_refused():
    truth, predicted, probs = next(predicted_images(1))
    with pytest.raises(ValueError, match="differ in shape"):
        Quality(C, 5).add(truth[1:], predicted, probs)
