"""Files that may lie under an image's address, good and bad, all made here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[Any]

ORIENTATION_TAG = 274
RNG = np.random.default_rng(20261125)
COLOUR = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (35, 25))


def file_of(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    opened.save(buffer, format=kind, **options)
    return buffer.getvalue()


SGILOG = 34676  # TIFF's number of that compression


def opencv_file(image: Pixels, suffix: str, *options: int) -> bytes:
    """Pillow writes no colour of 16 bits."""
    data: bytes = cv2.imencode(suffix, image, options)[1].tobytes()
    return data


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG that claims a size; ``chunks`` come before its end."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(entries: dict[int, tuple[int, int, int]], tail: bytes = bytes(64)) -> bytes:
    """A TIFF of one directory: tag -> (type, count, value); ``tail`` follows it."""
    packed = (struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    directory = struct.pack("<H", len(entries)) + b"".join(packed) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + tail


SHORT, LONG = 3, 4


def grey_tiff(
    width: int = 4,
    height: int = 4,
    changed: dict[int, tuple[int, int, int]] | None = None,
    without: tuple[int, ...] = (),
) -> bytes:
    """An uncompressed grey TIFF, whose one strip begins at byte 8; its entries can be changed."""
    entries = {
        256: (LONG, 1, width),
        257: (LONG, 1, height),
        258: (SHORT, 1, 8),
        259: (SHORT, 1, 1),
        262: (SHORT, 1, 1),
        273: (LONG, 1, 8),
        277: (SHORT, 1, 1),
        278: (LONG, 1, height),
        279: (LONG, 1, width * height),
    }
    entries |= changed or {}
    return tiff({tag: entry for tag, entry in entries.items() if tag not in without})


def webp(width: int, height: int) -> bytes:
    """A WebP whose canvas claims a size, around one frame of a pixel."""
    frame = file_of(np.zeros((1, 1, 3), np.uint8), "WEBP")[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas
    chunks += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    chunks += b"ANMF" + struct.pack("<I", 16 + len(frame)) + bytes(16) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def exif(*entries: bytes, order: str = "<") -> bytes:
    """EXIF data of these raw entries."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(entries) + bytes(4)


def orientation(value: int, kind: int = SHORT, count: int = 1, order: str = "<") -> bytes:
    return struct.pack(f"{order}HHIHH", ORIENTATION_TAG, kind, count, value, 0)


def xmp(value: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
    ) % value


def frames(kind: str, **options: Any) -> bytes:
    """Animated, or of two pages; the second is the negative."""
    return file_of(
        COLOUR,
        kind,
        save_all=True,
        append_images=[Image.fromarray(255 - COLOUR)],
        **options,
    )


def deep_noise() -> Pixels:
    return RNG.integers(0, 2**16, (25, 35, 3)).astype(np.uint16)


def deep_jpeg_2000() -> bytes:
    data: bytes = imagecodecs.jpeg2k_encode(deep_noise(), level=0)
    return data


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


PICTURE = Image.fromarray(COLOUR)
PALETTE = PICTURE.quantize(8)
DEEP_PNG = opencv_file(deep_noise(), ".png")
DEEP_TIFF = opencv_file(deep_noise(), ".tiff")
STILL = "the still of an animated PNG"

