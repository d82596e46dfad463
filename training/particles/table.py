"""A row for each particle of an image: its size, shape, place, brightness and probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.particles.instances import Instances

SHAPE = (
    *("label", "area", "equivalent_diameter_area", "bbox", "centroid"),
    *("eccentricity", "solidity", "intensity_mean"),
)
"""Of scikit-image's ``regionprops``, where each is defined."""

STRIP_PX = 1 << 20
"""Pixels whose values are added up at once."""

Columns = dict[str, NDArray[Any]]


def particle_table(
    found: Instances,
    image: NDArray[np.uint8],
    confidence: NDArray[np.float32],
    uncertainty: NDArray[np.float32],
    classes: Sequence[str],
    pixel_um: tuple[float, float] | None = None,
) -> Columns:
    """The columns of an image's particles, named as by ``skimage.measure.regionprops_table``.

    Beside ``SHAPE``, lengths in pixels: ``class`` by name; ``touches_border``, where the bounding
    box reaches the image's edge; ``probability`` and ``uncertainty``, the means over the particle;
    with ``pixel_um`` also ``area_um2`` and ``equivalent_diameter_area_um``.

    Args:
        image: [H, W, 3] uint8.
        confidence: [H, W] the probability of the class.
        uncertainty: [H, W] nats.
        classes: names by index.
        pixel_um: width and height of a pixel.

    Returns:
        Column to values [n], particle 1 first.
    """
    from skimage.measure import regionprops_table

    numbers = found.numbers
    columns: Columns = regionprops_table(numbers, image, properties=SHAPE)
    H, W = numbers.shape
    top, left, bottom, right = (columns[f"bbox-{i}"] for i in range(4))
    columns["class"] = np.array([classes[index] for index in found.classes.tolist()], object)
    columns["touches_border"] = (top == 0) | (left == 0) | (bottom == H) | (right == W)
    columns["probability"] = _means(numbers, confidence, columns["area"])
    columns["uncertainty"] = _means(numbers, uncertainty, columns["area"])
    if pixel_um is not None:
        area_um2 = columns["area"] * pixel_um[0] * pixel_um[1]
        columns["area_um2"] = area_um2
        columns["equivalent_diameter_area_um"] = np.sqrt(4 * area_um2 / np.pi)
    return columns


def _means(
    numbers: NDArray[np.int32], values: NDArray[np.float32], areas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[n] of the values over each particle's pixels, by strips: sums are in double precision."""
    sums = np.zeros(len(areas) + 1)
    step = max(1, STRIP_PX // numbers.shape[1])
    for top in range(0, len(numbers), step):
        rows = slice(top, top + step)
        sums += np.bincount(numbers[rows].ravel(), values[rows].ravel(), len(sums))
    means: NDArray[np.float64] = sums[1:] / areas
    return means
