"""Examples: labelled images at the network's resolution."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from training.images import nearest, network_size, shrink
from training.pixels import Image8


@dataclass(frozen=True)
class Example:
    """A labelled image at the network's resolution.

    Attributes:
        key: names the labelled thing for good; it decides the fold.
        image: [h, w, channels] uint8; RGB from Label Studio.
        mask: [h, w] uint8 class indices; 255 where nothing is known.
    """

    key: str
    image: Image8
    mask: Image8

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"an example's image must be [h, w, channels] uint8, "
                f"got {self.image.shape} {self.image.dtype}"
            )
        if self.mask.shape != self.image.shape[:2] or self.mask.dtype != np.uint8:
            raise ValueError(
                f"an example's mask must be {self.image.shape[:2]} uint8, "
                f"got {self.mask.shape} {self.mask.dtype}"
            )


def make_example(key: str, image: Image8, mask: Image8, max_side_px: int) -> Example:
    """Shrink an image [H, W, channels] and its mask [H, W] to the network's resolution.

    Raises:
        ValueError: the two do not belong together.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image {image.shape} and mask {mask.shape} differ in size")
    height, width = network_size(mask.shape[0], mask.shape[1], max_side_px)
    return Example(key, shrink(image, max_side_px), nearest(mask, height, width))


def images_showing(masks: Iterable[Image8], classes: int) -> NDArray[np.int64]:
    """[C] how many of the masks [h, w] of class indices show each class."""
    counts = np.zeros(classes, np.int64)
    for mask in masks:
        shown = np.unique(mask)
        counts[shown[shown != UNKNOWN]] += 1
    return counts


def image_digest(image: Image8) -> str:
    """A name for an image by its pixels at the network's resolution: 32 hexadecimal digits.

    The same picture has another name where ``max_side_px`` shrinks it otherwise, or other channels
    were chosen.
    """
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]
