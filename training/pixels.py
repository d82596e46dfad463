"""From an image's values, of any depth, to the 8 bits that networks and browsers take."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.errors import TrainingError

STRETCH_PERCENTILES = (0.1, 99.9)
"""Deep images use a fraction of their range: these percentiles become black and white. One pixel
in a thousand at each end may be dead or saturated."""

LONGEST_SIDE_PX = 65_535
"""No JPEG is longer, and no browser's canvas."""

MAX_PIXELS = 2 * 4096 * 4096
"""A larger image is refused before it is decoded: twice the largest that is promised."""

STRIP_VALUES = 1 << 20
"""Values of a deep image that are computed with at once: in double precision 8 MB."""

NO_VALUE = 3.4e38
"""What lies beyond is no measurement: geographic programs mark missing values by the largest
single-precision number without saying so."""

TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What EXIF's orientations ask for; 1 asks for nothing."""

ORIENTATION_TAG = 274
"""Of EXIF and TIFF."""

SIDEWAYS = frozenset((5, 6, 7, 8))
"""Orientations that swap width and height."""

DECODER_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, AssertionError, MemoryError, RuntimeError, struct.error, zlib.error),
)
"""What Pillow and tifffile may raise for a damaged or strange file: whatever they stumbled over."""

Image8 = NDArray[np.uint8]


class UnreadableImage(TrainingError):
    """The bytes are no image, are damaged, or hold too many pixels."""


@dataclass(frozen=True)
class Decoded:
    """An image as it is seen, and which part of its file that is.

    Attributes:
        image: [H, W, 3] uint8, RGB.
        bits: of a sample in the file, as "8", "16 signed" or "32 float".
        channels: "grey", "RGB", or which of how many, as "channels 2, 3 of 3".
        page: which of how many pages, as "page 1 of 3" or "z 1 of 20, time 1 of 5"; empty where
            there is one.
        stretch: the values that became black and white, as "102 to 3540", for each channel where
            they were stretched one by one; empty where the values are as in the file.
        pixel_um: width and height of a pixel in micrometres, where the file says it.
    """

    image: Image8
    bits: str
    channels: str
    page: str = ""
    stretch: str = ""
    pixel_um: tuple[float, float] | None = None

    @property
    def part(self) -> str:
        """What of the file is seen, where it is not all; empty otherwise."""
        channels = self.channels if " of " in self.channels else ""
        return ", ".join(part for part in (self.page, channels) if part)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a declared size that is beyond the limits.

    Raises:
        UnreadableImage: it is.
    """
    if max(width, height) > LONGEST_SIDE_PX:
        raise UnreadableImage(
            f"a side may have at most {LONGEST_SIDE_PX} pixels, this image is {width} x {height}"
        )
    if width * height > max_pixels:
        raise UnreadableImage(
            f"an image may have at most {max_pixels} pixels, this one has "
            f"{width} x {height} = {width * height}"
        )


def check_channels(channels: Sequence[int], count: int) -> None:
    """Refuse chosen channels that an image does not have.

    Raises:
        UnreadableImage: one of them is not there.
    """
    if max(channels) > count:
        raise UnreadableImage(
            f"the option channels names channel {max(channels)}, and this image has {count}"
        )


def rgb(channels: Sequence[Image8]) -> Image8:
    """[H, W, 3] of one channel [H, W] (grey), two (red, green) or three (red, green, blue)."""
    if len(channels) == 1:
        return np.repeat(channels[0][..., None], 3, axis=2)
    blue = channels[2] if len(channels) == 3 else np.zeros_like(channels[0])
    return np.stack([channels[0], channels[1], blue], axis=2)


def stretch(
    deep: NDArray[Any], nodata: float | None = None, *, inverted: bool = False
) -> tuple[Image8, str]:
    """8 bits of any numbers: ``STRETCH_PERCENTILES`` of all values become 0 and 255.

    What is no number, is infinite, beyond ``NO_VALUE`` or equals ``nodata`` counts in no
    percentile. Infinity is taken for the largest value, the others become 0.

    Args:
        deep: integers or floating-point numbers of any shape.
        inverted: the percentiles become 255 and 0.

    Returns:
        (uint8 of the same shape, the two values as text).

    Raises:
        UnreadableImage: no value is a number.
    """
    valid = valid_values(deep, nodata)
    counted = deep if valid is None else deep[valid]
    if counted.size == 0:
        raise UnreadableImage("the image holds no values: none is finite, or all are no data")
    # The difference of two numbers of single precision may be beyond it.
    doubled = counted.astype(np.float64) if counted.dtype.kind == "f" else counted
    low, high = (float(each) for each in np.percentile(doubled, STRETCH_PERCENTILES))
    if high <= low:
        low, high = float(counted.min()), float(counted.max())
    del doubled, counted
    scale = 255 / (high - low) if high > low else 0.0
    stretched = np.empty(deep.shape, np.uint8)
    for rows in strips(deep):
        # In double precision, because large numbers may differ by little.
        values = deep[rows].astype(np.float64)
        if valid is not None:
            black = high if inverted else low
            values = np.where(valid[rows] | (values == np.inf), values, black)
        values = np.minimum(values, max(high, low))
        stretched[rows] = np.clip((values - low) * scale + 0.5, 0, 255)
    if inverted:
        np.subtract(255, stretched, out=stretched)
    return stretched, f"{low:.6g} to {high:.6g}"


def valid_values(deep: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Which values are measurements; None where all are."""
    valid: NDArray[np.bool_] | None = None
    if deep.dtype.kind == "f":
        valid = np.isfinite(deep)
        if deep.dtype.itemsize > 2:
            valid &= np.abs(deep) < NO_VALUE
    if nodata is not None and nodata == nodata:
        known = deep != deep.dtype.type(nodata)
        valid = known if valid is None else valid & known
    return None if valid is None or valid.all() else valid


def over_white(
    deep: NDArray[Any],
    premultiplied: bool = False,
    inverted: bool = False,
    bits: int | None = None,
) -> NDArray[Any]:
    """[H, W, 3] of [H, W, 4] unsigned integers whose last channel is the opacity.

    Args:
        premultiplied: the colours are multiplied by their opacity already.
        inverted: the least value is white.
        bits: of a sample, where it does not fill its type.
    """
    most = np.iinfo(deep.dtype).max if bits is None else 2**bits - 1
    white = 0 if inverted else most
    laid = np.empty((*deep.shape[:2], 3), deep.dtype)
    for rows in strips(deep):
        opacity = deep[rows, :, 3:].astype(np.float32) / most
        colour = deep[rows, :, :3] if premultiplied else deep[rows, :, :3] * opacity
        laid[rows] = np.minimum(colour + white * (1 - opacity), most)
    return laid


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned as its orientation, 1 to 8 as EXIF has it, asks for."""
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def strips(array: NDArray[Any]) -> Iterator[slice]:
    """Rows, so many at a time that they hold about ``STRIP_VALUES``."""
    step = max(1, STRIP_VALUES * len(array) // array.size)
    for top in range(0, len(array), step):
        yield slice(top, top + step)
