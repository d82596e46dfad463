"""Images: from a file's bytes to the network's resolution."""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.channels import channel_names
from training.pixels import (
    DECODER_ERRORS,
    MAX_PIXELS,
    ORIENTATION_TAG,
    TRANSPOSES,
    Decoded,
    Image8,
    UnreadableImage,
    check_channels,
    check_size,
    over_white,
    rgb,
    stretch,
    upright,
)
from training.tiff.reading import is_tiff, read_tiff

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "JPEG2000")
"""What Pillow reads; TIFF is read by ``training.tiff``."""

KINDS = "PNG, JPEG, TIFF, WebP, BMP, GIF or JPEG 2000"

PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
"""Those that make an image what it is."""

EXIF_SHORT = 3

OTHER_KINDS = (
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
    (rb"(?s:RIFF....WEBP)", "WebP"),
    (rb"GIF8", "GIF"),
    (rb"BM", "BMP"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
)

DAMAGE = (*DECODER_ERRORS, cv2.error)
"""What a decoder may raise for a damaged file."""

# OpenCV and Pillow report damage twice, and once is enough: what ``UnreadableImage`` says.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("PIL").setLevel(logging.CRITICAL)

CODESTREAM = b"\xff\x4f\xff\x51"
"""How JPEG 2000's pixels begin; 38 bytes later come the samples and, for each, its bits."""


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, channels: Sequence[int] | None = None
) -> Image8:
    """The image as a browser shows it; see ``read_image``.

    Args:
        data: the file.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        UnreadableImage: says what is wrong with it.
    """
    return read_image(io.BytesIO(data), max_pixels=max_pixels, channels=channels).image


def read_image(
    file: BinaryIO, *, max_pixels: int = MAX_PIXELS, channels: Sequence[int] | None = None
) -> Decoded:
    """The image of a file as a browser shows it, or would.

    PNG, JPEG, WebP, BMP, GIF and JPEG 2000 (the first frame); bilevel, grey, palette, RGB, RGBA
    (laid over white) and CMYK; turned as EXIF says where browsers obey it. TIFF: its first page
    that is no thumbnail; of a stack the first slice and time with its channels, by what OME,
    ImageJ or tifffile wrote. Colour is shown as colour. Of other channels the first three that
    are not constant are shown, one as grey, two as red and green, three as red, green and blue.
    What is deeper than 8 bits is stretched from ``STRETCH_PERCENTILES`` of all its values to
    0-255, channels that are no colour one by one.

    Args:
        file: open, from its start on.
        max_pixels: larger images are refused by their header, before they are decoded; so are
            longer ones than ``LONGEST_SIDE_PX``.
        channels: one to three, counted from 1, to be shown instead: one as grey, two or three
            as above. The pages of a TIFF that does not say what they are count as channels.

    Raises:
        UnreadableImage: says what is wrong with it.
    """
    head = file.read(4)
    file.seek(0)
    with quiet_decoders():
        if is_tiff(head):
            return read_tiff(file, max_pixels, channels)
        data = file.read()
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                check_size(*opened.size, max_pixels)
                return _decode_opened(opened, data, channels)
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
def quiet_decoders() -> Iterator[None]:
    """Without Pillow's and tifffile's warnings: a strange file would print thousands of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|tifffile)\.")
        yield


def _what_came(data: bytes) -> str:
    """Why what Pillow does not know is no image for us."""
    for beginning, kind in OUR_KINDS:
        if re.match(beginning, data):
            return (
                f"the image is damaged, or a kind of {kind} that is not read here: "
                f"got {len(data)} bytes"
            )
    expected = f"expected a {KINDS} image"
    if not data:
        return f"{expected}, got an empty file"
    for beginning, kind in OTHER_KINDS:
        if re.match(beginning, data[:1024]):
            return f"{expected}, got {kind}"
    return f"{expected}, got {len(data)} bytes that begin with {data[:8]!r}"


def _decode_opened(opened: Image.Image, data: bytes, channels: Sequence[int] | None) -> Decoded:
    orientation = _orientation(opened)  # before loading: browsers pass over what comes later
    frames = getattr(opened, "n_frames", 1) if opened.format in ("GIF", "WEBP") else 1
    position = f"frame 1 of {frames}" if frames > 1 else ""
    bits, stretched = _bits(opened, data), ""
    if bits > 8:
        # Pillow knows deep grey only, and drops the lower byte of deep colour.
        deep, stretched = stretch(_decode_deep(opened, data))
        image = upright(Image.fromarray(deep), orientation)
    else:
        if getattr(opened, "default_image", False):
            opened.seek(1)  # the still of an animated PNG is for those who cannot animate
        image = upright(opened, orientation)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
    grey = image.mode in ("1", "L") or (opened.format == "PNG" and data[25] in (0, 4))
    pixels = np.ascontiguousarray(image.convert("RGB"))
    count = 1 if grey else 3
    names = "grey" if grey else "RGB"
    if channels is not None:
        check_channels(channels, count)
        pixels = rgb([pixels[..., channel - 1] for channel in channels])
        names = names if grey else channel_names(channels, count)
    return Decoded(pixels, str(bits), names, position, stretched)


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


def _bits(image: Image.Image, data: bytes) -> int:
    """Of a sample."""
    if image.format == "PNG":
        # The header chunk is always first: 8 bytes of signature, 8 of chunk, width, height.
        return data[24]
    if image.format == "JPEG2000":
        return max(_jpeg_2000_bits(data))
    return 1 if image.mode == "1" else 8


def _jpeg_2000_bits(data: bytes) -> list[int]:
    """Of each component, by the head of the pixels."""
    at = data.find(CODESTREAM) + 40
    count = int.from_bytes(data[at : at + 2], "big")
    if at < 40 or not 1 <= count <= 4:
        raise UnreadableImage(f"a JPEG 2000 image of {count} components is not read here")
    return [(each & 127) + 1 for each in data[at + 2 : at + 2 + 3 * count : 3]]


def _decode_deep(image: Image.Image, data: bytes) -> NDArray[Any]:
    """[H, W] or [H, W, 3], of any number type."""
    image.load()  # says what is damaged, where OpenCV's libpng prints it
    if image.mode.startswith("I") and image.format != "JPEG2000":  # Pillow fills it up to 16 bits
        return np.asarray(image)
    if image.format == "JPEG2000":
        from imagecodecs import jpeg2k_decode

        deep = np.asarray(jpeg2k_decode(data))
        if deep.ndim == 3 and deep.shape[2] == 2:  # grey and its opacity
            deep = deep[..., [0, 0, 0, 1]]
    else:
        decoded = cv2.imdecode(np.frombuffer(plain_png(data), np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise UnreadableImage("the image is damaged, or a kind of PNG that is not read here")
        deep = cast(NDArray[Any], decoded)
        if deep.ndim == 3:  # OpenCV's order is BGR
            deep = deep[..., [2, 1, 0, 3][: deep.shape[2]]]
    if deep.shape[:2] != image.size[::-1]:
        raise UnreadableImage(
            f"the image is damaged, or a kind of {image.format} that is not read here"
        )
    bits = _bits(image, data)
    return over_white(deep, bits=bits) if deep.ndim == 3 and deep.shape[2] == 4 else deep


def plain_png(data: bytes) -> bytes:
    """The file without what is no part of its still image.

    OpenCV believes the length that a chunk says, whatever it is, and makes room for it. Pillow
    decompresses each text and each profile of a file, however many there are.

    Raises:
        UnreadableImage: one of its chunks is damaged, or its end is missing.
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
