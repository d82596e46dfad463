"""A picture with the classes of a mask laid over it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.colours import class_colour, rgb
from training.pixels import Image8

VEIL = 0.45
"""How much of a class's colour covers the image; its outline is drawn in full."""


def as_rgb(image: Image8) -> Image8:
    """[h, w, 3] of any number of channels: the first three, or the first as grey."""
    if image.shape[2] >= 3:
        return np.ascontiguousarray(image[..., :3])
    return np.repeat(image[..., :1], 3, axis=2)


def overlay(picture: Image8, mask: NDArray[np.uint8]) -> Image8:
    """The picture [h, w, 3] with each class of the mask [h, w] in its colour, outlined."""
    palette = np.array([colour_of(index) for index in range(256)], np.uint8)
    painted = palette[mask]
    veil = np.where((mask == 0)[..., None], 0.0, VEIL)
    covered = picture * (1 - veil) + painted * veil
    outline = _outline(mask)
    covered[outline] = painted[outline]
    painted_over: Image8 = covered.astype(np.uint8)
    return painted_over


def _outline(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Foreground pixels beside another class."""
    lowest = cv2.erode(mask, np.ones((3, 3), np.uint8))
    highest = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    edges: NDArray[np.bool_] = (lowest != highest) & (mask != 0)
    return edges


def colour_of(index: int) -> tuple[int, int, int]:
    """Red, green and blue of a class index; background's are not drawn."""
    return rgb(class_colour(index))
