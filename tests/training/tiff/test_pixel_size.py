"""How large a pixel is, where a TIFF says it in a unit of length."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from training.images import encode_png, read_image

PIXELS = np.arange(600, dtype=np.uint8).reshape(20, 30)


def pixel_um(**written: Any) -> tuple[float, float] | None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PIXELS, **written)
    buffer.seek(0)
    return read_image(buffer).pixel_um


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}, (0.25, 0.5)),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, (0.5, 0.5)),
        ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um"}}, (0.25, 0.5)),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "\\u00B5m"}}, (0.25, 0.25)),
        ({"imagej": True, "resolution": (0.02, 0.02), "metadata": {"unit": "nm"}}, (0.05, 0.05)),
        ({"imagej": True, "resolution": (0.01, 0.01), "metadata": {"unit": "micron"}}, (100, 100)),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}}, (0.25, 0.5)),
        (
            {
                "ome": True,
                "metadata": {
                    **{"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"},
                    **{"PhysicalSizeY": 0.0005, "PhysicalSizeYUnit": "mm"},
                },
            },
            (0.25, 0.5),
        ),
    ],
)
def test_sizes_with_a_unit_of_length_are_read(
    written: dict[str, Any], expected: tuple[float, float]
) -> None:
    assert pixel_um(**written) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"resolution": (4, 4), "resolutionunit": "NONE"},
        *({"resolution": (dpi, dpi), "resolutionunit": "INCH"} for dpi in (72, 96, 300)),
        {"resolution": (0, 0), "resolutionunit": "CENTIMETER"},
        {"imagej": True, "resolution": (4, 4)},
        {"imagej": True, "resolution": (4, 4), "metadata": {"unit": "pixel"}},
        {"imagej": True, "resolution": (72, 72), "metadata": {"unit": "inch"}},
        {"ome": True, "metadata": {"PhysicalSizeX": 0.25}},
        {
            "ome": True,
            "metadata": {
                **{"PhysicalSizeX": 1, "PhysicalSizeXUnit": "pixel"},
                **{"PhysicalSizeY": 1, "PhysicalSizeYUnit": "pixel"},
            },
        },
    ],
)
def test_what_names_no_length_or_one_for_printers_is_no_size(written: dict[str, Any]) -> None:
    assert pixel_um(**written) is None


def test_a_turned_image_has_its_sides_swapped() -> None:
    turned = [(274, "H", 1, 6, True)]
    written = {"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}
    assert pixel_um(**written, extratags=turned) == pytest.approx((0.5, 0.25))


def test_a_png_has_none() -> None:
    assert read_image(io.BytesIO(encode_png(PIXELS))).pixel_um is None
