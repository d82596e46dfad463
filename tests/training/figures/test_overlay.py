import numpy as np

from acquisition.masks import UNKNOWN
from training.figures.overlay import as_rgb, colour_of, overlay


def test_classes_keep_their_colours_and_background_shows_through():
    picture = np.full((20, 20, 3), 100, np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 1
    mask[16:19, 16:19] = UNKNOWN
    painted = overlay(picture, mask)
    assert (painted[0, 0] == 100).all()
    assert tuple(painted[5, 5]) == colour_of(1)  # the outline
    assert (painted[17, 17] < 100).all()


def test_any_channels_are_shown_as_rgb():
    for channels in (1, 2, 5):
        assert as_rgb(np.zeros((4, 5, channels), np.uint8)).shape == (4, 5, 3)
