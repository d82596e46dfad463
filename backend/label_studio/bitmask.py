"""BitmaskLabels' masks: a PNG in a data URL, set where it is opaque."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import BadRegion
from backend.shorten import short, shorten
from training.images import DAMAGE, plain_png, quiet_decoders
from training.pixels import MAX_PIXELS, UnreadableImage

PREFIX = "data:image/png;base64,"


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIZE_AT = 16  # width and height, 4 bytes each, in the first chunk

# zlib's fastest: a mask's rows repeat, so that more effort gains a few bytes only.
_EFFORT = 1


def encode(mask: npt.NDArray[np.bool_]) -> str:
    """The mask [H, W] as ``imageDataURL``, white where it is set and transparent elsewhere.

    One bit per pixel with a palette: the editor reads the opacity and colours it itself, and a
    reader that looks at the grey value alone sees the same mask.
    """
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    image.save(file, "PNG", bits=1, transparency=b"\x00\xff", compress_level=_EFFORT)
    return PREFIX + base64.b64encode(file.getvalue()).decode("ascii")


def decode(url: object, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The opacity of an ``imageDataURL``, [height, width] uint8; set where it is > 127.

    Raises:
        BadRegion: it is no PNG in a data URL, has another size, or no transparency at all.
    """
    if not isinstance(url, str) or not url.startswith(PREFIX):
        raise BadRegion(f"A bitmask's imageDataURL must start with '{PREFIX}', got {shorten(url)}.")
    try:
        data = base64.b64decode(url[len(PREFIX) :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRegion(f"A bitmask's imageDataURL must be base64: {error}.") from error
    _check_size(data, height, width)
    try:
        plain = io.BytesIO(plain_png(data))
        with quiet_decoders(), Image.open(plain, formats=("PNG",)) as image:
            if image.size != (width, height):
                raise BadRegion("A bitmask's PNG must say its size once, it has two headers.")
            if not image.has_transparency_data:
                # The editor would show all of it as set; whoever wrote a black-and-white mask
                # meant something else.
                raise BadRegion(
                    f"A bitmask must be transparent where it is not set, its PNG ({image.mode}) "
                    "has no transparency."
                )
            return np.asarray(image.convert("RGBA").getchannel("A"))
    except (UnreadableImage, *DAMAGE) as error:
        raise BadRegion(f"A bitmask's PNG cannot be read: {short(str(error), 120)}.") from error


def _check_size(data: bytes, height: int, width: int) -> None:
    """Compare the header's size before anything is decoded."""
    if len(data) < _SIZE_AT + 8 or not data.startswith(_SIGNATURE):
        raise BadRegion("A bitmask's imageDataURL must hold a PNG, its bytes are none.")
    png_width = int.from_bytes(data[_SIZE_AT : _SIZE_AT + 4], "big")
    png_height = int.from_bytes(data[_SIZE_AT + 4 : _SIZE_AT + 8], "big")
    if (png_height, png_width) != (height, width):
        raise BadRegion(
            f"A bitmask's PNG must be {width} x {height} pixels as its region says, "
            f"got {png_width} x {png_height}."
        )
    # A few kilobytes of PNG can claim it, and decoding it takes some 300 MB.
    if height * width > MAX_PIXELS:
        raise BadRegion(f"A bitmask may hold at most {MAX_PIXELS} pixels, got {width} x {height}.")
