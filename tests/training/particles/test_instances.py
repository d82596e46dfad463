"""Particles of a mask, one by one."""

from __future__ import annotations

import numpy as np

from training.particles.instances import instances


def test_particles_are_8_connected_sets_of_one_class() -> None:
    mask = np.array([[1, 0, 2, 2], [0, 1, 2, 255], [0, 0, 0, 255], [3, 1, 0, 1]], np.uint8)
    found = instances(mask)
    assert found.classes.tolist() == [1, 1, 1, 2, 3]
    assert np.array_equal(found.numbers, [[1, 0, 4, 4], [0, 1, 4, 0], [0, 0, 0, 0], [5, 2, 0, 3]])


def test_small_ones_are_left_out() -> None:
    mask = np.array([[1, 0, 2, 2], [0, 0, 2, 0], [1, 1, 0, 0]], np.uint8)
    found = instances(mask, min_px=2)
    assert found.classes.tolist() == [1, 2]
    assert np.array_equal(found.numbers, [[0, 0, 2, 2], [0, 0, 2, 0], [1, 1, 0, 0]])


def test_an_empty_mask_has_none() -> None:
    found = instances(np.zeros((3, 4), np.uint8))
    assert found.classes.size == 0
    assert not found.numbers.any()
