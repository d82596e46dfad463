"""Each kind of TIFF is read as it is meant: its samples, numbers, colours and compressions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.training.tiff.files import (
    DOWN,
    FALLING,
    GREY8,
    RGB8,
    RGB16,
    RISING,
    H,
    W,
    X,
    Y,
    pages,
    patched,
    read,
    tif,
)
from training.images import read_image
from training.pixels import UnreadableImage

CASES = Path(__file__).parents[4] / "shared/cases/tiff"

TIGHT = 2
"""Steps of 255 that percentiles and rounding may move a value."""


def close(image: Any, expected: Any, within: float = TIGHT) -> None:
    assert image.shape == (H, W, 3)
    wanted = np.broadcast_to(np.atleast_3d(expected), (H, W, 3)).astype(int)
    np.testing.assert_allclose(image.astype(int), wanted, atol=within)


# What lies where


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"rowsperstrip": 5},
        {"tile": (16, 32)},
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
        {"compression": "zstd", "tile": (32, 32)},
        {"compression": "packbits"},
        {"compression": "lzma"},
    ],
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_deep_colour_is_read_however_it_is_stored(
    planar: str, how: dict[str, Any], bigtiff: bool, byteorder: str
) -> None:
    values = RGB16 if planar == "contig" else RGB16.transpose(2, 0, 1)
    data = tif(
        values, photometric="rgb", planarconfig=planar, bigtiff=bigtiff, byteorder=byteorder, **how
    )
    seen = read(data)
    close(seen.image, RGB8)
    assert (seen.bits, seen.channels, seen.page) == ("16", "RGB", "")
    assert seen.stretch == "0 to 65535"


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_eight_bits_come_back_as_they_were(planar: str) -> None:
    values = RGB8 if planar == "contig" else RGB8.transpose(2, 0, 1)
    seen = read(tif(values, photometric="rgb", planarconfig=planar, compression="lzw"))
    np.testing.assert_array_equal(seen.image, RGB8)
    assert (seen.bits, seen.stretch) == ("8", "")


@pytest.mark.parametrize(
    ("how", "within"),
    [
        ({"compression": "jpeg", "compressionargs": {"level": 95}}, 25),
        ({"compression": "jpeg", "compressionargs": {"level": 95}, "tile": (16, 16)}, 25),
        ({"compression": "jpeg2000", "compressionargs": {"level": 0}}, 0),
        ({"compression": "jpeg2000", "compressionargs": {"level": 0}, "tile": (32, 32)}, 0),
        ({"compression": "webp", "compressionargs": {"lossless": True}}, 0),
    ],
)
def test_images_within_the_image_are_decoded(how: dict[str, Any], within: int) -> None:
    seen = read(tif(RGB8, photometric="rgb", **how))
    close(seen.image, RGB8, within)


def test_jpeg_in_ycbcr_is_read_in_its_colours() -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB8).save(buffer, "TIFF", compression="jpeg", quality=95)
    close(read(buffer.getvalue()).image, RGB8, 30)


def test_deep_jpeg_2000_is_stretched() -> None:
    seen = read(tif(RISING, compression="jpeg2000", compressionargs={"level": 0}))
    close(seen.image, GREY8)


# Numbers


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (RISING, "16"),
        ((RISING // 2).astype(np.int16) - 9000, "16 signed"),
        ((GREY8.astype(np.int16) - 128).astype(np.int8), "8 signed"),
        (RISING.astype(np.uint32) * 60_000, "32"),
        (RISING.astype(np.int32) - 40_000, "32 signed"),
        (RISING.astype(np.uint64) << 40, "64"),
        ((RISING / 65535).astype(np.float16), "16 float"),
        ((RISING / 65535).astype(np.float32), "32 float"),
        (RISING.astype(np.float64) * 1e30, "64 float"),
    ],
)
def test_each_kind_of_number_is_stretched_to_8_bits(values: Any, bits: str) -> None:
    seen = read(tif(values))
    close(seen.image, GREY8)
    assert (seen.bits, seen.channels) == (bits, "grey")
    assert " to " in seen.stretch


def test_colours_of_floating_point_keep_their_proportions() -> None:
    values = (RGB16 / 65535).astype(np.float32)
    values[..., 1] /= 2
    expected = RGB8.copy()
    expected[..., 1] //= 2
    close(read(tif(values, photometric="rgb")).image, expected)


@pytest.mark.parametrize("predictor", [False, True])
def test_floating_point_predictor(predictor: bool) -> None:
    values = (RISING / 65535).astype(np.float32)
    close(read(tif(values, compression="zlib", predictor=predictor)).image, GREY8)


def packed(values: Any, bits: int) -> bytes:
    """A TIFF of numbers of so many bits, one after another, rows beginning at a byte."""
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    data = b"".join(
        int(row.ljust(-len(row) % 8 + len(row), "0"), 2).to_bytes(-(-len(row) // 8), "big")
        for row in rows
    )
    written = tif(np.frombuffer(data.ljust(H * W, b"\0"), np.uint8).reshape(H, W))
    return patched(patched(written, 258, bits), 279, len(data))


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_packed_numbers_are_unpacked(bits: int) -> None:
    most = 2**bits - 1
    values = X * most // (W - 1)
    if bits > 8:
        written = tif(RISING)
        with_bits = packed_deep(values, bits, written)
    else:
        with_bits = packed(values, bits)
    seen = read(with_bits)
    close(seen.image, values * 255 // most)
    assert seen.bits == str(bits)


def packed_deep(values: Any, bits: int, written: bytes) -> bytes:
    row = [
        "".join(f"{value:0{bits}b}" for value in line).ljust(-(-W * bits // 8) * 8, "0")
        for line in values.tolist()
    ]
    data = b"".join(int(line, 2).to_bytes(len(line) // 8, "big") for line in row)
    with tifffile.TiffFile(io.BytesIO(written)) as opened:
        at = opened.pages.first.dataoffsets[0]
    changed = patched(patched(written, 258, bits), 279, len(data))
    return changed[:at] + data + changed[at + len(data) :]


def test_bilevel_is_black_and_white() -> None:
    seen = read(tif(GREY8 > 100, photometric="minisblack"))
    np.testing.assert_array_equal(seen.image[..., 0], np.where(GREY8 > 100, 255, 0))
    assert seen.bits == "1"


@pytest.mark.parametrize("kind", ["group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"])
@pytest.mark.parametrize("white", [0, 1])
def test_faxes_are_read_whichever_is_white(kind: str, white: int) -> None:
    buffer = io.BytesIO()
    bilevel = Image.fromarray(GREY8).convert("1")
    bilevel.save(buffer, "TIFF", compression=kind, tiffinfo={262: white})
    wanted = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    np.testing.assert_array_equal(read(buffer.getvalue()).image, wanted)


# What is no value


def test_what_is_no_number_is_black_and_stretches_nothing() -> None:
    values = (RISING / 65535).astype(np.float32)
    values[:5], values[5:7], values[7:9] = np.nan, np.inf, -np.inf
    seen = read(tif(values))
    assert (seen.image[:5] == 0).all()
    assert (seen.image[5:7] == 255).all()
    assert (seen.image[7:9] == 0).all()
    np.testing.assert_allclose(seen.image[9:, :, 0].astype(int), GREY8[9:], atol=TIGHT)


@pytest.mark.parametrize(
    ("dtype", "nodata"), [(np.int16, -9999), (np.float32, -9999.0), (np.uint16, 0)]
)
def test_what_gdal_marks_as_no_data_stretches_nothing(dtype: Any, nodata: float) -> None:
    values = (1000 + X * 10 + 0 * Y).astype(dtype)
    values[:8] = nodata
    data = tif(values, extratags=[(42113, "s", 0, str(nodata), True)])
    seen = read(data)
    assert (seen.image[:8] == 0).all()
    np.testing.assert_allclose(seen.image[8:, :, 0].astype(int), GREY8[8:], atol=TIGHT)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_no_data_is_black_too_where_the_least_is_white(dtype: Any) -> None:
    values = (GREY8 // 2 + 100).astype(dtype)
    values[:8] = 7
    tag = [(42113, "s", 0, "7", True)]
    seen = read(tif(values, photometric="miniswhite", extratags=tag))
    assert (seen.image[:8] == 0).all()
    inverted = 255 - (values[8:] if dtype == np.uint8 else GREY8[8:]).astype(int)
    np.testing.assert_allclose(seen.image[8:, :, 0].astype(int), inverted, atol=TIGHT)


def test_the_largest_number_means_no_data_where_nobody_says_so() -> None:
    values = (1000 + X * 10 + 0 * Y).astype(np.float32)
    values[:8] = np.finfo(np.float32).min
    seen = read(tif(values))
    np.testing.assert_allclose(seen.image[8:, :, 0].astype(int), GREY8[8:], atol=TIGHT)


def test_an_image_without_any_number_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="holds no values"):
        read(tif(np.full((H, W), np.nan, np.float32)))


def test_a_channel_without_any_number_holds_nothing() -> None:
    empty, partly = np.full((2, H, W), np.nan, np.float32)
    partly[5:] = 7.0
    stack = np.stack([empty, partly, RISING.astype(np.float32)])
    seen = read(tif(stack, photometric="minisblack", metadata={"axes": "CYX"}))
    assert seen.channels == "channel 3 of 3"
    close(seen.image, GREY8)


def test_tiles_that_gdal_left_out_are_black() -> None:
    data = tif(GREY8 + 1 - (GREY8 == 255), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        tags = opened.pages.first.tags
        places = [tags[324].valueoffset, tags[325].valueoffset]
        size = {3: 2, 4: 4}[int(tags[325].dtype)]
    sparse = bytearray(data)
    sparse[places[0] : places[0] + 4] = bytes(4)
    sparse[places[1] : places[1] + size] = bytes(size)
    image = read(bytes(sparse)).image
    assert (image[:16, :16] == 0).all()
    assert (image[:16, 16:] > 0).all()


@pytest.mark.parametrize("depth", [4, 5])
def test_of_tiles_with_a_depth_the_first_slice_is_read(depth: int) -> None:
    volume = np.stack([RISING, FALLING, DOWN, RISING, DOWN][:depth])
    data = tif(volume, tile=(2, 16, 32), volumetric=True, photometric="minisblack")
    seen = read(data)
    close(seen.image, GREY8)
    assert seen.part == f"z 1 of {depth}"


# Colours


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_the_least(dtype: Any) -> None:
    values = GREY8 if dtype == np.uint8 else RISING
    close(read(tif(values, photometric="miniswhite")).image, 255 - GREY8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_palette_gives_its_colours(dtype: Any) -> None:
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 2 ** (8 * dtype().itemsize)))
    colours = colours.astype(np.uint16)
    indices = (GREY8 if dtype == np.uint8 else RISING).astype(dtype)
    seen = read(tif(indices, photometric="palette", colormap=colours))
    np.testing.assert_array_equal(seen.image, (colours[:, indices] >> 8).transpose(1, 2, 0))
    assert seen.channels == "RGB"


def test_a_palette_with_opacity_gives_its_colours_over_white() -> None:
    picture = Image.fromarray(RGB8).convert("P")
    colours = np.asarray(picture.convert("RGB")).copy()
    picture = picture.convert("PA")
    opacity = np.where(Y < 10, 0, 255).astype(np.uint8)
    picture.putalpha(Image.fromarray(opacity))
    file = io.BytesIO()
    picture.save(file, "TIFF")
    colours[:10] = 255
    seen = read(file.getvalue())
    np.testing.assert_array_equal(seen.image, colours)
    assert seen.channels == "RGB"


@pytest.mark.parametrize("depth", [8, 16])
def test_cmyk_becomes_rgb(depth: int) -> None:
    ink = np.zeros((H, W, 4), np.uint8)
    ink[..., 1] = GREY8
    values = ink if depth == 8 else ink.astype(np.uint16) * 257
    expected = np.full((H, W, 3), 255)
    expected[..., 1] = 255 - GREY8
    close(read(tif(values, photometric="separated")).image, expected)


def test_lab_becomes_rgb() -> None:
    lab = np.zeros((H, W, 3), np.uint8)
    lab[..., 0], lab[..., 1] = 136, 81  # red, L* 53.3, a* 80, b* 67
    lab[..., 2] = 70
    seen = read(tif(lab, photometric="cielab")).image[0, 0].astype(int)
    assert seen[0] > 240
    assert (seen[1:] < 40).all()


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_what_is_transparent_is_white(kind: str, depth: int) -> None:
    opacity = np.full((H, W), 255, np.uint8)
    opacity[:10] = 0
    colours = RGB8.copy()
    if kind == "assocalpha":
        colours[:10] = 0
    values = np.dstack([colours, opacity])
    if depth == 16:
        values = values.astype(np.uint16) * 257
    seen = read(tif(values, photometric="rgb", extrasamples=[kind])).image
    assert (seen[:10] == 255).all()
    np.testing.assert_allclose(seen[10:].astype(int), RGB8[10:], atol=TIGHT)


def test_grey_with_opacity_is_laid_over_white() -> None:
    opacity = np.where(Y < 10, 0, 255).astype(np.uint8)
    values = np.dstack([GREY8, opacity])
    seen = read(tif(values, photometric="minisblack", extrasamples=["unassalpha"]))
    assert (seen.image[:10] == 255).all()
    np.testing.assert_array_equal(seen.image[10:, :, 0], GREY8[10:])
    assert seen.channels == "grey"


@pytest.mark.parametrize("bits", [4, 12])
def test_opacity_of_packed_numbers_counts_by_their_bits(bits: int) -> None:
    dtype = np.uint8 if bits < 8 else np.uint16
    colours = (RGB8.astype(int) * (2**bits - 1) // 255).astype(dtype)
    opacity = np.where(Y < 10, 0, 2**bits - 1).astype(dtype)
    how: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    seen = read(tif(np.dstack([colours, opacity]), bitspersample=bits, **how))
    assert (seen.image[:10] == 255).all()
    np.testing.assert_allclose(seen.image[10:].astype(int), RGB8[10:], atol=256 / 2**bits + 1)


def test_opacity_is_laid_over_white_where_the_least_is_white_too() -> None:
    opacity = np.where(Y < 10, 0, 255).astype(np.uint8)
    values = np.dstack([GREY8, opacity])
    seen = read(tif(values, photometric="miniswhite", extrasamples=["unassalpha"])).image
    assert (seen[:10] == 255).all()
    np.testing.assert_array_equal(seen[10:, :, 0], 255 - GREY8[10:])


def test_a_fourth_sample_that_says_nothing_is_not_shown() -> None:
    values = np.dstack([RGB8, np.zeros((H, W), np.uint8)])
    seen = read(tif(values, photometric="rgb", extrasamples=["unspecified"]))
    np.testing.assert_array_equal(seen.image, RGB8)


def test_colour_stays_colour_where_one_of_its_samples_is_constant() -> None:
    green_only = RGB16.copy()
    green_only[..., 0] = green_only[..., 2] = 0
    seen = read(tif(green_only, photometric="rgb")).image
    assert (seen[..., [0, 2]] == 0).all()
    np.testing.assert_allclose(seen[..., 1].astype(int), DOWN >> 8, atol=TIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("values", [RGB8, RISING])
def test_the_orientation_turns_the_image(values: Any, orientation: int) -> None:
    photometric = "rgb" if values.ndim == 3 else "minisblack"
    tag = [(274, "H", 1, orientation, True)]
    plain = read(tif(values, photometric=photometric)).image
    turned = read(tif(values, photometric=photometric, extratags=tag)).image
    transpose: dict[int, Any] = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: np.rot90(plain, -1),
        7: np.rot90(plain, 2).transpose(1, 0, 2),
        8: np.rot90(plain),
    }
    np.testing.assert_array_equal(turned, transpose[orientation])


# What is refused though it is whole


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tif(RISING.astype(np.complex64)), "of 64 bits"),
        (tif(RISING, compression="jpegxl", compressionargs={"lossless": True}), "JPEGXL"),
        (tif(GREY8, photometric=32803), "mosaic of a camera"),
        (patched(tif(RISING), 258, 40), "of 40 bits"),
    ],
)
def test_a_kind_that_is_not_read_is_not_called_damaged(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableImage, match=says) as refused:
        read(data)
    assert "damaged" not in str(refused.value)
    assert "is not read here: save it as grey or RGB" in str(refused.value)


# The files that people brought


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not there")
def test_the_planar_case_is_its_picture() -> None:
    with (CASES / "rgb16_planar.tif").open("rb") as file:
        image = read_image(file).image.astype(int)
    assert image.shape == (48, 64, 3)
    assert (np.diff(image[40, :, 0]) >= 0).all()
    assert (np.diff(image[:, 5, 1]) >= 0).all()
    disc = (X - 40) ** 2 + (Y - 20) ** 2 < 81
    assert image[disc, 2].min() > 200
    assert image[~disc & ((X - 40) ** 2 + (Y - 20) ** 2 > 121), 2].max() < 50


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not there")
def test_the_hyperstack_case_shows_its_two_channels() -> None:
    path = CASES / "imagej_hyperstack_c3.tif"
    with path.open("rb") as file:
        seen = read_image(file)
    assert seen.channels == "channels 2, 3 of 3"
    close(seen.image, np.dstack([GREY8, seen.image[..., 1], 0 * GREY8]))
    with path.open("rb") as file:
        second = read_image(file, channels=(2,))
    close(second.image, GREY8)
    assert second.part == "channel 2 of 3"


def test_a_pyramid_is_read_at_its_full_size() -> None:
    data = pages(
        (RGB8, {"photometric": "rgb", "subifds": 2, "tile": (16, 16)}),
        (RGB8[::2, ::2], {"photometric": "rgb", "subfiletype": 1}),
        (RGB8[::4, ::4], {"photometric": "rgb", "subfiletype": 1}),
    )
    seen = read(data)
    np.testing.assert_array_equal(seen.image, RGB8)
    assert seen.part == ""


@pytest.mark.parametrize("first", [True, False])
def test_a_thumbnail_is_passed_over_wherever_it_stands(first: bool) -> None:
    small = (RGB8[::4, ::4], {"photometric": "rgb", "subfiletype": 1})
    whole = (RGB8, {"photometric": "rgb"})
    seen = read(pages(*((small, whole) if first else (whole, small))))
    np.testing.assert_array_equal(seen.image, RGB8)
    assert seen.part == ""


@pytest.mark.parametrize("step", [2, 5])
def test_a_preview_that_nothing_marks_is_passed_over(step: int) -> None:
    data = pages(
        (RGB8[::step, ::step], {"photometric": "rgb", "metadata": None}),
        (RGB8, {"photometric": "rgb", "metadata": None}),
    )
    seen = read(data)
    np.testing.assert_array_equal(seen.image, RGB8)
    assert seen.part == "page 2 of 2"


@pytest.mark.parametrize("small", [RGB8[::2, ::4], RGB8[:40, :60]])
def test_a_first_page_of_another_shape_or_hardly_smaller_is_no_preview(small: Any) -> None:
    data = pages(*((values, {"photometric": "rgb", "metadata": None}) for values in (small, RGB8)))
    np.testing.assert_array_equal(read(data).image, small)


def test_the_whole_image_may_lie_below_its_thumbnail() -> None:
    data = pages(
        (RGB8[::4, ::4], {"photometric": "rgb", "subfiletype": 1, "subifds": 1}),
        (RGB8, {"photometric": "rgb"}),
    )
    np.testing.assert_array_equal(read(data).image, RGB8)


def test_channels_may_be_chosen_of_colours_and_of_palettes() -> None:
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256)).astype(np.uint16)
    palette = tif(GREY8, photometric="palette", colormap=colours)
    plain = read(palette).image
    seen = read(palette, channels=(3, 1))
    np.testing.assert_array_equal(seen.image[..., 0], plain[..., 2])
    np.testing.assert_array_equal(seen.image[..., 1], plain[..., 0])
    assert (seen.image[..., 2] == 0).all()
    green = read(tif(RGB8, photometric="rgb"), channels=(2,))
    close(green.image, RGB8[..., 1], 0)
    assert green.channels == "channel 2 of 3"
    assert FALLING.shape == (H, W)


@pytest.mark.parametrize("channels", [(1, 2, 3), (2,), (3, 1)])
def test_chosen_channels_of_a_picture_with_opacity_are_its_colours(
    channels: tuple[int, ...],
) -> None:
    opaque = np.dstack([RGB8, np.full((H, W), 255, np.uint8)])
    data = tif(opaque, photometric="rgb", extrasamples=["unassalpha"])
    expected = read(tif(RGB8, photometric="rgb"), channels=channels).image
    np.testing.assert_array_equal(read(data, channels=channels).image, expected)


@pytest.mark.parametrize("said", ["-9999", "70000", "1.5"])
def test_a_no_data_value_that_no_pixel_can_have_changes_nothing(said: str) -> None:
    values = (RISING // 20).astype(np.uint16)
    marked = tif(values, extratags=[(42113, "s", 0, said, True)])
    np.testing.assert_array_equal(read(marked).image, read(tif(values)).image)
