"""Outlines to pixels and back, by one rule: a pixel is set if its centre lies within.

Coordinates are continuous: pixel (row, column) covers [row, row + 1) x [column, column + 1), as on
the canvas of Label Studio's editor, whose percentages are of the image's full width and height. By
hand: the rule must agree with the editor's canvas, and OpenCV's filling adds the outline itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, radians, sin

import cv2
import numpy as np
import numpy.typing as npt

from backend.errors import BadRegion

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

# 1,024 edges across every row of a 4096 px image: far beyond what a hand or a model draws, and
# what the scan below does in some 300 MB.
MAX_CROSSINGS = 2**22

# Pixels that are painted in the time of sorting one crossing in.
CROSSING_EFFORT = 32

# An ellipse thinner than this can hold a pixel's centre by rounding only.
THINNEST_PX = 1e-6

# How far a simplified outline may stray from the particle's edge.
TOLERANCE_PX = 0.5


@dataclass(frozen=True)
class Patch:
    """A part of an image's mask; outside it nothing is set.

    Attributes:
        top, left: where it lies in the image, in pixels.
        mask: [h, w] bool, within the image; h or w may be 0.
        effort: of making it, in pixels that could have been painted meanwhile; beyond its own.
    """

    top: int
    left: int
    mask: Mask
    effort: int = 0

    def paint(
        self,
        target: npt.NDArray[np.uint8 | np.int16 | np.int32],
        value: int,
        *,
        over: int | None = None,
    ) -> None:
        """Set ``target`` [H, W] to ``value`` where the patch is set.

        Args:
            over: only where ``target`` holds this.
        """
        height, width = self.mask.shape
        part = target[self.top : self.top + height, self.left : self.left + width]
        where = self.mask if over is None else self.mask & (part == over)
        np.copyto(part, target.dtype.type(value), where=where)


def fill_polygon(points: Floats, size: tuple[int, int]) -> Patch:
    """The pixels within a closed polygon, by the non-zero rule of the editor's canvas.

    Args:
        points: [K, 2] finite x, y in pixels; the last joins the first.
        size: (H, W); what lies outside is cut off.

    Raises:
        BadRegion: the polygon has more edges than can be drawn.
    """
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, axis=0).T
    # The rows whose centre the edge crosses; a horizontal edge crosses none.
    first, last = (
        np.clip(np.ceil(y - 0.5), 0, size[0]).astype(np.int64)
        for y in (np.minimum(y0, y1), np.maximum(y0, y1))
    )
    count = last - first
    crossings = int(count.sum())
    if crossings > MAX_CROSSINGS:
        raise BadRegion(
            f"A polygon's edges may cross {MAX_CROSSINGS} rows of pixels together, got {crossings}."
        )
    edge = np.repeat(np.arange(len(points)), count)
    row = first[edge] + np.arange(crossings) - np.repeat(np.cumsum(count) - count, count)
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * slope
    return _fill(row, x, np.where(y1 > y0, 1, -1)[edge], size)


def fill_rectangle(
    x: float, y: float, width: float, height: float, rotation: float, size: tuple[int, int]
) -> Patch:
    """The pixels within a rectangle, turned clockwise by ``rotation`` degrees about (x, y)."""
    c, s = cos(radians(rotation)), sin(radians(rotation))
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    return fill_polygon(
        np.array([(x + c * u - s * v, y + s * u + c * v) for u, v in corners]), size
    )


def fill_ellipse(
    x: float, y: float, radius_x: float, radius_y: float, rotation: float, size: tuple[int, int]
) -> Patch:
    """The pixels within an ellipse, turned clockwise by ``rotation`` degrees about its centre."""
    if min(radius_x, radius_y) < THINNEST_PX:
        return _nothing()
    c, s = cos(radians(rotation)), sin(radians(rotation))
    reach = max(radius_x, radius_y)
    rows = np.arange(
        max(0, ceil(y - reach - 0.5)), min(size[0], ceil(y + reach - 0.5)), dtype=np.int64
    )
    dy = rows + 0.5 - y
    # a dx^2 + 2 b dx + k = 0 where a row's centre line meets the ellipse.
    a = (c / radius_x) ** 2 + (s / radius_y) ** 2
    b = c * s * (radius_x**-2 - radius_y**-2) * dy
    k = ((s / radius_x) ** 2 + (c / radius_y) ** 2) * dy**2 - 1
    discriminant = b**2 - a * k
    meets = discriminant > 0
    middle, reach_x = x - b[meets] / a, np.sqrt(discriminant[meets]) / a
    ends = np.concatenate((middle - reach_x, middle + reach_x))
    winding = np.repeat(np.array([1, -1]), len(middle))
    return _fill(np.tile(rows[meets], 2), ends, winding, size)


def _fill(
    rows: npt.NDArray[np.int64],
    x: Floats,
    winding: npt.NDArray[np.int64],
    size: tuple[int, int],
) -> Patch:
    """Fill between crossings: in each row their windings add up to 0, and inside they do not."""
    if len(rows) == 0:
        return _nothing()
    # The first pixel whose centre is not left of the crossing.
    columns = np.clip(np.ceil(x - 0.5), 0, size[1]).astype(np.int64)
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) - top + 1, int(columns.max()) - left
    # A row's end is the next one's beginning, where the winding is 0 either way.
    keys = (rows - top) * width + (columns - left)
    order = np.argsort(keys, kind="stable")
    edges = np.concatenate(([0], keys[order], [height * width]))
    inside = np.concatenate(([False], np.cumsum(winding[order]) != 0))
    mask = np.repeat(inside, np.diff(edges)).reshape(height, width)
    return Patch(top, left, mask, CROSSING_EFFORT * len(rows))


def _nothing() -> Patch:
    return Patch(0, 0, np.zeros((0, 0), dtype=bool))


def outline(patch: Patch) -> Floats:
    """The outer edge of one connected particle, simplified by at most ``TOLERANCE_PX``.

    Holes are not drawn: a polygon has one outline. The edge runs a quarter of a pixel within the
    outermost pixels, so before simplification it holds exactly their centres.

    Returns:
        [K, 2] x, y in the image's pixels, K >= 3.

    Source: Suzuki and Abe 1985 (cv2.findContours), Douglas and Peucker 1973 (cv2.approxPolyDP).
    """
    # findContours runs through the centres of the outermost pixels; halving them moves those
    # centres outwards, so that a particle one pixel wide has an area.
    doubled = np.repeat(np.repeat(patch.mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contour = max(contours, key=cv2.contourArea)
    simple = cv2.approxPolyDP(contour, 2 * TOLERANCE_PX, closed=True)
    # What is as small as the tolerance keeps its corners.
    points = (simple if len(simple) >= 3 else contour)[:, 0, :]
    return (points + 0.5) / 2 + np.array([patch.left, patch.top], dtype=np.float64)
