"""Images: from a file's bytes to the network's resolution."""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.errors import TrainingError

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")

STRETCH_PERCENTILES = (0.1, 99.9)
"""Deep images use a fraction of their range: these percentiles become black and white. One pixel
in a thousand at each end may be dead or saturated."""

LONGEST_SIDE_PX = 65_535
"""No JPEG is longer, and no browser's canvas."""

MAX_PIXELS = 2 * 4096 * 4096
"""A larger image is refused before it is decoded: twice the largest that is promised."""

STRIP_VALUES = 1 << 20
"""Values of a deep image that are computed with at once: in double precision 8 MB."""

PNG_CHUNKS = frozenset((b"IHDR", b"tRNS", b"IDAT", b"IEND"))
"""Those that make deep colour what it is."""

TIFF_WIDTH, TIFF_HEIGHT, BITS_PER_SAMPLE_TAG, ORIENTATION_TAG = 256, 257, 258, 274

TIFF_STRIPS, TIFF_STRIP_ROWS = 273, 278

TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT, TIFF_TILES = 322, 323, 324

EXIF_SHORT = 3

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

OTHER_KINDS = (
    (rb"GIF8", "a GIF"),
    (rb"BM", "a BMP"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (rb"....ftypavi[fs]", "an AVIF file"),
    (rb"....ftyp(?:hei|hev|mif|msf)", "a HEIC file"),
    (rb"%PDF", "a PDF"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"(?s:\s*(?:<\?xml.*?)?(?:<!DOCTYPE svg.*?)?<svg[\s>])", "an SVG drawing"),
    (rb"(?i:\s*<(?:!doctype html|html|head|body))", "an HTML page, as of a login or an error"),
)
"""What else may come under an image's address, by how it begins."""

OUR_KINDS = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"II[*+]\x00|MM\x00[*+]", "TIFF"),
    (rb"(?s:RIFF....WEBP)", "WebP"),
)

DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, AssertionError, MemoryError, RuntimeError, struct.error, zlib.error),
    cv2.error,
)
"""What a decoder may raise for a damaged file: whatever it stumbled over."""

# OpenCV and Pillow report damage twice, and once is enough: what ``UnreadableImage`` says.
cv2.setLogLevel(0)
logging.getLogger("PIL").setLevel(logging.CRITICAL)

Image8 = NDArray[np.uint8]


