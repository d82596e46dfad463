"""How large a pixel of a TIFF is, where the file says it in a unit of length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from training.tiff.directories import MAX_DESCRIPTION
from training.tiff.layout import elements, is_imagej, is_ome, told_by_imagej

if TYPE_CHECKING:
    from tifffile import TiffPage

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296

LARGEST_UM = 20.0
"""A resolution in inches or centimetres that means a larger pixel (some 1,270 dots per inch) is
one for printers: programs write 72, 96 or 300 dots per inch whatever the image shows."""

INCH_UM, CM_UM = 25_400.0, 10_000.0

UNITS_UM = {
    **dict.fromkeys(("µm", "μm", "\\u00b5m", "um", "micron", "microns", "micrometer"), 1.0),
    **{"m": 1e6, "cm": CM_UM, "mm": 1e3, "nm": 1e-3, "pm": 1e-6, "å": 1e-4},
    **{"inch": INCH_UM, "in": INCH_UM},
}
"""Micrometres of what OME and ImageJ call their units, in lower case."""

Size = tuple[float, float]


def pixel_size_um(page: TiffPage, description: str) -> Size | None:
    """Width and height of a pixel in micrometres: by OME-XML, by ImageJ, or by the page's tags.

    Args:
        description: of the file's first page.

    Returns:
        None where the file says none, or one that only a printer could mean.
    """
    if len(description) <= MAX_DESCRIPTION:
        if is_ome(description) and (size := _of_ome(description)) is not None:
            return size
        if is_imagej(description):
            told = told_by_imagej(description)
            unit = told.get("unit", "").strip().lower()
            if unit:
                same = told.get("yunit", unit).strip().lower() == unit
                return _of_resolution(page, UNITS_UM.get(unit)) if same else None
    unit_tag = page.tags.get(RESOLUTION_UNIT)
    return _of_resolution(page, {2: INCH_UM, 3: CM_UM}.get(getattr(unit_tag, "value", 1)))


def _of_ome(xml: str) -> Size | None:
    """Of the file's first image, which is the one that is read."""
    for event, tag, told in elements(xml):
        if event == "start" and tag == "Pixels":
            sides = [
                _number(told.get(f"PhysicalSize{axis}"))
                * UNITS_UM.get(told.get(f"PhysicalSize{axis}Unit", "µm").lower(), math.nan)
                for axis in "XY"
            ]
            return _checked(*sides)
    return None


def _of_resolution(page: TiffPage, unit_um: float | None) -> Size | None:
    if unit_um is None:
        return None
    sides = []
    for code in (X_RESOLUTION, Y_RESOLUTION):
        tag = page.tags.get(code)
        try:
            dots, units = tag.value if tag is not None else (0, 1)
            sides.append(unit_um * units / dots)
        except (TypeError, ValueError, ZeroDivisionError):
            return None
    size = _checked(*sides)
    for_printers = unit_um in (INCH_UM, CM_UM) and size is not None and max(size) > LARGEST_UM
    return None if for_printers else size


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan


def _checked(width: float, height: float) -> Size | None:
    return (width, height) if 0 < width < math.inf and 0 < height < math.inf else None
