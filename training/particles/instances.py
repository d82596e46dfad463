"""From a class-index mask to its particles, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN


@dataclass(frozen=True)
class Instances:
    """The particles of one image.

    Attributes:
        numbers: [H, W] int32, each pixel's particle from 1; 0 where there is none.
        classes: [n] uint8, the class of each particle; particle 1 is the first.
    """

    numbers: NDArray[np.int32]
    classes: NDArray[np.uint8]


def instances(
    mask: NDArray[np.uint8],
    min_px: int = 1,
    *,
    confidence: NDArray[np.floating] | None = None,
    split: Mapping[int, float] = MappingProxyType({}),
) -> Instances:
    """The connected sets (8 neighbours) of pixels of one class, background and 255 left out.

    Args:
        mask: [H, W] class indices, 255 where unknown.
        min_px: connected sets of fewer pixels are left out.
        confidence: probability of the winning class, [H, W] or a smaller grid over the image;
            helps ``split``.
        split: classes whose touching particles are told apart (``split_touching``), each with the
            diameter of a typical particle in pixels of ``mask``.
    """
    numbers = np.zeros(mask.shape, np.int32)
    classes: list[int] = []
    for index in np.unique(mask).tolist():
        if index in (0, UNKNOWN):
            continue
        found = connected(mask == index)
        kept = np.bincount(found.ravel()) >= min_px
        kept[0] = False
        found = np.where(kept, np.cumsum(kept, dtype=np.int32), 0)[found]
        if index in split and found.any():
            # scikit-image takes a second to load.
            from training.particles.splitting import split_touching

            found = split_touching(found, split[index], confidence)
        numbers += np.where(found > 0, found + len(classes), 0)
        classes += [index] * int(found.max(initial=0))
    return Instances(numbers, np.array(classes, np.uint8))


def connected(inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    """[H, W] the number, from 1, of the connected set (8 neighbours) of each pixel; 0 outside."""
    _, numbers = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
    return np.asarray(numbers, np.int32)
