"""Images that are blurred or blank beside the others of their pool."""

from __future__ import annotations

import cv2
import numpy as np

from tests.training.discs import disc_example
from training.pixels import Image8
from training.quality.usable import FEWEST, Focus, focus_of, unusable


def sharp(seed: int) -> Image8:
    return disc_example("", seed, 120, 160).image


def blurred(image: Image8) -> Image8:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 6.0), np.uint8)


def test_a_blurred_and_a_blank_image_are_found_among_sharp_ones() -> None:
    found = {n: focus_of(sharp(n)) for n in range(30)}
    assert unusable(found) == {}
    found[7] = focus_of(blurred(sharp(7)))
    found[8] = focus_of(np.full((120, 160, 3), 250, np.uint8))
    assert unusable(found) == {7: "blurred", 8: "blank"}


def test_where_many_are_so_it_is_how_the_microscope_sees() -> None:
    found = {n: Focus(0.6, 100.0) for n in range(30)}
    some = {**found, **{n: Focus(0.1, 3.0) for n in range(3)}}
    assert unusable(some) == dict.fromkeys(range(3), "blank")
    assert unusable({**some, 3: Focus(0.1, 3.0)}) == {}


def test_of_few_images_none_is_called_blurred() -> None:
    found = {n: Focus(0.6, 100.0) for n in range(FEWEST - 1)}
    assert unusable({**found, 0: Focus(0.1, 100.0)}) == {}
    assert unusable({}) == {}
