"""Examples: images and masks at the network's resolution."""

import numpy as np
import pytest

from acquisition.masks import UNKNOWN
from training.examples import images_showing, make_example


def test_an_example_is_shrunk_with_its_mask():
    image, mask = np.zeros((400, 200, 3), np.uint8), np.zeros((400, 200), np.uint8)
    image[:200], mask[:200] = 255, 2
    mask[-40:] = UNKNOWN
    example = make_example("7", image, mask, 100)
    assert example.image.shape == (100, 50, 3)
    assert set(np.unique(example.mask)) == {0, 2, UNKNOWN}
    assert (example.mask[:50] == 2).all()


def test_an_image_and_mask_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        make_example("7", np.zeros((5, 7, 3), np.uint8), np.zeros((3, 3), np.uint8), 100)


def test_images_are_counted_once_for_each_class_that_they_show():
    masks = [np.array(mask, np.uint8) for mask in ([[0, 1, 1, 255]], [[1], [1]], [[0, 255]])]
    assert images_showing(masks, 3).tolist() == [2, 2, 0]
    assert images_showing([], 2).tolist() == [0, 0]
