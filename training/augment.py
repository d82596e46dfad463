"""Augmentation: the random crops that a member learns from.

By hand, since the libraries know no unknown pixels and no crops that seek a class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from training.config import TrainConfig
from training.examples import Example
from training.images import by_four
from training.pixels import Image8

SEEK_PX = 4096
"""Places kept per image and class for crops to seek; enough that none is met twice."""


@dataclass
class CropSource:
    """Draws augmented crops in which rare classes are as frequent as common ones.

    Attributes:
        examples: what a member trains on.
        config: sizes and strengths.
        places: class -> for each example that shows it: its index and [P, 2] rows and columns.
    """

    examples: Sequence[Example]
    config: TrainConfig
    places: Mapping[int, list[tuple[int, NDArray[np.int32]]]] = field(init=False)

    def __post_init__(self) -> None:
        self.places = _find_places(self.examples, self.config)

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], Image8]:
        """A crop [channels, crop_px, crop_px] in [0, 1] and its mask [crop_px, crop_px]."""
        index, centre = self._aim(rng)
        image, mask = cut(self.examples[index], centre, self.config, rng)
        return recolour(image, self.config, rng).transpose(2, 0, 1), mask

    def _aim(self, rng: np.random.Generator) -> tuple[int, tuple[float, float]]:
        """An example and the row and column of the crop's centre."""
        if self.places and rng.random() < self.config.seek:
            class_index = list(self.places)[rng.integers(len(self.places))]
            shown_in = self.places[class_index]
            index, spots = shown_in[rng.integers(len(shown_in))]
            row, column = spots[rng.integers(len(spots))]
            # Off centre, or the network would learn that particles are in the middle.
            shift = rng.uniform(-0.4, 0.4, 2) * self.config.crop_px
            return index, (row + shift[0], column + shift[1])
        index = int(rng.integers(len(self.examples)))
        height, width = self.examples[index].mask.shape
        return index, (rng.uniform(0, height), rng.uniform(0, width))


def _find_places(
    examples: Sequence[Example], config: TrainConfig
) -> dict[int, list[tuple[int, NDArray[np.int32]]]]:
    rng = np.random.default_rng(config.seed)
    places: dict[int, list[tuple[int, NDArray[np.int32]]]] = {}
    for index, example in enumerate(examples):
        for class_index in range(1, len(config.classes)):
            flat = np.flatnonzero(example.mask == class_index)
            if not len(flat):
                continue
            if len(flat) > SEEK_PX:
                flat = rng.choice(flat, SEEK_PX, replace=False)
            spots = np.stack(np.unravel_index(flat, example.mask.shape), axis=1).astype(np.int32)
            places.setdefault(class_index, []).append((index, spots))
    return dict(sorted(places.items()))


def cut(
    example: Example, centre: tuple[float, float], config: TrainConfig, rng: np.random.Generator
) -> tuple[Image8, Image8]:
    """A crop about (row, column), at a drawn zoom, flipped and turned by quarter turns.

    Crops stay inside the image where they fit. Where they don't, the image goes on as its
    mirror image and the mask as unknown.
    """
    side = config.crop_px
    zoom = float(np.exp(rng.uniform(-1, 1) * np.log(config.zoom)))
    height, width = example.mask.shape
    row = _inside(centre[0], side / zoom, height)
    column = _inside(centre[1], side / zoom, width)
    shift_x, shift_y = side / 2 - zoom * (column + 0.5), side / 2 - zoom * (row + 0.5)
    # Pixel centres lie at halves.
    matrix = np.array(
        [[zoom, 0, shift_x + 0.5 * zoom - 0.5], [0, zoom, shift_y + 0.5 * zoom - 0.5]], np.float64
    )
    image = by_four(
        example.image,
        lambda part: cv2.warpAffine(
            part,
            matrix,
            (side, side),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        ),
    )
    mask = cv2.warpAffine(
        example.mask,
        matrix,
        (side, side),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(UNKNOWN,),
    )
    turns, flipped = int(rng.integers(4)), bool(rng.integers(2))
    return _turn(image, turns, flipped), _turn(mask, turns, flipped)


def _inside(centre: float, length: float, size: int) -> float:
    """The centre moved so that a crop of this length stays in an image of this size."""
    if length >= size:
        return (size - 1) / 2
    return min(max(centre, length / 2 - 0.5), size - length / 2 - 0.5)


def _turn(array: Any, turns: int, flipped: bool) -> Image8:
    turned = np.rot90(array, turns)
    return np.ascontiguousarray(turned[:, ::-1] if flipped else turned, np.uint8)


def recolour(image: Image8, config: TrainConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """What changes from one microscope to the next: [h, w, channels] uint8 to float in [0, 1].

    Lamp and camera (a colour matrix near the identity, offset, gamma), uneven illumination
    (a gradient across the crop), focus (blur) and sensor noise.
    """
    channels = image.shape[2]
    mixing = np.eye(channels) + rng.uniform(-1, 1, (channels, channels)) * config.colour / 2
    mixing *= 1 + rng.uniform(-1, 1) * config.colour
    # About mid-grey, so that contrast changes and brightness does not run away.
    offset = 0.5 - 0.5 * mixing.sum(axis=1) + rng.uniform(-1, 1, channels) * config.colour / 2
    pixels = image.astype(np.float32) @ (mixing.T / 255).astype(np.float32)
    pixels = np.clip(pixels + offset.astype(np.float32), 0, 1)
    pixels = np.power(pixels, np.float32(np.exp(rng.uniform(-1, 1) * np.log(config.gamma))))
    pixels = pixels * _illumination(pixels.shape[0], pixels.shape[1], config.gradient, rng)
    if rng.random() < config.blur:
        sigma = float(rng.uniform(0.3, max(0.3, config.blur_px)))
        pixels = cv2.GaussianBlur(pixels, (0, 0), sigma).reshape(pixels.shape)
    if rng.random() < config.noise:
        level = np.float32(rng.uniform(0, config.noise_level))
        pixels = pixels + level * rng.standard_normal(pixels.shape, dtype=np.float32)
    recoloured: NDArray[np.float32] = np.clip(pixels, 0, 1).astype(np.float32, copy=False)
    return recoloured


def _illumination(
    height: int, width: int, strength: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Brightness [h, w, 1] about 1, falling off in a drawn direction."""
    rows, columns = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, strength)
    plane = np.sin(angle) * rows[:, None] + np.cos(angle) * columns[None, :]
    brightness: NDArray[np.float32] = (1 + slope * plane)[..., None].astype(np.float32)
    return brightness
