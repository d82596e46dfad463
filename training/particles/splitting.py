"""Particles of one class that touch, told apart by their shape and the committee's confidence."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN


def particle_sizes(masks: Iterable[NDArray[np.uint8]], classes: int) -> dict[int, float]:
    """The typical diameter, in pixels, of each class's particles in labelled masks.

    Args:
        masks: [H, W] class indices, 255 where unknown.
        classes: how many there are, background included.

    Returns:
        Class index to diameter; a class that no mask shows is left out.
    """
    from training.particles.instances import connected

    areas: dict[int, list[int]] = {}
    for mask in masks:
        for index in np.unique(mask).tolist():
            if index not in (0, UNKNOWN) and index < classes:
                found = np.bincount(connected(mask == index).ravel())[1:]
                areas.setdefault(index, []).extend(found.tolist())
    return {
        index: float(np.sqrt(4 / np.pi * np.median(each))) for index, each in sorted(areas.items())
    }


def split_touching(
    numbers: NDArray[np.int32], diameter_px: float, confidence: NDArray[np.floating] | None = None
) -> NDArray[np.int32]:
    """Connected sets of one class, those of several touching particles cut into these.

    Args:
        numbers: [H, W] the connected set of each pixel from 1, 0 outside.
        diameter_px: of a typical particle.
        confidence: the class's probability, [H, W] or a smaller grid over the image.

    Returns:
        [H, W] numbers from 1 without gaps, 0 where ``numbers`` is.
    """
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    import cv2

    depth = cv2.distanceTransform(
        (numbers > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    depth = cv2.GaussianBlur(depth, (0, 0), diameter_px / 10)
    peaks = peak_local_max(depth, min_distance=max(1, round(diameter_px / 3)), labels=numbers)
    markers = np.zeros(numbers.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-depth, markers, mask=numbers > 0), np.int32)
