"""Particles: how they are counted, and which are found."""

import numpy as np
import pytest
from scipy.ndimage import label

from training.particles.matching import Particles, count_particles, particles


def test_particles_are_counted_class_by_class():
    mask = np.zeros((9, 9), np.uint8)
    mask[0:2, 0:2] = 1
    mask[2:4, 2:4] = 1  # touches by a corner: one with the first
    mask[2:4, 4:6] = 2  # beside it, another class
    mask[7:, 7:] = 255
    assert count_particles(mask) == 2


def by_hand():
    """Three particles of class 1: two thirds of the first are predicted, half of the second, and
    the third as class 2. Of class 1 a fourth is predicted where there is none."""
    truth = np.zeros((7, 9), np.uint8)
    truth[0, 0:3] = truth[2, 0:4] = truth[4, 0:3] = 1
    predicted = np.zeros_like(truth)
    predicted[0, 0:2] = predicted[2, 0:2] = predicted[6, 8] = 1
    predicted[4, 0:3] = 2
    return truth, predicted


def test_a_particle_is_found_by_one_that_is_more_than_half_the_same():
    found = particles(*by_hand(), classes=4)
    assert found.truth.tolist() == [0, 3, 0, 0]
    assert found.predicted.tolist() == [0, 3, 1, 0]
    assert found.found.tolist() == [0, 1, 0, 0]
    assert found.recall() == [None, pytest.approx(1 / 3), None, None]
    assert found.precision() == [None, pytest.approx(1 / 3), 0, None]


def test_what_is_predicted_where_nothing_is_known_does_not_count():
    truth, predicted = by_hand()
    truth[6, 8] = 255
    assert particles(truth, predicted, 4).predicted.tolist() == [0, 2, 1, 0]


def slow(truth, predicted, classes):
    known = np.where(truth == 255, 0, predicted)
    counts = np.zeros((3, classes), int)
    for c in range(1, classes):
        true, true_count = label(truth == c, np.ones((3, 3)))
        ours, count = label(known == c, np.ones((3, 3)))
        found = 0
        for i in range(1, true_count + 1):
            for j in range(1, count + 1):
                shared = ((true == i) & (ours == j)).sum()
                found += shared / ((true == i) | (ours == j)).sum() > 0.5
        counts[:, c] = true_count, count, found
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_the_counts_agree_with_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.repeat(rng.choice([0, 0, 0, 1, 2, 255], (8, 11)), 2, 0), 2, 1)
    predicted = np.where(rng.random(truth.shape) < 0.2, 0, np.minimum(truth, 2))
    found = particles(truth.astype(np.uint8), predicted.astype(np.uint8), 3)
    assert 0 < found.found.sum() < found.truth.sum()
    np.testing.assert_array_equal(
        [found.truth, found.predicted, found.found], slow(truth, predicted, 3)
    )


def test_images_add_up():
    one = particles(*by_hand(), classes=4)
    both = Particles.none(4) + one + one
    assert both.truth.tolist() == [0, 6, 0, 0]
    assert both.recall() == one.recall()


def test_masks_of_two_shapes_are_refused():
    truth, predicted = by_hand()
    with pytest.raises(ValueError, match="differ in shape"):
        particles(truth, predicted[1:], 4)
