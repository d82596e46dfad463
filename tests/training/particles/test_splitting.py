"""Particles that touch are told apart, and nothing else changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from training.particles.instances import Instances, connected, instances
from training.particles.sizes import depths, typical_diameters

Mask = NDArray[np.uint8]


def discs(*centres: tuple[int, int], radius: int = 15, side: int = 120) -> Mask:
    y, x = np.mgrid[:side, :side]
    inside = [(y - row) ** 2 + (x - column) ** 2 <= radius**2 for row, column in centres]
    return np.any(inside, axis=0).astype(np.uint8)


def noise(seed: int, classes: int = 3, side: int = 90) -> tuple[Mask, NDArray[np.float32]]:
    """Blots of some classes and of 255, many of which touch, and a confidence."""
    rng = np.random.default_rng(seed)
    fields = [
        cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), 3) for _ in range(classes)
    ]
    mask = np.argmax(fields, axis=0).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.01] = 255
    return mask, rng.uniform(1 / classes, 1, mask.shape).astype(np.float32)


def split(
    mask: Mask, diameter_px: float, confidence: NDArray[np.float32] | None = None
) -> Instances:
    every = dict.fromkeys(range(1, 255), diameter_px)
    return instances(mask, confidence=confidence, split=every)


@pytest.mark.parametrize("side", [7, 90, 700])
def test_depths_are_exact(side: int) -> None:
    inside = noise(1, side=side)[0] == 1
    exact = distance_transform_edt(inside).astype(np.float32)
    assert np.array_equal(depths(inside), exact)


@pytest.mark.parametrize("diameter_px", [2.0, 10.0, 40.0])
@pytest.mark.parametrize("seed", range(4))
def test_parts_are_connected_and_cover_each_class_as_before(seed: int, diameter_px: float) -> None:
    mask, confidence = noise(seed)
    found = split(mask, diameter_px, confidence if seed % 2 else None)
    labelled = (mask != 0) & (mask != 255)
    assert np.array_equal(found.numbers > 0, labelled)
    assert np.array_equal(found.classes[found.numbers[labelled] - 1], mask[labelled])
    for number in range(1, len(found.classes) + 1):
        assert connected(found.numbers == number).max() == 1
    again = split(mask, diameter_px, confidence if seed % 2 else None)
    assert np.array_equal(again.numbers, found.numbers)


def test_a_class_that_is_not_asked_for_stays_whole() -> None:
    mask, _ = noise(0)
    whole, found = instances(mask), instances(mask, split={2: 8.0})
    assert (found.classes == 1).sum() == (whole.classes == 1).sum()
    assert (found.classes == 2).sum() > (whole.classes == 2).sum()


@pytest.mark.parametrize("radius", [1, 2, 5, 15, 50])
@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_a_lone_disc_is_never_split(radius: int, share: float) -> None:
    mask = discs((60, 57), radius=radius)
    assert len(split(mask, 2 * radius * share).classes) == 1


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("second", [(40, 64), (58, 58), (68, 40)])
def test_overlapping_discs_are_two_at_every_scale(second: tuple[int, int], factor: int) -> None:
    mask = discs((40, 40), second).repeat(factor, axis=0).repeat(factor, axis=1)
    found = split(mask, 30.0 * factor)
    assert len(found.classes) == 2
    (row, column), at = second, factor
    assert found.numbers[40 * at, 40 * at] != found.numbers[row * at, column * at]
    areas = np.bincount(found.numbers.ravel())[1:]
    assert areas.min() > 0.95 * areas.max()


def test_what_the_image_cuts_in_half_is_one() -> None:
    mask = discs((0, 30), (60, 119), (119, 0))
    assert len(split(mask, 30.0).classes) == 3


def test_confidence_tells_apart_what_the_outline_does_not() -> None:
    mask = np.zeros((60, 120), np.uint8)
    mask[20:40, 10:110] = 1
    sure = np.ones(mask.shape, np.float32)
    assert len(split(mask, 20.0, sure).classes) == 1
    sure[:, 55:65] = 0.5
    assert len(split(mask, 20.0, sure).classes) == 2
    # A smaller grid over the image does as well.
    assert len(split(mask, 20.0, sure[::5, ::5]).classes) == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 60)])
def test_a_single_pixel_and_a_full_image_are_one_particle(shape: tuple[int, int]) -> None:
    full = np.ones(shape, np.uint8)
    assert split(full, 8.0).classes.tolist() == [1]
    dot = np.zeros((9, 9), np.uint8)
    dot[4, 4] = 1
    assert split(dot, 8.0).classes.tolist() == [1]
    assert split(np.full(shape, 255, np.uint8), 8.0).classes.tolist() == []


def test_small_sets_are_left_out_and_no_set_loses_a_part() -> None:
    mask = discs((40, 40), (40, 64))
    assert len(instances(mask, 500, split={1: 30.0}).classes) == 2
    assert len(instances(mask, 800, split={1: 30.0}).classes) == 2
    assert len(instances(mask, 5000, split={1: 30.0}).classes) == 0


def test_a_full_and_noisy_image_has_a_bounded_number_of_parts() -> None:
    rng = np.random.default_rng(0)
    mask = (rng.random((300, 300)) < 0.7).astype(np.uint8)
    confidence = rng.uniform(0.5, 1, mask.shape).astype(np.float32)
    assert len(split(mask, 20.0, confidence).classes) < 90_000 / 20


def test_the_typical_diameter_is_the_median_of_the_largest_circles() -> None:
    lone, pair = discs((60, 60), radius=10), discs((60, 40), (60, 60), radius=12)
    large = discs((60, 60), radius=40)
    found = typical_diameters([lone, pair * 2, pair, large, lone * 0 + 255])
    assert found == {1: pytest.approx(24, abs=1), 2: pytest.approx(24, abs=1)}
    assert typical_diameters([np.zeros((4, 4), np.uint8)]) == {}
