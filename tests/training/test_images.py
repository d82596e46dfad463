"""Decoding, encoding and shrinking of images."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from training.images import decode_image, encode_png, network_size
from training.pixels import UnreadableImage

RNG = np.random.default_rng(0)

COLOUR = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (35, 25))

GREY = COLOUR[..., 0].copy()

ORIENTATION = 0x0112


def file_of(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, **options)
    return buffer.getvalue()


def cv2_file(image, suffix):
    return cv2.imencode(suffix, image)[1].tobytes()


def decode(data, max_pixels=10**6):
    return decode_image(data, max_pixels=max_pixels)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_colour_comes_back_as_it_was(kind, options):
    np.testing.assert_array_equal(decode(file_of(COLOUR, kind, **options)), COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_colour_comes_back_much_as_it_was(kind):
    smooth = cv2.GaussianBlur(COLOUR, (0, 0), 4)
    error = np.abs(decode(file_of(smooth, kind, quality=95)).astype(int) - smooth)
    assert error.mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_fills_three_channels(kind):
    np.testing.assert_array_equal(
        decode(file_of(GREY, kind)), np.repeat(GREY[..., None], 3, axis=2)
    )


def test_bilevel_is_black_and_white():
    decoded = decode(file_of(GREY > 100, "PNG"))
    np.testing.assert_array_equal(decoded[..., 1], np.where(GREY > 100, 255, 0))


def test_a_palette_gives_its_colours():
    few = (COLOUR // 128) * 255
    buffer = io.BytesIO()
    Image.fromarray(few).quantize(8).save(buffer, format="PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue()), few)


def test_what_is_transparent_is_white_as_in_a_browser():
    layers = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    layers[:10, :, 3] = 0
    decoded = decode(file_of(layers, "PNG"))
    assert (decoded[:10] == 255).all()
    np.testing.assert_array_equal(decoded[10:], COLOUR[10:])


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind):
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 1] = 255  # magenta
    buffer = io.BytesIO()
    Image.frombytes("CMYK", (16, 16), ink.tobytes()).save(buffer, format=kind)
    red, green, blue = decode(buffer.getvalue())[8, 8].astype(int)
    assert red > 200
    assert blue > 100
    assert green < 60


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_stretched_between_their_percentiles(suffix, channels):
    ramp = np.linspace(1000, 3000, 200 * 300).reshape(200, 300).astype(np.uint16)
    deep = ramp if channels == 1 else np.repeat(ramp[..., None], 3, axis=2)
    decoded = decode(cv2_file(deep, suffix))
    assert decoded.shape == (200, 300, 3)
    expected = np.clip((ramp.astype(float) - 1002) / 1996 * 255, 0, 255)
    np.testing.assert_allclose(decoded[..., 2], expected, atol=1.5)


def test_sixteen_bit_colour_keeps_its_channels_apart():
    deep = (COLOUR.astype(np.uint16) * 257)[..., ::-1]  # OpenCV writes BGR
    decoded = decode(cv2_file(deep, ".png"))
    assert np.abs(decoded.astype(int) - COLOUR).mean() < 6


def test_sixteen_bit_transparency_is_white():
    deep = np.full((20, 30, 4), 20_000, np.uint16)
    deep[:10, :, 3], deep[10:, :, 3] = 0, 65535
    decoded = decode(cv2_file(deep, ".png"))
    assert (decoded[:10] == 255).all()
    assert (decoded[10:] == 0).all()


def test_floating_point_tiffs_are_stretched():
    decoded = decode(file_of(np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30), "TIFF"))
    assert decoded.min() == 0
    assert decoded.max() == 255


def test_a_flat_deep_image_is_black_and_no_division_by_zero():
    assert (decode(file_of(np.full((8, 8), 700, np.uint16), "PNG")) == 0).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_orientation_tag_turns_the_image_as_a_browser_does(kind):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a quarter turn clockwise
    upright = decode(file_of(COLOUR, kind, exif=exif))
    assert upright.shape == (35, 25, 3)
    straight = decode(file_of(COLOUR, kind))
    np.testing.assert_array_equal(upright, np.rot90(straight, -1))


def test_the_orientation_tag_turns_deep_images_too():
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    ramp = np.linspace(0, 60_000, 600).reshape(20, 30).astype(np.uint16)
    upright, straight = decode(file_of(ramp, "PNG", exif=exif)), decode(file_of(ramp, "PNG"))
    np.testing.assert_array_equal(upright, straight[::-1, ::-1])


def test_only_the_first_page_counts():
    buffer = io.BytesIO()
    pages = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    pages[0].save(buffer, format="TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(decode(buffer.getvalue()), COLOUR)


def test_a_camera_that_stores_several_jpegs_shows_the_first():
    buffer = io.BytesIO()
    smooth = cv2.GaussianBlur(COLOUR, (0, 0), 4)
    Image.fromarray(smooth).save(
        buffer, format="MPO", save_all=True, append_images=[Image.fromarray(255 - smooth)]
    )
    assert np.abs(decode(buffer.getvalue()).astype(int) - smooth).mean() < 6


def test_too_many_pixels_are_refused_by_the_header_alone():
    bomb = file_of(np.zeros((3000, 3000), np.uint8), "PNG")
    with pytest.raises(UnreadableImage, match="3000 x 3000"):
        # The pixels are cut off: reading them would be another error.
        decode_image(bomb[:60], max_pixels=10**6)


@pytest.mark.parametrize("data", [b"", b"<html>Not found</html>", b"%PDF" + bytes(9)])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(UnreadableImage, match="expected a PNG, JPEG, TIFF, WebP, BMP, GIF or"):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(kind, part):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = file_of(noise, kind)
    with pytest.raises(UnreadableImage):
        decode(data[: int(len(data) * part)])


def test_a_png_that_we_write_is_one_that_we_read():
    np.testing.assert_array_equal(decode(encode_png(COLOUR)), COLOUR)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((2048, 1024), (1024, 512)), ((300, 200), (300, 200)), ((4000, 3), (1024, 1))],
)
def test_the_network_size_shrinks_and_never_enlarges(size, expected):
    assert network_size(*size, 1024) == expected
