"""Images that are likely of no use: out of focus, or of one brightness.

A microscope has its own contrast and its own sharpness, so an image is judged beside the others of
its pool. What is found only goes last in the queue; nothing is left out for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from training.images import shrink
from training.pixels import Image8

SIDE_PX = 512
"""Long side that is looked at: all of a large image would take longer, and noise would count."""

BLUR_PX = 11
"""Of the blur that tells, as its source has it."""

FEWEST = 20
"""Images without which there is no usual sharpness."""

FAR = 3.5
"""An image is blurred whose sharpness (its logarithm) differs from the others' by so many of their
usual distances, and"""

LEAST_DIFFERENCE = 0.35
"""by so much at least, as all may be much alike: a Gaussian of some 3 px on sharp images."""

BLANK_LEVELS = 6.0
"""Grey levels of 255 between an image's darkest and brightest per mille: an image below is of one
brightness, as a shut or a saturated camera gives it."""

MOST_SHARE = 0.1
"""Where more of the images would be of no use, this is how the microscope sees: none is."""


@dataclass(frozen=True)
class Focus:
    """How an image was taken.

    Attributes:
        sharpness: how much of the differences between neighbours a blur takes away, 0 to 1: little
            of one that is blurred already.
        contrast: between the darkest and the brightest per mille of the pixels, 0 to 255.
    """

    sharpness: float
    contrast: float


def focus_of(image: Image8) -> Focus:
    """Of an image [H, W, channels]: its brightest channel counts.

    Source of the sharpness: Crete et al. 2007, "The blur effect", less its perception's scale.
    """
    grey = shrink(image, SIDE_PX).max(axis=2).astype(np.float32)
    low, high = np.percentile(grey, (0.1, 99.9))
    # Noise of single pixels differs as well, and tells nothing of the focus.
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    return Focus(min(_sharpness(smooth), _sharpness(smooth.T)), float(high - low))


def _sharpness(grey: NDArray[np.float32]) -> float:
    """Along the columns of [h, w]."""
    before = np.abs(np.diff(grey, axis=0))
    after = np.abs(np.diff(cv2.blur(grey, (1, BLUR_PX)), axis=0))
    return float(np.maximum(before - after, 0).sum() / max(before.sum(), 1.0))


def unusable(found: Mapping[int, Focus]) -> dict[int, str]:
    """Which of a pool's images are likely of no use: "blank" or "blurred".

    Args:
        found: by task id.
    """
    blank = [key for key, each in found.items() if each.contrast < BLANK_LEVELS]
    sharp = {key: float(np.log(max(each.sharpness, 1e-6))) for key, each in found.items()}
    blurred: list[int] = []
    if len(found) >= FEWEST:
        usual = median(sharp.values())
        spread = 1.4826 * median(abs(value - usual) for value in sharp.values())
        least = usual - max(FAR * spread, LEAST_DIFFERENCE)
        blurred = [key for key, value in sharp.items() if value < least and key not in blank]
    rare = [
        (keys, why)
        for keys, why in ((blank, "blank"), (blurred, "blurred"))
        if len(keys) <= MOST_SHARE * len(found)
    ]
    return {key: why for keys, why in rare for key in keys}
