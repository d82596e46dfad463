"""Image files as browsers show them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from backend.label_studio.browser_image import browser_image
from training.images import decode_image


def saved(path: Path, image: np.ndarray, **options: object) -> Path:
    Image.fromarray(image).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_what_browsers_show_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = saved(tmp_path / f"x.{kind}", image)
    shown = browser_image(path, "name")
    assert (shown.name, shown.problem) == (f"name.{kind}", "")
    assert shown.data == path.read_bytes()


@pytest.mark.parametrize("kind", ["tif", "png"])
@pytest.mark.parametrize("deep", [False, True])
def test_tiff_and_deep_images_become_what_we_would_decode(
    kind: str, deep: bool, tmp_path: Path
) -> None:
    values = np.random.default_rng(1).integers(900, 3000, (20, 30))
    path = saved(tmp_path / f"x.{kind}", values.astype(np.uint16 if deep else np.uint8))
    shown = browser_image(path, "name")
    assert shown.name == "name.png"
    with Image.open(io.BytesIO(shown.data)) as opened:
        assert opened.mode in ("RGB", "L")
        assert opened.format == "PNG"
    expected = decode_image(path.read_bytes(), max_pixels=10_000)
    np.testing.assert_array_equal(decode_image(shown.data, max_pixels=10_000), expected)


def test_what_animates_or_is_a_stack_is_shown_as_it_is_read(tmp_path: Path) -> None:
    frame = np.random.default_rng(1).integers(0, 2, (20, 30), np.uint8) * 255
    animated = saved(
        tmp_path / "x.gif", frame, save_all=True, append_images=[Image.fromarray(255 - frame)]
    )
    shown = browser_image(animated, "name")
    assert (shown.name, shown.part) == ("name.png", "frame 1 of 2")
    stack = tmp_path / "x.tif"
    tifffile.imwrite(stack, np.stack([frame, 255 - frame]), photometric="minisblack")
    shown = browser_image(stack, "name")
    assert (shown.name, shown.part) == ("name.png", "page 1 of 2")
    np.testing.assert_array_equal(decode_image(shown.data)[..., 0], frame)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    shown = browser_image(path, "broken")
    assert shown.data == b""
    assert shown.problem.startswith(f"{path}: ")


def test_what_is_said_of_a_name_that_is_no_text_here_can_be_printed(tmp_path: Path) -> None:
    problem = browser_image(tmp_path / "\udce9.png", "name").problem
    assert problem.startswith(f"{tmp_path}/\\udce9.png: ")
    assert problem.encode()
