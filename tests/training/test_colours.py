"""The classes' colours can be told apart."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from acquisition.masks import UNKNOWN
from training.colours import CLASS_COLOURS, UNKNOWN_COLOUR, class_colour, rgb
from training.figures.uncertainty_figure import WRONG_COLOUR

# Machado, Oliveira and Fernandes 2009, severity 1, for linear light.
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


def seen(colours, eyes):
    """L*a*b* [N, 3] of the colours, as these eyes see them."""
    srgb = np.array([rgb(colour) for colour in colours]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(eyes), 0, 1)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(srgb[None])[0]


def nearest(colours, eyes=None):
    """The least CIEDE2000 difference between two of the colours."""
    lab = seen(colours, np.eye(3) if eyes is None else eyes)
    apart = deltaE_ciede2000(lab[:, None], lab[None])
    return apart[~np.eye(len(lab), dtype=bool)].min()


def test_twenty_colours_are_far_apart_and_from_black_white_and_unknown():
    assert len(set(CLASS_COLOURS)) == 20
    wrong = "#{:02X}{:02X}{:02X}".format(*WRONG_COLOUR)
    assert nearest([*CLASS_COLOURS, UNKNOWN_COLOUR, wrong, "#000000", "#FFFFFF"]) > 17


@pytest.mark.parametrize("eyes", [PROTANOPIA, DEUTERANOPIA])
def test_colour_blind_eyes_see_a_difference(eyes):
    assert nearest(CLASS_COLOURS, eyes) > 6


def test_the_colours_go_round_and_unknown_has_its_own():
    assert class_colour(1) == class_colour(21) == CLASS_COLOURS[0]
    assert class_colour(20) == CLASS_COLOURS[19]
    assert class_colour(UNKNOWN) == UNKNOWN_COLOUR
