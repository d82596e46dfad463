"""TIFFs as people's programs write them, all made here."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from training.images import read_image
from training.pixels import Decoded

H, W = 48, 64

Y, X = np.mgrid[0:H, 0:W]

RISING = np.round(X * 65535 / (W - 1)).astype(np.uint16)
"""Dark on the left, bright on the right."""

FALLING = RISING[:, ::-1].copy()

DOWN = np.round(Y * 65535 / (H - 1)).astype(np.uint16)
"""Dark at the top, bright at the bottom."""

FLAT = np.full((H, W), 5, np.uint16)

RGB16 = np.stack([RISING, DOWN, FALLING], axis=2)

RGB8 = (RGB16 >> 8).astype(np.uint8)

GREY8 = RGB8[..., 0].copy()


STACK = np.stack([RISING, FALLING, DOWN])


def tif(values: NDArray[Any], **options: Any) -> bytes:
    """A file of one series."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def pages(*written: tuple[NDArray[Any], dict[str, Any]], **options: Any) -> bytes:
    """A file of several series."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        for values, how in written:
            writer.write(values, **how)
    return buffer.getvalue()


def read(data: bytes, **options: Any) -> Decoded:
    return read_image(io.BytesIO(data), **options)


def patched(data: bytes, tag: int, value: int) -> bytes:
    """The same file with another number in a tag of its first page, which must be inline."""
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        found = opened.pages.first.tags[tag]
        size = {3: 2, 4: 4}[int(found.dtype)] * found.count
        order = "little" if opened.byteorder == "<" else "big"
        at = found.valueoffset
    return data[:at] + value.to_bytes(size, order) + data[at + size :]
