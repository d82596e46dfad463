"""Augmentation: crops that seek rare classes, cut and recoloured."""

from dataclasses import replace

import cv2
import numpy as np

from acquisition.masks import UNKNOWN
from tests.training.discs import disc_example
from training.augment import CropSource, cut, recolour
from training.config import TrainConfig
from training.examples import Example

RNG = np.random.default_rng(0)
COLOUR = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (35, 25))
CONFIG = TrainConfig(("background", "dark", "bright"), crop_px=64)


def test_crops_seek_the_rare_class():
    mask = np.zeros((600, 600), np.uint8)
    mask[300:308, 100:108] = 2  # 64 of 360,000 pixels
    mask[:, 400:] = 1
    rare = Example("rare", np.zeros((600, 600, 3), np.uint8), mask)
    common = [Example(f"{i}", rare.image, np.where(mask == 2, 0, mask)) for i in range(9)]
    source = CropSource([*common, rare], CONFIG)
    rng = np.random.default_rng(0)
    found = sum((source.draw(rng)[1] == 2).any() for _ in range(200))
    # Half of the seeking crops are for it, and most of them hold the whole of it.
    assert 0.2 < found / 200 < 0.45


def test_crops_reach_every_part_of_an_image():
    mask = np.arange(200 * 250).reshape(200, 250) % 251
    example = Example("places", np.zeros((200, 250, 3), np.uint8), mask.astype(np.uint8))
    config = replace(CONFIG, classes=("background", *map(str, range(1, 251))), seek=0, zoom=1)
    source, rng = CropSource([example], config), np.random.default_rng(0)
    seen = {int(i) for _ in range(100) for i in np.unique(source.draw(rng)[1])}
    assert seen == set(range(251))


def test_images_and_masks_are_cut_alike():
    example = disc_example("a", 3)
    paired = Example("a", np.repeat(example.mask[..., None] * 100, 3, axis=2), example.mask)
    rng = np.random.default_rng(1)
    for _ in range(20):
        image, mask = cut(paired, (30.0, 40.0), CONFIG, rng)
        known = mask != UNKNOWN
        agrees = np.rint(image[..., 0] / 100) == mask
        # A linear and a nearest cut differ on the edges by half a pixel at most.
        assert agrees[known].mean() > 0.93


def test_a_crop_larger_than_its_image_is_unknown_beyond():
    example = Example("small", np.full((20, 30, 3), 77, np.uint8), np.ones((20, 30), np.uint8))
    image, mask = cut(example, (10.0, 10.0), replace(CONFIG, zoom=1), np.random.default_rng(0))
    assert (mask == 1).sum() == 20 * 30
    assert (mask == UNKNOWN).sum() == 64 * 64 - 20 * 30
    assert (image == 77).all()


def test_a_crop_that_fits_shows_the_image_only():
    example = disc_example("a", 0, 80, 90)
    rng = np.random.default_rng(0)
    for centre in ((0.0, 0.0), (79.0, 89.0), (40.0, 45.0)):
        assert (cut(example, centre, replace(CONFIG, zoom=1), rng)[1] != UNKNOWN).all()


def test_recolouring_keeps_the_range_and_changes_the_image():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels = recolour(COLOUR, CONFIG, rng)
        assert pixels.dtype == np.float32
        assert pixels.shape == COLOUR.shape
        assert 0 <= pixels.min() <= pixels.max() <= 1
        assert 0.002 < np.abs(pixels - COLOUR / 255).mean() < 0.3


def test_recolouring_at_strength_zero_changes_nothing():
    still = replace(CONFIG, colour=0, gamma=1, gradient=0, blur=0, noise=0)
    pixels = recolour(COLOUR, still, np.random.default_rng(0))
    np.testing.assert_allclose(pixels, COLOUR / 255, atol=1e-6)


def test_crops_are_the_same_for_the_same_seed():
    source = CropSource([disc_example("a", 0), disc_example("b", 1)], CONFIG)
    first, second = (source.draw(np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
