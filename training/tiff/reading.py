"""The pixels of a TIFF, as it means them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.channels import channel_names
from training.pixels import (
    DECODER_ERRORS,
    SIDEWAYS,
    Decoded,
    Image8,
    UnreadableImage,
    check_channels,
    check_size,
    over_white,
    rgb,
    stretch,
    upright,
    valid_values,
)
from training.tiff.directories import Directories, Directory, not_read
from training.tiff.layout import Layout, Plane, layout_of, main_page
from training.tiff.parts import READ, check_parts, frames_of, read_samples
from training.tiff.pixel_size import pixel_size_um

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MAX_SAMPLES = 4096
"""Samples of a pixel."""

MOST_TRIED = 32
"""Channels that are looked at to find three that hold something."""

MIN_IS_WHITE, MIN_IS_BLACK, COLOURS, PALETTE, CMYK, YCBCR, CIELAB = SHOWN = (
    *(0, 1, 2, 3, 5, 6, 8),
)
PHOTOMETRIC = {
    4: "a transparency mask",
    9: "ICC L*a*b* colour",
    10: "ITU L*a*b* colour",
    32803: "the mosaic of a camera's sensor, before it is made a picture",
    32844: "LogL light",
    32845: "LogLuv colour",
    34892: "a camera's linear raw values",
}
"""What is refused, in words."""

PREMULTIPLIED, OPACITY = 1, 2
"""ExtraSamples that say how opaque a pixel is."""

JPEG, NODATA = 7, 42113

# A strange file would have it print whatever it stumbles over, which we say in one sentence.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF, a BigTIFF or neither."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def shown_size(file: BinaryIO) -> tuple[int, int]:
    """(width, height) of the image after it was turned upright, by its tags alone.

    Raises:
        UnreadableImage: they are damaged.
    """
    page = main_page(Directories(file))
    size = (page.width, page.height)
    return size[::-1] if page.orientation in SIDEWAYS else size


def read_tiff(file: BinaryIO, max_pixels: int, channels: Sequence[int] | None) -> Decoded:
    """The image of a TIFF; ``training.images.decode_image`` says which that is.

    Raises:
        UnreadableImage: says what is wrong with it.
    """
    from tifffile import TiffFile

    directories = Directories(file)
    main = main_page(directories)
    check_size(main.width, main.height, max_pixels)
    if not 0 < main.samples <= MAX_SAMPLES:
        raise not_read(f"its pixels have {main.samples} samples")
    file.seek(0)
    try:
        # These kinds would load all their pages, or other files, as they are opened.
        opened = TiffFile(
            file, is_lsm=False, is_scanimage=False, is_ndpi=False, is_mmstack=False, is_ndtiff=False
        )
        return _Reader(opened, file, directories, max_pixels).read(main, channels)
    except UnreadableImage:
        raise
    except DECODER_ERRORS as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise not_read(reason) from error


class _Reader:
    """An open TIFF whose directories were checked."""

    def __init__(
        self, opened: TiffFile, file: BinaryIO, directories: Directories, max_pixels: int
    ) -> None:
        self._opened = opened
        self._file = file
        self._directories = directories
        self._max_pixels = max_pixels
        self._pages: dict[int, TiffPage] = {}
        self._interleaved: tuple[Plane, NDArray[Any]] | None = None

    def read(self, main: Directory, channels: Sequence[int] | None) -> Decoded:
        page = self._page(main)
        description = self._opened.pages.first.description
        layout = layout_of(
            self._directories,
            main,
            description,
            page.imagewidth * page.imagelength * page.samplesperpixel * page.imagedepth,
            frames_of(page, self._directories.size),
        )
        first = layout.planes[0]
        page = self._page(first.directory)
        colour = _is_colour(page) and len(layout.planes) == 1
        if colour and (channels is None or page.photometric != COLOURS):
            image, stretched = self._colour(page, first)
            names = "RGB"
            if channels is not None:
                check_channels(channels, 3)
                image = rgb([image[..., channel - 1] for channel in channels])
                names = channel_names(channels, 3)
            position = layout.position
        else:
            image, names, stretched, position = self._channels(page, layout, channels)
        if page.imagedepth > 1:
            position = ", ".join(part for part in (position, f"z 1 of {page.imagedepth}") if part)
        self._interleaved = None
        orientation = first.directory.orientation
        pixel_um = pixel_size_um(page, description)
        if orientation != 1:
            image = np.asarray(upright(Image.fromarray(image), orientation))
        if orientation in SIDEWAYS and pixel_um is not None:
            pixel_um = pixel_um[::-1]
        pixels = np.ascontiguousarray(image)
        return Decoded(pixels, _bits(page), names, position, stretched, pixel_um)

    def _page(self, directory: Directory) -> TiffPage:
        """The tags of a page, which may be decoded."""
        from tifffile import TiffPage

        if directory.at not in self._pages:
            self._opened.filehandle.seek(directory.at)
            page = TiffPage(self._opened, 0)
            _check_kind(page)
            check_parts(page, self._directories.size, self._max_pixels)
            self._pages = {directory.at: page}
        return self._pages[directory.at]

    def _read(self, plane: Plane, samples: Sequence[int]) -> NDArray[Any]:
        """[H, W, samples] of a picture."""
        page = self._page(plane.directory)
        if page.planarconfig != 1:
            return read_samples(self._file, page, plane.frame, samples)
        if self._interleaved is None or self._interleaved[0] != plane:
            self._interleaved = None  # before another takes as much room
            samples_of_page = range(page.samplesperpixel)
            read = read_samples(self._file, page, plane.frame, samples_of_page)
            self._interleaved = (plane, read)
        everything = self._interleaved[1]
        if list(samples) == list(range(everything.shape[2])):
            return everything
        return everything[..., list(samples)]

    def _colour(self, page: TiffPage, plane: Plane) -> tuple[Image8, str]:
        """[H, W, 3] of a page that says which colours its samples are."""
        if page.photometric == PALETTE:
            image = _through_palette(page, self._read(plane, [0])[..., 0])
            if (found := _opacity(page, 1)) is not None:
                seen = _eight_bits(page, self._read(plane, [found[0]]))
                image = over_white(np.dstack([image, seen]), premultiplied=found[1])
            return image, ""
        if page.photometric == CMYK:
            ink = _eight_bits(page, self._read(plane, range(4)))
            return np.asarray(
                Image.frombytes("CMYK", (ink.shape[1], ink.shape[0]), ink.tobytes()).convert("RGB")
            ), ""
        if page.photometric == CIELAB:
            lab = _eight_bits(page, self._read(plane, range(3)))
            return _from_lab(lab), ""
        alpha = _opacity(page, 3)
        deep = self._read(plane, range(3) if alpha is None else [0, 1, 2, alpha[0]])
        if page.photometric == YCBCR and page.compression != JPEG:
            picture = Image.fromarray(_eight_bits(page, deep), "YCbCr")
            return np.asarray(picture.convert("RGB")), ""
        self._interleaved = None  # its room is needed
        if alpha is not None:
            deep = over_white(deep, premultiplied=alpha[1], bits=_bits_each(page))
        return _to_8_bits(page, deep)

    def _channels(
        self, page: TiffPage, layout: Layout, channels: Sequence[int] | None
    ) -> tuple[Image8, str, str, str]:
        """Pixels, names, stretch and position of one to three channels."""
        alpha = _opacity(page, _colours(page))
        each = page.samplesperpixel if alpha is None else alpha[0]
        planes, position = layout.planes, layout.position
        if channels is not None and layout.pages and each == 1:
            planes, position = layout.pages, ""
        count = len(planes) * each

        def values(channel: int) -> NDArray[Any]:
            plane, sample = planes[(channel - 1) // each], (channel - 1) % each
            if alpha is None:
                return self._read(plane, [sample])[..., 0]
            deep = self._read(plane, [sample, sample, sample, alpha[0]])
            inverted, bits = page.photometric == MIN_IS_WHITE, _bits_each(page)
            return over_white(deep, alpha[1], inverted, bits)[..., 0]

        if channels is not None:
            check_channels(channels, count)
            chosen = {channel: values(channel) for channel in channels}
        elif count == 1:
            chosen = {1: values(1)}
        else:
            chosen = _first_that_hold_something(page, values, count)
        seen = {channel: _to_8_bits(page, deep) for channel, deep in chosen.items()}
        shown = tuple(channels or chosen)
        names = "grey" if count == 1 else channel_names(shown, count)
        stretched = "; ".join(seen[channel][1] for channel in shown if seen[channel][1])
        return rgb([seen[channel][0] for channel in shown]), names, stretched, position


def _first_that_hold_something(
    page: TiffPage, values: Callable[[int], NDArray[Any]], count: int
) -> dict[int, NDArray[Any]]:
    """The first three channels that are not constant; the first one if all are."""
    found: dict[int, NDArray[Any]] = {}
    for channel in range(1, min(count, MOST_TRIED) + 1):
        deep = values(channel)
        valid = valid_values(deep, _nodata(page))
        known = deep if valid is None else deep[valid]
        if known.size and not (known == known.flat[0]).all():
            found[channel] = deep
        if len(found) == 3:
            break
    return found or {1: values(1)}


def _is_colour(page: TiffPage) -> bool:
    if page.photometric == PALETTE:
        return page.samplesperpixel <= 2  # the second says how opaque it is
    fewest = {COLOURS: 3, YCBCR: 3, CIELAB: 3, CMYK: 4}
    return page.samplesperpixel >= fewest.get(page.photometric, MAX_SAMPLES + 1)


def _check_kind(page: TiffPage) -> None:
    """Refuse, in words, what cannot be read though it is not damaged."""
    photometric = int(page.photometric) if isinstance(page.photometric, int) else -1
    what = ""
    if not isinstance(page.compression, int):
        raise not_read("its compression is no number")
    if page.compression not in READ:
        what = f"compressed by {getattr(page.compression, 'name', page.compression)}"
    elif photometric not in SHOWN:
        what = f"that holds {PHOTOMETRIC.get(photometric, f'photometric kind {photometric}')}"
    elif page.dtype is None or page.dtype.kind == "c":
        what = f"of {page.bitspersample} bits and sample format {page.sampleformat}"
    elif page.is_subsampled and page.compression != JPEG:
        what = "of subsampled YCbCr without JPEG"
    elif photometric == CIELAB and page.bitspersample != 8:
        what = f"of L*a*b* colour in {page.bitspersample} bits"
    elif photometric in (YCBCR, CMYK, PALETTE) and page.dtype.kind not in "ub":
        what = f"of colours in {page.dtype} numbers"
    if what:
        raise UnreadableImage(
            f"a TIFF {what} is not read here: save it as grey or RGB, without compression or with "
            "LZW, deflate or JPEG"
        )


def _opacity(page: TiffPage, colours: int) -> tuple[int, bool] | None:
    """(which sample, premultiplied) says how opaque a pixel is; None if none does."""
    assert page.dtype is not None
    if page.dtype.kind == "u":
        for number, kind in enumerate(page.extrasamples):
            if kind in (PREMULTIPLIED, OPACITY) and colours + number < page.samplesperpixel:
                return colours + number, kind == PREMULTIPLIED
    return None


def _colours(page: TiffPage) -> int:
    """Samples of a pixel before the extra ones."""
    if page.photometric in (COLOURS, YCBCR, CIELAB):
        return 3
    return 4 if page.photometric == CMYK else 1


def _nodata(page: TiffPage) -> float | None:
    """The value that stands for none; tifffile gives 0 for one that no pixel can have."""
    if NODATA not in page.tags:
        return None
    try:
        said = float(page.tags[NODATA].value.strip(" \0"))
    except (AttributeError, ValueError):
        return None
    return page.nodata if np.isnan(said) or said == page.nodata else None


def _to_8_bits(page: TiffPage, deep: NDArray[Any]) -> tuple[Image8, str]:
    """8 bits, and what they were stretched from; black is 0 whatever the file says."""
    inverted, nodata = page.photometric == MIN_IS_WHITE, _nodata(page)
    if deep.dtype.kind not in "ub" or deep.dtype.itemsize > 1:
        return stretch(deep, nodata, inverted=inverted)
    grey = _eight_bits(page, deep)
    if inverted:
        grey = 255 - grey
        if nodata is not None:
            grey[deep == nodata] = 0
    return grey, ""


def _eight_bits(page: TiffPage, values: NDArray[Any]) -> Image8:
    """Unsigned values over their whole range."""
    bits = _bits_each(page) or 8
    if values.dtype.kind == "b":
        values = values.astype(np.uint8) * np.uint8(255)
    elif bits < 8:
        values = values.astype(np.uint16) * 255 // (2**bits - 1)
    elif bits > 8:
        values = values >> (bits - 8)
    return values.astype(np.uint8, copy=False)


def _bits_each(page: TiffPage) -> int | None:
    """Bits of a sample; None where they differ."""
    return page.bitspersample if isinstance(page.bitspersample, int) else None


def _through_palette(page: TiffPage, indices: NDArray[Any]) -> Image8:
    """[H, W, 3] of [H, W] places in the page's colour map."""
    colours = page.colormap
    if colours is None or colours.ndim != 2 or colours.shape[0] != 3:
        raise UnreadableImage("the image is damaged: it has a palette without colours")
    if int(indices.max()) >= colours.shape[1]:
        raise UnreadableImage(
            f"the image is damaged: it uses colour {int(indices.max())} of a palette of "
            f"{colours.shape[1]}"
        )
    # Colours are of 16 bits, but some writers give 8.
    eight = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    places = indices.astype(np.uint8) if indices.dtype.kind == "b" else indices
    image: Image8 = np.ascontiguousarray(eight.T)[places]
    return image


def _from_lab(lab: Image8) -> Image8:
    from PIL import ImageCms

    picture = Image.frombytes("LAB", (lab.shape[1], lab.shape[0]), lab.tobytes())
    srgb = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert srgb is not None
    return np.asarray(srgb)


def _bits(page: TiffPage) -> str:
    assert page.dtype is not None
    kind = {"i": " signed", "f": " float"}.get(page.dtype.kind, "")
    bits = page.bitspersample
    return (str(bits) if isinstance(bits, int) else ",".join(map(str, bits))) + kind