BOMBS = {
    "PNG": png(30_000, 30_000, chunk(b"IDAT", zlib.compress(bytes(10**6)))),
    "PNG, a little too large": png(10_000, 10_000, chunk(b"IDAT", zlib.compress(bytes(10**6)))),
    "PNG of 16 bits": png(30_000, 30_000, chunk(b"IDAT", b""), bits=16, colour=2),
    "PNG, long": png(33_000_000, 1, chunk(b"IDAT", zlib.compress(bytes(10**6)))),
    "PNG, one chunk says 2 GB": (
        png(4, 4, chunk(b"IDAT", zlib.compress(bytes(100))), bits=16, colour=2)[:-12]
        + struct.pack(">I", 2**31 - 1)
        + b"abCd"
    ),
    "TIFF": grey_tiff(60_000, 60_000),
    "TIFF, a little too large": grey_tiff(10_000, 10_000),
    "TIFF, tile": grey_tiff(
        changed={
            259: (SHORT, 1, 5),
            322: (LONG, 1, 65_520),
            323: (LONG, 1, 65_520),
            324: (LONG, 1, 8),
            325: (LONG, 1, 50),
        },
        without=(273, 278, 279),
    ),
    "TIFF, a tag says 4 GB": grey_tiff(changed={273: (LONG, 2**32 - 1, 8)}),
    "TIFF, 65,535 tags": b"II*\0"
    + struct.pack("<IH", 8, 65_535)
    + b"".join(struct.pack("<HHII", tag, 1, 2**20, 0) for tag in range(65_535)),
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIIIII", 60, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
    "GIF": b"GIF89a"
    + struct.pack("<HHBBB", 50_000, 50_000, 0x80, 0, 0)
    + bytes(6)
    + b",\0\0\0\0"
    + struct.pack("<HHB", 50_000, 50_000, 0)
    + b"\x02\x02\x4c\x01\0;",
    "JPEG 2000": file_of(PICTURE, "JPEG2000", no_jp2=True).replace(
        struct.pack(">IIII", 35, 25, 0, 0), struct.pack(">IIII", 35_000, 25_000, 0, 0), 1
    ),
    "WebP": webp(60_000, 60_000),
    "WebP, a little too large": webp(12_000, 12_000),
}
"""Small files that claim much."""

