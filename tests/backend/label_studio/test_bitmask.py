"""Bitmasks against Pillow, and what is no bitmask."""

import base64
import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backend.errors import BadRegion
from backend.label_studio import bitmask

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return bitmask.PREFIX + base64.b64encode(file.getvalue()).decode()


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix(bitmask.PREFIX))))


@given(SHAPES.flatmap(lambda shape: arrays(np.bool_, shape)))
@settings(deadline=None, derandomize=True)
def test_a_mask_comes_back_and_shows_by_opacity_and_by_grey_value(
    mask: npt.NDArray[np.bool_],
) -> None:
    url = bitmask.encode(mask)
    np.testing.assert_array_equal(bitmask.decode(url, *mask.shape), mask * np.uint8(255))
    rgba = np.asarray(opened(url).convert("RGBA"))
    np.testing.assert_array_equal(rgba[..., 3] > 127, mask)
    np.testing.assert_array_equal(rgba[..., 0] > 127, mask)


def test_a_canvas_of_the_editor_is_read_by_its_opacity_whatever_its_colour() -> None:
    rgba = np.random.default_rng(7).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    url = data_url(Image.fromarray(rgba))
    np.testing.assert_array_equal(bitmask.decode(url, 9, 14), rgba[..., 3])


def test_a_mask_without_transparency_is_refused() -> None:
    black_and_white = Image.fromarray(np.eye(5, dtype=np.uint8) * 255)
    with pytest.raises(BadRegion, match=r"transparent where it is not set, its PNG \(L\)"):
        bitmask.decode(data_url(black_and_white), 5, 5)


GOOD = bitmask.encode(np.eye(5, dtype=bool))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, "must start with .* got None"),
        ("https://example.test/mask.png", "must start with"),
        ("data:image/jpeg;base64,AAAA", "must start with"),
        (bitmask.PREFIX + "?!", "must be base64"),
        (bitmask.PREFIX + "é", "must be base64"),
        (bitmask.PREFIX, "must hold a PNG"),
        (bitmask.PREFIX + base64.b64encode(b"GIF89a" * 9).decode(), "must hold a PNG"),
        (bitmask.encode(np.ones((5, 6), dtype=bool)), "must be 5 x 5 .* got 6 x 5"),
        (GOOD[: len(bitmask.PREFIX) + 60], "cannot be read"),
    ],
)
def test_what_is_no_bitmask_is_refused_with_a_sentence(url: object, says: str) -> None:
    with pytest.raises(BadRegion, match=says):
        bitmask.decode(url, 5, 5)


@given(st.integers(8, 300), st.integers(0, 255))
@settings(deadline=None, derandomize=True)
def test_a_damaged_png_is_read_or_refused(at: int, byte: int) -> None:
    data = bytearray(base64.b64decode(GOOD.removeprefix(bitmask.PREFIX)))
    data[at % len(data)] = byte
    url = bitmask.PREFIX + base64.b64encode(data).decode()
    try:
        assert bitmask.decode(url, 5, 5).shape == (5, 5)
    except BadRegion:
        return


def test_a_png_that_claims_billions_of_pixels_is_refused_before_decoding() -> None:
    data = bytearray(base64.b64decode(GOOD.removeprefix(bitmask.PREFIX)))
    side = 60_000
    data[16:24] = side.to_bytes(4, "big") * 2
    url = bitmask.PREFIX + base64.b64encode(data).decode()
    with pytest.raises(BadRegion, match="at most"):
        bitmask.decode(url, side, side)
