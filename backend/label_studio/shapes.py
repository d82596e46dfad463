"""The shape of a result: the pixels that its value describes, whatever its label.

Values are in percent of the image, masks in pixels of the image as it was when they were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from backend.errors import BadRegion
from backend.label_studio import bitmask, brush
from backend.label_studio.geometry import (
    Mask,
    Patch,
    fill_ellipse,
    fill_polygon,
    fill_rectangle,
)
from backend.shorten import shorten

# Strokes drawn by hand come anti-aliased.
OPAQUE = 127

# A region may leave the image, and is cut off there; the editor itself never lets it go further
# than a few images. Beyond this many percent (or degrees), rounding would move its edges.
FARTHEST = 1e6

# More corners than a hand or a model draws; reading as many takes seconds.
MAX_POINTS = 2**20

# Points that stand for a Bezier curve between two vertices.
CURVE_POINTS = 16

# A long side may be rounded by a pixel when a shrunk copy is made.
SLACK_PX = 1


def shape_of(part: Mapping[str, Any]) -> str | None:
    """The key in ``_READERS`` by a result's type, else by what its value holds."""
    kind, value = part.get("type"), part.get("value")
    if isinstance(kind, str):
        if kind == "magicwand":
            return "brush"
        if (stem := kind.removesuffix("labels")) in _READERS:
            return stem
    if not isinstance(value, Mapping):
        return None
    return next((shape for shape, keys in _KEYS.items() if keys <= value.keys()), None)


def may_be_drawn(part: Mapping[str, Any]) -> bool:
    """Whether a result has a shape, or a type that labels shapes of a kind that is not known."""
    kind = part.get("type")
    unknown_kind = isinstance(kind, str) and kind != "labels" and kind.endswith("labels")
    return unknown_kind or shape_of(part) is not None


def holds_shape(part: Mapping[str, Any]) -> bool:
    """Whether something was drawn, readable or not; an empty value marks no pixel."""
    value = part.get("value")
    if not isinstance(value, Mapping):
        return True
    return any(not str(key).endswith("labels") and key != "format" for key in value)


