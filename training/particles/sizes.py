"""How large the particles of each class are, measured in masks."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from training.particles.instances import connected


def typical_diameters(masks: Iterable[NDArray[np.uint8]]) -> dict[int, float]:
    """The diameter of each class's particles, in pixels: the median of the largest circles that
    lie within them.

    A connected set of several touching particles counts once, and its largest circle is that of
    one of them: so masks of whole classes measure it too. Of a long thin particle it is the width.

    Args:
        masks: [H, W] class indices, 255 where unknown.

    Returns:
        Class index to diameter, of the classes that the masks show.
    """
    radii: dict[int, list[float]] = {}
    for mask in masks:
        for index in np.unique(mask).tolist():
            if index not in (0, UNKNOWN):
                numbers = connected(mask == index)
                inside = numbers > 0
                deepest = np.zeros(int(numbers.max()) + 1, np.float32)
                np.maximum.at(deepest, numbers[inside], depths(inside)[inside])
                radii.setdefault(index, []).extend(deepest[1:].tolist())
    return {index: 2 * float(np.median(each)) for index, each in sorted(radii.items())}


def depths(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[H, W] pixels from each to the nearest one outside.

    The image's edge is no outline: what it cuts goes on beyond. Only where nothing lies outside is
    there no other.
    """
    edge = int(inside.all())
    image = np.pad(inside, edge).astype(np.uint8)
    depth = cv2.distanceTransform(image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth = depth[edge:, edge:][: inside.shape[0], : inside.shape[1]]
    # OpenCV rounds differently from call to call; squares of distances between pixels are integers.
    return np.asarray(np.sqrt(np.rint(depth.astype(np.float64) ** 2)), np.float32)
