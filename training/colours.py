"""The classes' colours, in figures and in Label Studio alike."""

from __future__ import annotations

from acquisition.masks import UNKNOWN

CLASS_COLOURS = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#F0E442",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#999999",
)
"""Of the classes but background, in turn. Far apart in hue and lightness, also to most colour-blind
eyes (Okabe and Ito 2008)."""

UNKNOWN_COLOUR = "#5A5A5A"


def class_colour(index: int) -> str:
    """The colour of a class index of at least 1, as ``#RRGGBB``; of ``UNKNOWN`` too."""
    return UNKNOWN_COLOUR if index == UNKNOWN else CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of ``#RRGGBB``."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
