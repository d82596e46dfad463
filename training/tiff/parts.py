"""A page's strips and tiles: checked against its tags, then decoded by tifffile one by one."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.pixels import UnreadableImage
from training.tiff.directories import not_read

if TYPE_CHECKING:
    from tifffile import TiffPage

BYTES_PER_PIXEL = 16
"""What an image may take decoded, for each pixel that it may have: four numbers of single
precision, or two of double."""

MOST_PADDED = 4
"""Tiles may hold so many times the pixels that an image may have: all of each is decoded."""

MOST_OVERLAP = 4
"""Strips together may be so many times as long as their file: writers that find two tiles alike
store one."""

FAX = (2, 3, 4)
BYTE_CODECS = (1, 5, 8, 32773, 32946, 34925, 34926, 50000)
DEFLATE = (8, 32946)
JPEG = (7,)
IMAGE_CODECS = (33003, 33005, 34712, 34927, 50001)
READ = frozenset((*FAX, *BYTE_CODECS, *JPEG, *IMAGE_CODECS))
"""Compressions: none, LZW, deflate, PackBits, LZMA and Zstandard; fax; JPEG; JPEG 2000 and WebP."""

DECODING = (ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, zlib.error)
"""What a decoder may raise."""

START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers that declare a size."""


def frames_of(page: TiffPage, size: int) -> int:
    """How many pictures such as the page's lie one after another from its data on."""
    if not _lies_plain(page) or not page.nbytes:
        return 1
    return max(1, (size - page.dataoffsets[0]) // page.nbytes)


def check_parts(page: TiffPage, size: int, max_pixels: int) -> None:
    """Refuse a page that takes too much room, or whose strips or tiles cannot be its own.

    Args:
        size: of the file, in bytes.

    Raises:
        UnreadableImage: says which of its sizes is wrong.
    """
    width, height = page.imagewidth, page.imagelength
    part_width, part_height = _part_size(page)
    part_depth, depth = page.tiledepth, page.imagedepth
    if min(part_width, part_height, part_depth, depth) < 1:
        raise not_read(
            f"its strips or tiles are {part_width} x {part_height} x {part_depth}, of a depth of "
            f"{depth}"
        )
    if part_width * part_height * part_depth > max_pixels:
        deep = f" x {part_depth}" if part_depth > 1 else ""
        raise UnreadableImage(
            f"a tile may have at most {max_pixels} pixels, this image's have "
            f"{part_width} x {part_height}{deep}"
        )
    together = page.samplesperpixel if page.planarconfig == 1 else 1
    assert page.dtype is not None
    # Floating-point numbers are doubled to stretch them.
    each = max(page.dtype.itemsize, 8 if page.dtype.kind == "f" else 1)
    room, most = width * height * together * each, BYTES_PER_PIXEL * max_pixels
    needed = -(-width // part_width) * -(-height // part_height)
    if room > most or needed * part_width * part_height * part_depth > MOST_PADDED * max_pixels:
        raise UnreadableImage(
            f"an image may take at most {most >> 20} MiB decoded, this one takes {room >> 20} "
            f"({width} x {height} pixels of {together} samples, in {needed} parts of "
            f"{part_width} x {part_height})"
        )
    planes = -(-depth // part_depth) * (1 if page.planarconfig == 1 else page.samplesperpixel)
    ends = page.dataoffsets[0] + page.nbytes if _lies_plain(page) else size + 1
    if len(page.dataoffsets) < needed * planes and ends > size:
        raise UnreadableImage(
            f"the image is damaged: a TIFF of {width} x {height} pixels needs {needed * planes} "
            f"strips or tiles of {part_width} x {part_height}, it has {len(page.dataoffsets)}"
        )
    if sum(page.databytecounts) > MOST_OVERLAP * size and not _lies_plain(page):
        raise not_read("its strips or tiles overlap")
    held = zip(page.dataoffsets, page.databytecounts, strict=False)
    if not any(at and (count or _lies_plain(page)) for at, count in held):
        raise UnreadableImage("the image is damaged: the file holds none of its pixels")


def _part_size(page: TiffPage) -> tuple[int, int]:
    """(width, height) of a strip or tile."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, page.rowsperstrip


def _lies_plain(page: TiffPage) -> bool:
    """All values lie one after another, just as numbers."""
    return page.is_contiguous and page.fillorder == 1 and page.predictor == 1


def read_samples(
    file: BinaryIO, page: TiffPage, frame: int, samples: Sequence[int]
) -> NDArray[Any]:
    """These samples of a page's first slice, [H, W, samples], in this machine's byte order.

    Args:
        frame: which of the pictures that follow one another (``frames_of``).

    Raises:
        UnreadableImage: its data is damaged.
    """
    assert page.dtype is not None
    height, width = page.imagelength, page.imagewidth
    apart = page.planarconfig != 1
    together = 1 if apart else page.samplesperpixel
    planes = list(samples) if apart else [0]
    pieces = []
    for plane in planes:
        if _lies_plain(page):
            pieces.append(_read_plain(file, page, frame, plane, (height, width, together)))
        else:
            pieces.append(_decode(file, page, plane, (height, width, together)))
    found = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=2)
    if apart or list(samples) == list(range(together)):
        return found
    return found[..., list(samples)]


def _read_plain(
    file: BinaryIO, page: TiffPage, frame: int, plane: int, shape: tuple[int, int, int]
) -> NDArray[Any]:
    assert page.dtype is not None
    dtype = page.dtype.newbyteorder(page.parent.byteorder)
    size = math.prod(shape) * dtype.itemsize
    file.seek(page.dataoffsets[0] + frame * page.nbytes + plane * size * page.imagedepth)
    data = file.read(size)
    if len(data) < size:
        raise UnreadableImage(
            f"the image is damaged: {size} bytes of pixels are needed, the file ends after "
            f"{len(data)}"
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(page.dtype, copy=False)


def _decode(
    file: BinaryIO, page: TiffPage, plane: int, shape: tuple[int, int, int]
) -> NDArray[Any]:
    """The strips or tiles of a plane, put together."""
    from tifffile import COMPRESSION

    assert page.dtype is not None
    height, width, _ = shape
    part_width, part_height = _part_size(page)
    parts = -(-width // part_width) * -(-height // part_height)
    slabs = -(-page.imagedepth // page.tiledepth)
    whole = np.full(shape, page.nodata, page.dtype)
    extra: dict[str, Any] = {"jpegtables": page.jpegtables} if page.compression in JPEG else {}
    for part in range(parts):
        index = plane * parts * slabs + part
        data = _part(file, page, index)
        if data is None:
            continue  # GDAL leaves out what holds no data
        if page.compression in (*JPEG, *IMAGE_CODECS):
            _check_declared(data, page)
        try:
            values, (_, _, top, left, _), _ = _decode_part(data, page, index, extra)
        except DECODING as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            if page.compression in BYTE_CODECS:
                raise UnreadableImage(f"the image is damaged: {reason}") from error
            name = COMPRESSION(page.compression).name
            raise not_read(f"{name}: {reason}") from error
        assert values is not None
        whole[top : top + values.shape[1], left : left + values.shape[2]] = values[
            0, : height - top, : width - left
        ]
    return whole


def _decode_part(data: bytes, page: TiffPage, index: int, extra: dict[str, Any]) -> Any:
    """What tifffile's decoder gives: (values [z, h, w, samples], where they lie, their shape)."""
    try:
        return page.decode(data, index, **extra)
    except DECODING:
        if page.compression not in DEFLATE:
            raise
        # Some writers fill up the last strip, and the decoder takes nothing that is too long.
        width, height = _part_size(page)
        assert page.dtype is not None
        samples = page.samplesperpixel if page.planarconfig == 1 else 1
        most = width * height * samples * page.dtype.itemsize
        last = page.imagelength % height or height
        raw = zlib.decompressobj().decompress(data, most)
        if page.is_tiled or len(raw) != most or last == height or page.bitspersample % 8:
            raise
        return page.decode(zlib.compress(raw[: most * last // height], 0), index, **extra)


def _part(file: BinaryIO, page: TiffPage, index: int) -> bytes | None:
    at, count = page.dataoffsets[index], page.databytecounts[index]
    if at == 0 or count == 0:
        return None
    file.seek(at)
    data = file.read(count)
    if len(data) < count:
        raise UnreadableImage(
            f"the image is damaged: strip or tile {index + 1} needs {count} bytes, the file "
            f"ends after {len(data)}"
        )
    return data


def _check_declared(data: bytes, page: TiffPage) -> None:
    """Refuse an image within a tile that declares to be larger than the tile."""
    most_width, most_height = _part_size(page)
    if page.compression in JPEG:
        width, height = _jpeg_size(data)
    else:
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG2000", "WEBP")) as opened:
                width, height = opened.size
        except (Image.DecompressionBombError, UnidentifiedImageError) as error:
            raise not_read(
                f"a strip or tile within it is no image, or too large ({error})"
            ) from error
    # Encoders fill up the last strip and whole blocks.
    if width > most_width + 16 or height > most_height + 16:
        raise not_read(
            f"a strip or tile of {most_width} x {most_height} declares {width} x {height} pixels"
        )


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in START_OF_FRAME:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(
                data[at + 5 : at + 7], "big"
            )
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise not_read("a strip or tile is no JPEG")