TOO_LARGE = r"at most \d+ pixels, this one has"
EXPECTED = "expected a PNG, JPEG, TIFF, WebP, BMP, GIF or JPEG 2000 image, got "
NOT_READ = "the image is damaged, or a kind of {} that is not read here"

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", EXPECTED + "an empty file"),
    "one byte": (b"\x89", EXPECTED + "1 bytes that begin with"),
    "GIF cut": (frames("GIF")[:200], "the image is damaged"),
    "BMP cut": (file_of(PICTURE, "BMP")[:-900], "the image is damaged"),
    "JPEG 2000 cut": (file_of(PICTURE, "JPEG2000")[:-900], "the image is damaged"),
    "deep JPEG 2000 cut": (deep_jpeg_2000()[:-900], "the image is damaged"),
    "AVIF": (b"\0\0\0\x20ftypavif" + bytes(40), EXPECTED + "an AVIF file"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), EXPECTED + "a HEIC file"),
    "SVG": (b'<?xml version="1.0"?>\n<svg width="9"/>', EXPECTED + "an SVG drawing"),
    "HTML": (b"\n<!DOCTYPE html><html><title>Log in", EXPECTED + "an HTML page, as of a login"),
    "PDF": (b"%PDF-1.7", EXPECTED + "a PDF"),
    "PNG without size": (png(0, 0), NOT_READ.format("PNG")),
    "PNG cut in its header": (file_of(PICTURE, "PNG")[:20], "the image is damaged"),
    "PNG cut": (file_of(PICTURE, "PNG")[:-90], "the image is damaged: image file is truncated"),
    "JPEG cut": (file_of(PICTURE, "JPEG")[:-20], "the image is damaged: image file is truncated"),
    "TIFF cut": (file_of(PICTURE, "TIFF")[:1000], "the image is damaged"),
    "WebP cut": (file_of(PICTURE, "WEBP")[:-20], "the image is damaged"),
    "deep PNG cut": (DEEP_PNG[: len(DEEP_PNG) // 2], "the image is damaged"),
    "deep PNG altered": (flipped(DEEP_PNG, len(DEEP_PNG) // 2), "the image is damaged"),
    "deep PNG without end": (DEEP_PNG[:-12], "its PNG has no end"),
    "deep TIFF cut": (DEEP_TIFF[:-300], NOT_READ.format("TIFF")),
    "TIFF without strips": (grey_tiff(4, 4000, {278: (LONG, 1, 4)}), "needs 1000 strips or tiles"),
    "TIFF, empty": (tiff({}), NOT_READ.format("TIFF")),
    "TIFF of 60,000 samples": (
        grey_tiff(changed={277: (SHORT, 1, 60_000)}),
        NOT_READ.format("TIFF"),
    ),
    "TIFF with text for bits": (
        grey_tiff(changed={258: (2, 4, 0x41414141)}),
        NOT_READ.format("TIFF"),
    ),
    "TIFF of floats, none a number": (
        file_of(np.full((4, 4), np.nan, np.float32), "TIFF"),
        "the image holds no values",
    ),
    "TIFF of logarithmic light": (
        opencv_file(
            RNG.random((5, 7, 3)).astype(np.float32),
            ".tiff",
            *(cv2.IMWRITE_TIFF_COMPRESSION, SGILOG),
        ),
        "a TIFF compressed by SGILOG is not read here",
    ),
    "bomb: PNG": (BOMBS["PNG"], TOO_LARGE),
    "bomb: PNG, a little too large": (BOMBS["PNG, a little too large"], TOO_LARGE),
    "bomb: PNG of 16 bits": (BOMBS["PNG of 16 bits"], TOO_LARGE),
    "bomb: PNG, long": (BOMBS["PNG, long"], "a side may have at most 65535 pixels"),
    "bomb: PNG, one chunk says 2 GB": (BOMBS["PNG, one chunk says 2 GB"], "the image is damaged"),
    "bomb: TIFF": (BOMBS["TIFF"], TOO_LARGE),
    "bomb: TIFF, a little too large": (BOMBS["TIFF, a little too large"], TOO_LARGE),
    "bomb: TIFF, tile": (BOMBS["TIFF, tile"], "a tile may have at most"),
    "bomb: TIFF, a tag says 4 GB": (BOMBS["TIFF, a tag says 4 GB"], NOT_READ.format("TIFF")),
    "bomb: TIFF, 65,535 tags": (BOMBS["TIFF, 65,535 tags"], NOT_READ.format("TIFF")),
    "bomb: BMP": (BOMBS["BMP"], TOO_LARGE),
    "bomb: GIF": (BOMBS["GIF"], TOO_LARGE),
    "bomb: JPEG 2000": (BOMBS["JPEG 2000"], TOO_LARGE),
    "bomb: WebP": (BOMBS["WebP"], TOO_LARGE),
    "bomb: WebP, a little too large": (BOMBS["WebP, a little too large"], TOO_LARGE),
}
"""What is refused, and what the sentence says."""

ROUGHLY = 40
"""Mean difference that a lossy or reduced kind may have from ``COLOUR``."""

GOOD: dict[str, tuple[bytes, Pixels, float]] = {
    "JPEG called PNG": (file_of(PICTURE, "JPEG", quality=95), COLOUR, 12),
    "JPEG with more behind it": (file_of(PICTURE, "JPEG", quality=95) + b"x" * 999, COLOUR, 12),
    "CMYK JPEG": (file_of(PICTURE.convert("CMYK"), "JPEG", quality=95), COLOUR, ROUGHLY),
    "CMYK TIFF, compressed": (
        file_of(PICTURE.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        COLOUR,
        ROUGHLY,
    ),
    "palette": (file_of(PALETTE, "PNG"), COLOUR, ROUGHLY),
    "palette, nothing seen through": (
        file_of(PALETTE, "PNG", transparency=b"\xff" * 8),
        COLOUR,
        ROUGHLY,
    ),
    "palette, all seen through": (
        file_of(PALETTE, "PNG", transparency=bytes(8)),
        np.full_like(COLOUR, 255),
        0,
    ),
    "four channels, all seen through": (
        file_of(np.dstack([COLOUR, np.zeros((25, 35), np.uint8)]), "WEBP"),
        np.full_like(COLOUR, 255),
        0,
    ),
    "animated PNG": (frames("PNG"), COLOUR, 0),
    STILL: (
        file_of(255 - COLOUR, "PNG", save_all=True, append_images=[PICTURE], default_image=True),
        COLOUR,
        0,
    ),
    "animated PNG that is none": (
        png(35, 25, chunk(b"acTL", bytes(8)), chunk(b"IDAT", zlib.compress(bytes(36 * 25)))),
        np.zeros_like(COLOUR),
        0,
    ),
    "animated WebP": (frames("WEBP", lossless=True), COLOUR, 0),
    "TIFF of two pages": (frames("TIFF"), COLOUR, 0),
    "GIF": (frames("GIF"), COLOUR, ROUGHLY),
    "BMP": (file_of(PICTURE, "BMP"), COLOUR, 0),
    "BMP of a palette": (file_of(PALETTE, "BMP"), COLOUR, ROUGHLY),
    "JPEG 2000": (file_of(PICTURE, "JPEG2000"), COLOUR, 0),
    "JPEG 2000 of 16 bits": (
        imagecodecs.jpeg2k_encode(COLOUR.astype(np.uint16) * 16, level=0, bitspersample=12),
        COLOUR,
        6,
    ),
    "TIFF of floats, some not numbers": (
        file_of(np.array([[np.nan, np.inf], [2, 3]], np.float32), "TIFF"),
        np.array([[[0] * 3, [255] * 3], [[0] * 3, [255] * 3]], np.uint8),
        0,
    ),
    "TIFF of one tile": (
        grey_tiff(
            changed={
                322: (LONG, 1, 16),
                323: (LONG, 1, 16),
                324: (LONG, 1, 400),
                325: (LONG, 1, 256),
            },
            without=(273, 278, 279),
        )
        + bytes(600),
        np.zeros((4, 4, 3), np.uint8),
        0,
    ),
    "TIFF of floats as far apart as can be": (
        file_of(np.array([[-3e38, 3e38], [-3e38, 3e38]], np.float32), "TIFF"),
        np.array([[[0] * 3, [255] * 3]] * 2, np.uint8),
        0,
    ),
    "TIFF of large integers that differ by little": (
        file_of(np.array([[2**30, 2**30 + 1], [2**30, 2**30 + 1]], np.int32), "TIFF"),
        np.array([[[0] * 3, [255] * 3]] * 2, np.uint8),
        0,
    ),
    "1 x 1 PNG": (file_of(np.full((1, 1, 3), 7, np.uint8), "PNG"), np.full((1, 1, 3), 7), 0),
    "1 x 1 JPEG": (file_of(np.full((1, 1, 3), 7, np.uint8), "JPEG"), np.full((1, 1, 3), 7), 3),
    "1 x 1 PNG of 16 bits": (
        file_of(np.full((1, 1), 700, np.uint16), "PNG"),
        np.zeros((1, 1, 3)),
        0,
    ),
    "60,000 x 10 PNG": (
        file_of(np.full((10, 60_000, 3), 9, np.uint8), "PNG"),
        np.full((10, 60_000, 3), 9),
        0,
    ),
    "10 x 60,000 TIFF of 16 bits": (
        opencv_file(np.zeros((60_000, 10, 3), np.uint16), ".tiff"),
        np.zeros((60_000, 10, 3)),
        0,
    ),
    "bilevel fax": (
        file_of(PICTURE.convert("1"), "TIFF", compression="group4"),
        np.asarray(PICTURE.convert("1").convert("RGB")),
        0,
    ),
    "JPEG with broken EXIF data": (
        file_of(PICTURE, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        COLOUR,
        12,
    ),
    "PNG with no EXIF data where it should be": (
        file_of(PICTURE, "PNG", exif=b"garbage"),
        COLOUR,
        0,
    ),
}
"""What is read: the file, the pixels, and how far off they may be on average."""


def deep_colour_tiff(image: Pixels, turned: int) -> bytes:
    """A TIFF of 16-bit RGB with an orientation."""
    data = opencv_file((image.astype(np.uint16) * 257)[..., ::-1], ".tiff")
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = [data[at + 2 + 12 * n : at + 14 + 12 * n] for n in range(count)]
    entries = [entry for entry in entries if entry[:2] != struct.pack("<H", ORIENTATION_TAG)]
    entries = sorted([*entries, orientation(turned)], key=lambda entry: entry[1::-1])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory
