"""Files of the kinds that people reported elsewhere as read wrongly; each test links to one."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.backend.odd_images import tiff
from tests.training.tiff.files import FALLING, GREY8, RGB8, RISING, H, W, read, tif
from training.pixels import UnreadableImage

TIGHT = 2
"""Steps of 255 that percentiles and rounding may move a value."""


def close(image: Any, grey: Any, within: float = TIGHT) -> None:
    wanted = np.broadcast_to(np.atleast_3d(grey), (H, W, 3)).astype(int)
    np.testing.assert_allclose(image.astype(int), wanted, atol=within)


@pytest.mark.parametrize(
    "values",
    [
        (RISING.astype(np.int32) - 32768).astype(np.int16),
        (RISING / 255).astype(np.float32),
        (RISING.astype(np.uint32) * 1000),
    ],
)
def test_signed_and_floating_point_numbers_are_inverted_where_the_least_is_white(
    values: Any,
) -> None:
    """https://github.com/xarray-contrib/xarray-spatial/issues/2278: signed numbers were not;
    https://github.com/ome/bioformats/issues/3901: floating-point ones came out otherwise."""
    close(read(tif(values, photometric="miniswhite")).image, 255 - GREY8)


def test_reversed_bits_in_16_bit_samples_are_turned() -> None:
    """https://github.com/python-pillow/Pillow/issues/5249: refused as an unknown kind."""
    pixels = imagecodecs.bitorder_encode(RISING).tobytes()
    tags = {256: W, 257: H, 258: 16, 259: 1, 262: 1, 266: 2, 277: 1, 278: H, 279: len(pixels)}
    begins = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = {tag: (4, 1, value) for tag, value in (tags | {273: begins}).items()}
    close(read(tiff(entries, pixels)).image, GREY8)


def test_a_grey_palette_that_falls_is_shown_by_its_colours() -> None:
    """https://github.com/fiji/fiji/issues/168: shown inverted or not, by how it was opened."""
    falling = Image.fromarray(255 - GREY8, "P")
    falling.putpalette([255 - level for level in range(256) for _ in range(3)])
    buffer = io.BytesIO()
    falling.save(buffer, "PNG")
    close(read(buffer.getvalue()).image, GREY8, 0)


def test_what_a_transparent_pixel_hides_is_not_seen() -> None:
    """https://github.com/kohya-ss/sd-scripts/issues/1269: the colours below came through."""
    opacity = np.zeros((H, W, 1), np.uint8)
    opacity[:20] = 255
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([RGB8, opacity], axis=2)).save(buffer, "PNG")
    image = read(buffer.getvalue()).image
    np.testing.assert_array_equal(image[:20], RGB8[:20])
    assert (image[20:] == 255).all()


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_jpeg_2000_of_few_levels_is_not_black(bits: int) -> None:
    """https://github.com/loris-imageserver/loris/issues/283: 16 bits of 0 to 300, shown black."""
    values = (RISING >> 8).astype(np.uint16)
    data = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits, codecformat="jp2")
    close(read(data).image, GREY8)


@pytest.mark.parametrize("bits", [12, 16])
def test_opacity_of_deep_jpeg_2000_is_no_value_to_stretch_by(bits: int) -> None:
    values = (RISING >> 8).astype(np.uint16)
    opaque = np.full_like(values, 2**bits - 1)
    data = imagecodecs.jpeg2k_encode(np.dstack([values, opaque]), level=0, bitspersample=bits)
    close(read(data).image, GREY8)
    data = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits)
    assert read(data).stretch == "0 to 255"


def test_colour_of_48_bits_in_an_imagej_composite_is_read() -> None:
    """https://github.com/cgohlke/tifffile/issues/6 and
    https://github.com/napari/napari/issues/924: ImageJ's HeLa cells, which crashed readers."""
    stack = np.stack([RISING, FALLING, RISING // 2])
    data = tif(stack, imagej=True, photometric="minisblack", metadata={"mode": "grayscale"})
    seen = read(data)
    close(seen.image, np.stack([GREY8, GREY8[:, ::-1], GREY8], axis=2))
    assert seen.channels == "channels 1-3 of 3"


def test_a_hyperstack_keeps_its_slices_and_channels_apart() -> None:
    """https://github.com/imageio/imageio/issues/226: slices and channels became one axis."""
    stack = np.stack([np.stack([RISING, FALLING]), np.stack([FALLING, RISING])])
    seen = read(tif(stack, imagej=True, metadata={"axes": "ZCYX"}))
    close(seen.image, np.stack([GREY8, GREY8[:, ::-1], 0 * GREY8], axis=2))
    assert seen.part == "z 1 of 2, channels 1, 2 of 2"


@pytest.mark.parametrize("count", [3, 4])
def test_a_series_of_three_or_four_is_not_taken_for_colour(count: int) -> None:
    """https://github.com/scikit-image/scikit-image/issues/4138: grey series became RGB."""
    stack = np.stack([RISING, FALLING, FALLING, RISING][:count])
    seen = read(tif(stack, photometric="minisblack", metadata={"axes": "TYX"}))
    close(seen.image, GREY8)
    assert seen.part == f"time 1 of {count}"


@pytest.mark.parametrize("count", [2, 5, 12])
def test_channels_that_were_saved_as_the_width_of_pages_are_refused_in_words(count: int) -> None:
    """https://github.com/scikit-image/scikit-image/issues/4138 and
    https://github.com/imageio/imageio/issues/849: one row of it was shown as the image."""
    data = tif(np.stack([RISING] * count, axis=2), photometric="minisblack", metadata={})
    says = rf"holds {H} pages of {count} x {W} pixels.*planarconfig='contig'"
    with pytest.raises(UnreadableImage, match=says):
        read(data)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    close(read(tif(np.stack([RISING] * count, axis=2), **options), channels=(2,)).image, GREY8)


def test_pages_of_another_size_are_counted() -> None:
    """https://github.com/scikit-image/scikit-image/issues/5242: such a page was left out."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for values in (RISING, RISING[:40, :50], FALLING):
            writer.write(values, metadata=None)
    seen = read(buffer.getvalue())
    close(seen.image, GREY8)
    assert seen.part == "page 1 of 3"


def test_infinity_does_not_make_the_image_black() -> None:
    """https://github.com/wkentaro/labelme/pull/2255: one infinite pixel did."""
    values = RISING.astype(np.float32)
    values[0, 0] = np.inf
    seen = read(tif(values)).image
    np.testing.assert_allclose(seen[1:, :, 0].astype(int), GREY8[1:], atol=TIGHT)
    assert seen[0, 0].tolist() == [255, 255, 255]