def decoded_pixels(region: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Pixels of the mask that a result holds, whether they can be decoded or not.

    0 of an outline, and of what is too large to be tried.

    Raises:
        BadRegion: its sizes cannot be read.
    """
    if shape_of(region) not in ("brush", "bitmask"):
        return 0
    height, width = _size_of(region, size)
    return height * width if height * width <= brush.MAX_BRUSH_PIXELS else 0


def patch_of(region: Mapping[str, Any], size: tuple[int, int]) -> Patch:
    """The pixels of the image that the region covers.

    Args:
        region: a result that ``may_be_drawn``.
        size: (H, W) of the image in pixels.

    Raises:
        BadRegion: its value or its sizes cannot be read.
    """
    if not isinstance(region.get("value"), Mapping):
        raise BadRegion(f"Its value must be an object, got {type(region.get('value')).__name__}.")
    drawn_on = _size_of(region, size)
    shape = shape_of(region)
    if shape is None:
        raise BadRegion("Its value holds no shape that is read here.")
    return _READERS[shape](region["value"], drawn_on, size)


def check_inside(region: Mapping[str, Any], patch: Patch) -> None:
    """Refuse a shape that covers no pixel because it lies elsewhere, not because it is too small.

    Raises:
        BadRegion: it begins outside the image.
    """
    if shape_of(region) not in _OUTLINES or patch.mask.any():
        return
    value = region["value"]
    begins = (value.get("points") or value.get("vertices") or [value])[0]
    x, y = begins if isinstance(begins, list | tuple) else _point(begins)
    if not (0 <= x <= 100 and 0 <= y <= 100):
        raise BadRegion(
            f"It lies outside the image: x and y are percentages of it, got {x:g} and {y:g}."
        )


def _size_of(region: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the image as the region saw it; the image's own where it says nothing.

    That is no guess: percentages need no size, and a mask of another size does not decode.
    """
    height, width = (
        own if region.get(key) is None else _whole(region[key], key)
        for key, own in zip(("original_height", "original_width"), size, strict=True)
    )
    scaled = (width * size[0] / height, height * size[1] / width)
    if abs(scaled[0] - size[1]) > SLACK_PX and abs(scaled[1] - size[0]) > SLACK_PX:
        raise BadRegion(
            f"It was drawn on {width} x {height} pixels, whose proportions are not the image's "
            f"{size[1]} x {size[0]}."
        )
    return height, width


def _whole(value: object, key: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # The largest that a PNG or a brush could have.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise BadRegion(f"Its {key} must be a positive integer, got {shorten(value)}.")
    return value


def _number(value: object, name: str, *, lowest: float = -FARTHEST) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadRegion(f"Its {name} must be a number, got {shorten(value)}.")
    # Written so that NaN fails as well.
    if not lowest <= value <= FARTHEST:
        raise BadRegion(
            f"Its {name} must be from {lowest:g} to {FARTHEST:g}, got {shorten(value)}."
        )
    return float(value)


def _read_brush(
    value: Mapping[str, Any], drawn_on: tuple[int, int], size: tuple[int, int]
) -> Patch:
    if value.get("format", "rle") != "rle":
        raise BadRegion(f"Its format must be 'rle', got {shorten(value['format'])}.")
    return _fit(brush.decode(value.get("rle"), *drawn_on) > OPAQUE, size)  # type: ignore[arg-type]


def _read_bitmask(
    value: Mapping[str, Any], drawn_on: tuple[int, int], size: tuple[int, int]
) -> Patch:
    return _fit(bitmask.decode(value.get("imageDataURL"), *drawn_on) > OPAQUE, size)


def _fit(mask: Mask, size: tuple[int, int]) -> Patch:
    """The mask at the image's size, each pixel taking the one that its centre lies in."""
    if mask.shape != size:
        rows, columns = (
            ((np.arange(to) + 0.5) * of / to).astype(np.int64)
            for of, to in zip(mask.shape, size, strict=True)
        )
        mask = mask[np.ix_(rows, columns)]
    return Patch(0, 0, mask)


def _read_polygon(
    value: Mapping[str, Any], drawn_on: tuple[int, int], size: tuple[int, int]
) -> Patch:
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3:
        raise BadRegion(f"Its points must be a list of at least 3, got {shorten(points)}.")
    if len(points) > MAX_POINTS:
        raise BadRegion(f"Its points must be at most {MAX_POINTS}, got {len(points)}.")
    if value.get("closed") is False:
        raise BadRegion("Its polygon must be closed, it is open.")
    pixels = np.empty((len(points), 2))
    for at, point in enumerate(points):
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise BadRegion(f"Each of its points must be [x, y], got {shorten(point)}.")
        pixels[at] = _number(point[0], "x"), _number(point[1], "y")
    return fill_polygon(pixels * [size[1] / 100, size[0] / 100], size)


def _read_rectangle(
    value: Mapping[str, Any], drawn_on: tuple[int, int], size: tuple[int, int]
) -> Patch:
    return fill_rectangle(*_box(value, "width", "height", size), _rotation(value), size)


def _read_ellipse(
    value: Mapping[str, Any], drawn_on: tuple[int, int], size: tuple[int, int]
) -> Patch:
    return fill_ellipse(*_box(value, "radiusX", "radiusY", size), _rotation(value), size)


def _box(
    value: Mapping[str, Any], across: str, down: str, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """x, y and two extents, from percent to pixels."""
    return (
        _number(value.get("x"), "x") * size[1] / 100,
        _number(value.get("y"), "y") * size[0] / 100,
        _number(value.get(across), across, lowest=0) * size[1] / 100,
        _number(value.get(down), down, lowest=0) * size[0] / 100,
    )


def _rotation(value: Mapping[str, Any]) -> float:
    return 0.0 if value.get("rotation") is None else _number(value["rotation"], "rotation")


def _read_vector(
    value: Mapping[str, Any], drawn_on: tuple[int, int], size: tuple[int, int]
) -> Patch:
    vertices = value.get("vertices")
    if not isinstance(vertices, list) or not all(isinstance(v, Mapping) for v in vertices):
        raise BadRegion(f"Its vertices must be a list of points, got {shorten(vertices)}.")
    if len(vertices) > MAX_POINTS // CURVE_POINTS:
        raise BadRegion(
            f"Its vertices must be at most {MAX_POINTS // CURVE_POINTS}, got {len(vertices)}."
        )
    if value.get("closed") is not True:
        raise BadRegion("Its outline must be closed, it is open: a line has no area.")
    for before, after in pairwise(vertices):
        if after.get("prevPointId") not in (None, before.get("id")):
            raise BadRegion("Its outline must run from point to point, it has branches.")
    points = [
        point
        for before, after in zip(vertices, vertices[1:] + vertices[:1], strict=True)
        for point in _curve(before, after)
    ]
    return _read_polygon({"points": points}, drawn_on, size)


def _curve(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[float, float]]:
    """From one vertex up to the next one, which is left out: a line, or a cubic Bezier curve."""
    start, end = _point(before), _point(after)
    leaving = before.get("controlPoint2") if before.get("isBezier") else None
    coming = after.get("controlPoint1") if after.get("isBezier") else None
    if leaving is None and coming is None:
        return [start]
    # A missing handle lies as the editor draws it: three tenths of the way from its own end.
    along = np.subtract(end, start) * 0.3
    handles = (
        np.add(start, along) if leaving is None else np.array(_point(leaving)),
        np.subtract(end, along) if coming is None else np.array(_point(coming)),
    )
    at = np.linspace(0, 1, CURVE_POINTS, endpoint=False)[:, None]
    curve = (
        (1 - at) ** 3 * np.array(start)
        + 3 * (1 - at) ** 2 * at * handles[0]
        + 3 * (1 - at) * at**2 * handles[1]
        + at**3 * np.array(end)
    )
    return [(float(x), float(y)) for x, y in curve]


def _point(of: object) -> tuple[float, float]:
    if not isinstance(of, Mapping):
        raise BadRegion(f"Each of its points must have x and y, got {shorten(of)}.")
    return _number(of.get("x"), "x"), _number(of.get("y"), "y")


def _read_keypoint(
    value: Mapping[str, Any], drawn_on: tuple[int, int], size: tuple[int, int]
) -> Patch:
    """The disc that the editor draws, and the pixel that it lies in at least."""
    width = 0.0 if value.get("width") is None else _number(value["width"], "width", lowest=0)
    radius = max(1.0, width * size[1] / 200)
    x, y = _point(value)
    return fill_ellipse(x * size[1] / 100, y * size[0] / 100, radius, radius, 0.0, size)


_READERS: dict[str, Callable[[Mapping[str, Any], tuple[int, int], tuple[int, int]], Patch]] = {
    "brush": _read_brush,
    "bitmask": _read_bitmask,
    "polygon": _read_polygon,
    "rectangle": _read_rectangle,
    "ellipse": _read_ellipse,
    "vector": _read_vector,
    "keypoint": _read_keypoint,
}

_OUTLINES = ("polygon", "rectangle", "ellipse", "vector")

# What the value of a result holds that has the shape of another type.
_KEYS: Mapping[str, frozenset[str]] = {
    "brush": frozenset({"rle"}),
    "bitmask": frozenset({"imageDataURL"}),
    "polygon": frozenset({"points"}),
    "vector": frozenset({"vertices"}),
    "ellipse": frozenset({"x", "y", "radiusX", "radiusY"}),
    "rectangle": frozenset({"x", "y", "width", "height"}),
    "keypoint": frozenset({"x", "y", "width"}),
}
