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
    "#450DA2",
    "#6A1F0D",
    "#0DFFEC",
    "#FFB4A2",
    "#7D3257",
    "#8F6AFF",
    "#7D571F",
    "#0D4532",
    "#A2B46A",
    "#457D7D",
    "#A2FF8F",
    "#C70DA2",
)
"""Of the classes but background, in turn. The first eight are far apart in hue and lightness, to
most colour-blind eyes too (Okabe and Ito 2008). Each further one is as far as can be (CIEDE2000)
from those before it, black, white, the unknown's and the red of wrong pixels; to colour-blind eyes
(Machado et al. 2009) distances count double."""

UNKNOWN_COLOUR = "#5A5A5A"


def class_colour(index: int) -> str:
    """The colour of a class index of at least 1, as ``#RRGGBB``; of ``UNKNOWN`` too."""
    return UNKNOWN_COLOUR if index == UNKNOWN else CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of ``#RRGGBB``."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