class UnreadableImage(TrainingError):
    """The bytes are no image, are damaged, or hold too many pixels."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image8:
    """The image as a browser shows it.

    PNG, JPEG, TIFF (its first page) and WebP (its first frame); bilevel, grey, palette, RGB,
    RGBA (laid over white) and CMYK; turned as EXIF says where browsers obey it. What is deeper
    than 8 bits is stretched from ``STRETCH_PERCENTILES`` of all its values to 0-255.

    Args:
        data: the file.
        max_pixels: larger images are refused by their header, before they are decoded; so are
            longer ones than ``LONGEST_SIDE_PX``.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        UnreadableImage: says what is wrong with it.
    """
    try:
        with quiet_pillow(), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if max(width, height) > LONGEST_SIDE_PX:
                raise UnreadableImage(
                    f"a side may have at most {LONGEST_SIDE_PX} pixels, this image is "
                    f"{width} x {height}"
                )
            if width * height > max_pixels:
                raise UnreadableImage(
                    f"an image may have at most {max_pixels} pixels, this one has "
                    f"{width} x {height} = {width * height}"
                )
            if opened.format == "TIFF":
                _check_parts(cast(Any, opened).tag_v2, max_pixels)
            return _decode_opened(opened, data)
    except UnidentifiedImageError as error:
        raise UnreadableImage(_what_came(data)) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # what Pillow stops at by itself
        raise UnreadableImage(
            f"an image may have at most {max_pixels} pixels, this one has more than {most}"
        ) from error
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UnreadableImage(f"the image is damaged: {reason}") from error


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings: a strange file would print thousands of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _what_came(data: bytes) -> str:
    """Why what Pillow does not know is no image for us."""
    for beginning, kind in OUR_KINDS:
        if re.match(beginning, data):
            return (
                f"the image is damaged, or a kind of {kind} that is not read here: "
                f"got {len(data)} bytes"
            )
    expected = "expected a PNG, JPEG, TIFF or WebP image"
    if not data:
        return f"{expected}, got an empty file"
    for beginning, kind in OTHER_KINDS:
        if re.match(beginning, data[:1024]):
            return f"{expected}, got {kind}"
    return f"{expected}, got {len(data)} bytes that begin with {data[:8]!r}"


def _check_parts(tags: Mapping[int, Any], max_pixels: int) -> None:
    """Refuse a TIFF whose parts are larger than any image, or fewer than it needs.

    The decoder makes room for a whole tile, however small the image is, and leaves black what no
    strip holds.
    """
    width, height = tags[TIFF_WIDTH], tags[TIFF_HEIGHT]
    part_width, part_height = tags.get(TIFF_TILE_WIDTH, width), tags.get(TIFF_TILE_HEIGHT)
    if part_height is None:
        part_height = min(height, tags.get(TIFF_STRIP_ROWS, height))
    if part_width * part_height > max_pixels:
        raise UnreadableImage(
            f"a tile may have at most {max_pixels} pixels, this image's have "
            f"{part_width} x {part_height}"
        )
    needed = -(-width // part_width) * -(-height // part_height)
    parts = tags.get(TIFF_TILES, tags.get(TIFF_STRIPS, ()))
    if len(parts) < needed:
        raise UnreadableImage(
            f"the image is damaged: a TIFF of {width} x {height} pixels needs {needed} strips or "
            f"tiles of {part_width} x {part_height}, it has {len(parts)}"
        )


def _decode_opened(opened: Image.Image, data: bytes) -> Image8:
    orientation = _orientation(opened)  # before loading: browsers pass over what comes later
    if _is_deep(opened, data):
        # Pillow knows deep grey only, and drops the lower byte of deep colour.
        deep = Image.fromarray(_stretch(_decode_deep(opened, data)))
        return np.ascontiguousarray(_upright(deep, orientation))
    if getattr(opened, "default_image", False):
        opened.seek(1)  # the still of an animated PNG is for those who cannot animate
    image = _upright(opened, orientation)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.ascontiguousarray(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """How a browser turns the image, 1 to 8 as EXIF has it.

    Annotations lie on what the browser shows. Chromium and Firefox obey the EXIF data of a JPEG,
    and of a PNG before its pixels, where the entry is one short number; they ignore XMP, which
    Pillow does, and nothing in a WebP. A TIFF, which they do not show, is turned by whoever
    decodes it.
    """
    if image.format not in ("JPEG", "MPO", "PNG"):
        return 1
    exif: bytes = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    if directory + 2 > len(exif):
        return 1
    (entries,) = struct.unpack_from(f"{order}H", exif, directory)
    first = directory + 2
    for at in range(first, min(first + 12 * entries, len(exif) - 11), 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, at)
        if tag == ORIENTATION_TAG:
            return int(value) if (kind, count) == (EXIF_SHORT, 1) and value in TRANSPOSES else 1
    return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def _is_deep(image: Image.Image, data: bytes) -> bool:
    if image.mode == "F" or image.mode.startswith("I"):
        return True
    if image.format == "PNG":
        # The header chunk is always first: 8 bytes of signature, 8 of chunk, width, height.
        return data[24] > 8
    if image.format == "TIFF":
        bits = cast(Any, image).tag_v2.get(BITS_PER_SAMPLE_TAG, (1,))
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    return False


def _decode_deep(image: Image.Image, data: bytes) -> NDArray[Any]:
    """[H, W] or [H, W, 3], of any number type."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image)
        if not np.isfinite(grey).all():
            raise UnreadableImage("the image holds values that are not finite")
        # The difference of two of single precision may be beyond it.
        return grey.astype(np.float64) if image.mode == "F" else grey
    if image.format == "PNG":
        image.load()  # says what is damaged, where OpenCV's libpng prints it
        data = _plain_png(data)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or sorted(decoded.shape[:2]) != sorted(image.size):
        raise UnreadableImage(f"the image is damaged or of an unknown kind of {image.format}")
    deep = cast(NDArray[Any], decoded)
    if deep.ndim == 2:
        return deep
    return (_over_white(deep) if deep.shape[2] == 4 else deep)[..., ::-1]  # OpenCV's order is BGR


def _plain_png(data: bytes) -> bytes:
    """The file without what is no part of its still image.

    OpenCV believes the length that a chunk says, whatever it is, and makes room for it.
    """
    kept, at = [data[:8]], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            raise UnreadableImage(
                f"the image is damaged: a chunk of its PNG says {length} bytes, "
                f"{len(data) - at} are left"
            )
        kind = data[at + 4 : at + 8]
        if kind in PNG_CHUNKS:
            if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise UnreadableImage(
                    "the image is damaged: a chunk of its PNG has a wrong checksum"
                )
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    raise UnreadableImage("the image is damaged: its PNG has no end")


def _over_white(deep: NDArray[Any]) -> NDArray[Any]:
    """[H, W, 3] of [H, W, 4] unsigned integers whose last channel is the opacity."""
    white = np.iinfo(deep.dtype).max
    laid = np.empty((*deep.shape[:2], 3), deep.dtype)
    for rows in _strips(deep):
        opacity = deep[rows, :, 3:].astype(np.float32) / white
        laid[rows] = deep[rows, :, :3] * opacity + white * (1 - opacity)
    return laid


def _stretch(deep: NDArray[Any]) -> Image8:
    low, high = (float(each) for each in np.percentile(deep, STRETCH_PERCENTILES))
    if high <= low:
        low, high = float(deep.min()), float(deep.max())
    scale = 255 / (high - low) if high > low else 0.0
    grey = np.empty(deep.shape, np.uint8)
    for rows in _strips(deep):
        # In double precision, because large numbers may differ by little.
        grey[rows] = np.clip((deep[rows].astype(np.float64) - low) * scale + 0.5, 0, 255)
    return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)


def _strips(array: NDArray[Any]) -> Iterator[slice]:
    """Rows, so many at a time that they hold about ``STRIP_VALUES``."""
    step = max(1, STRIP_VALUES * len(array) // array.size)
    for top in range(0, len(array), step):
        yield slice(top, top + step)


def encode_png(image: Image8) -> bytes:
    """PNG of [H, W, 3] RGB or [H, W] grey, both uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def nearest(mask: Image8, height: int, width: int) -> Image8:
    """The mask [H, W] at another size, each pixel taking the one that its centre lies in."""
    if max(mask.shape) < 2**15:
        return np.asarray(
            cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
        )
    # OpenCV counts in 16.16 bits, and reads from outside a longer image.
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    small: Image8 = mask[np.ix_(rows, columns)]
    return small


def shrink(image: Image8, max_side_px: int) -> Image8:
    """The image [H, W, channels] at the network's resolution [h, w, channels]."""
    height, width = network_size(image.shape[0], image.shape[1], max_side_px)
    if (height, width) == image.shape[:2]:
        return image
    # Averaging over the area lets no pixel count twice and none be skipped.
    return by_four(
        image, lambda part: cv2.resize(part, (width, height), None, 0, 0, cv2.INTER_AREA)
    )


def by_four(image: Image8, function: Callable[[Image8], Any]) -> Image8:
    """A function of OpenCV's, which takes at most four channels, on any number of them."""
    parts = [function(image[..., i : i + 4]) for i in range(0, image.shape[2], 4)]
    # OpenCV drops the axis of a single channel.
    deep = [part if part.ndim == 3 else part[..., None] for part in parts]
    return deep[0] if len(deep) == 1 else np.concatenate(deep, axis=2)


def network_size(height: int, width: int, max_side_px: int) -> tuple[int, int]:
    """Height and width after shrinking the long side to at most ``max_side_px``."""
    factor = min(1.0, max_side_px / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))
