"""The particle that somebody clicks on, from what a committee has predicted: no network runs.

A click inside a predicted particle gives that particle. Elsewhere it grows from the click: over
pixels in the order of their distance, where edges of the image and of the predicted foreground
are long, up to the level whose outline lies on the clearest edge. Between clicks that add and
clicks that take away, each pixel goes with the nearer one; from the second click on GrabCut
corrects the outline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from training.particles.instances import connected

Mask = NDArray[np.bool_]

REACH = 1.3
"""How far a particle may reach from a click, in typical diameters."""

LEAST_REACH_PX, MOST_REACH_PX = 24, 192
"""Bounds of that; the upper one keeps an answer below a third of a second."""

PER_PIXEL, PER_EDGE = 0.02, 20.0
"""Length of a pixel where nothing changes, and for each unit of an edge's strength."""

LEVELS = 24
"""Sizes that a grown particle is tried at."""

UNKNOWN_SIZE = 0.05
"""Share of the image's long side that is taken for a diameter before any particle is known."""

CUT_PX = 192
"""Long side of what GrabCut sees; it takes a second for 400 x 400 pixels."""

CUT_REACH, CUT_CORE, CUT_SEED, CUT_SURE = 0.5, 0.1, 0.5, 0.1
"""In typical diameters: how far a cut may move an outline outwards, how deep in the particle
nothing is doubted, and around a click what is likely and what is certain."""

SMALLEST, LARGEST = 0.03, 3.0
"""Its least and greatest area, in squares of the typical diameter."""


@dataclass(frozen=True)
class Click:
    """A click on a pixel of the image, which adds to the particle or takes from it."""

    row: int
    column: int
    adds: bool = True


@dataclass(frozen=True)
class Predicted:
    """What clicks on an image are answered from.

    Attributes:
        image: [H, W, 3] uint8.
        foreground: [h, w] uint8, the probability that a pixel is no background, in 255ths; at the
            network's resolution.
        numbers: [H, W] the predicted particle of each pixel, from 1; 0 where there is none.
        diameters_px: class name to the diameter of its typical particle, in pixels of the image.
    """

    image: NDArray[np.uint8]
    foreground: NDArray[np.uint8]
    numbers: NDArray[np.integer]
    diameters_px: Mapping[str, float]

    def diameter_px(self, label: str) -> float:
        """Of a typical particle of a class; of all classes' where its own is not known."""
        known = list(self.diameters_px.values())
        typical = float(np.median(known)) if known else UNKNOWN_SIZE * max(self.size)
        return self.diameters_px.get(label, typical)

    @property
    def size(self) -> tuple[int, int]:
        """H, W of the image in pixels."""
        height, width = self.numbers.shape
        return height, width


def clicked_particle(predicted: Predicted, clicks: Sequence[Click], label: str) -> Mask:
    """The particle [H, W] under the clicks that add, without what the others take away.

    Args:
        clicks: within the image.
        label: the class that is clicked with; its particles' size bounds what grows.

    Returns:
        Nothing is set where no click adds.
    """
    adds = [(click.row, click.column) for click in clicks if click.adds]
    takes = [(click.row, click.column) for click in clicks if not click.adds]
    whole: Mask = np.zeros(predicted.size, np.bool_)
    if not adds:
        return whole
    for at in adds:
        number = predicted.numbers[at]
        if number:
            whole |= predicted.numbers == number
        else:
            diameter = predicted.diameter_px(label)
            rows, columns = _window(predicted.size, at, diameter)
            whole[rows, columns] |= _grown(predicted, at, rows, columns, diameter)
    if len(adds) > 1:  # parts that were told apart are one now
        closed = cv2.morphologyEx(whole.view(np.uint8), cv2.MORPH_CLOSE, _ball(2))
        whole = closed.view(np.bool_)
    kept = _without(whole, adds, takes) if takes else whole
    if len(clicks) == 1:
        return kept
    cut = _cut(predicted.image, kept, adds, takes, predicted.diameter_px(label))
    # Clicks that add take nothing away.
    return cut if takes else whole | cut


def boxed_particles(predicted: Predicted, rows: slice, columns: slice) -> Mask:
    """[H, W] the particles of which more than half lie in the box; where there is none, what
    stands out from the box's rim (GrabCut).

    Args:
        rows, columns: the box, within the image and not empty.
    """
    whole = np.zeros(predicted.size, np.bool_)
    inside = predicted.numbers[rows, columns]
    for number in np.unique(inside[inside > 0]).tolist():
        particle = predicted.numbers == number
        if 2 * np.count_nonzero(particle[rows, columns]) > np.count_nonzero(particle):
            whole |= particle
    if whole.any():
        return whole
    pad = max(4, (rows.stop - rows.start) // 4, (columns.stop - columns.start) // 4)
    top, left = max(0, rows.start - pad), max(0, columns.start - pad)
    seen = np.ascontiguousarray(predicted.image[top : rows.stop + pad, left : columns.stop + pad])
    scale = min(1.0, CUT_PX / max(seen.shape[:2]))  # a drawn box may be large
    small = cv2.resize(seen, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    marks = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    a, b = int((rows.start - top) * scale), int((columns.start - left) * scale)
    c, d = (
        max(1, int((rows.stop - rows.start) * scale)),
        max(1, int((columns.stop - columns.start) * scale)),
    )
    marks[a : a + c, b : b + d] = cv2.GC_PR_FGD
    found = cv2.resize(
        _grabcut(np.asarray(small, np.uint8), marks),
        seen.shape[1::-1],
        interpolation=cv2.INTER_NEAREST,
    )
    whole[top : top + seen.shape[0], left : left + seen.shape[1]] = found.view(np.bool_)
    return whole


def _cut(
    image: NDArray[np.uint8],
    whole: Mask,
    adds: Sequence[tuple[int, int]],
    takes: Sequence[tuple[int, int]],
    diameter_px: float,
) -> Mask:
    """A particle [H, W] with the outline that GrabCut gives it; as it was where the clicks are on
    several particles, or it is so large that the cut would be coarse.

    Args:
        whole: the particle so far.
    """
    ends = np.array([*adds, *takes])
    apart = float(np.ptp(ends, axis=0).max())
    if not whole.any() or apart > max(LEAST_REACH_PX, REACH * diameter_px):
        return whole
    rows, columns = (
        _around(np.flatnonzero(whole.any(axis=1 - axis)), ends[:, axis], diameter_px, side)
        for axis, side in enumerate(whole.shape)
    )
    long_side = max(rows.stop - rows.start, columns.stop - columns.start)
    if long_side >= 2 * MOST_REACH_PX:  # halved exactly, its last pixel could lie outside
        return whole
    scale = min(1.0, CUT_PX / long_side)

    def small(values: NDArray[np.uint8], how: int) -> NDArray[np.uint8]:
        part = np.ascontiguousarray(values[rows, columns])
        return np.asarray(cv2.resize(part, None, fx=scale, fy=scale, interpolation=how), np.uint8)

    part = small(whole.view(np.uint8), cv2.INTER_NEAREST)
    unit = diameter_px * scale
    adding, taking = (
        [(int((r - rows.start) * scale), int((c - columns.start) * scale)) for r, c in clicks]
        for clicks in (adds, takes)
    )
    marks = np.full(part.shape, cv2.GC_BGD, np.uint8)
    marks[cv2.dilate(part, _ball(max(2, int(CUT_REACH * unit)))) > 0] = cv2.GC_PR_BGD
    _mark(marks, adding, CUT_SEED * unit, cv2.GC_PR_FGD)
    marks[part > 0] = cv2.GC_PR_FGD
    marks[cv2.erode(part, _ball(max(1, int(CUT_CORE * unit)))) > 0] = cv2.GC_FGD
    _mark(marks, taking, CUT_SURE * unit, cv2.GC_BGD)
    _mark(marks, adding, CUT_SURE * unit, cv2.GC_FGD)
    sets = connected(_grabcut(small(image, cv2.INTER_AREA), marks).view(np.bool_))
    found = np.isin(sets, [sets[at] for at in adding]).view(np.uint8)
    cut = np.zeros_like(whole)
    size = columns.stop - columns.start, rows.stop - rows.start
    cut[rows, columns] = cv2.resize(found, size, interpolation=cv2.INTER_NEAREST) > 0
    return cut


def _around(
    set_: NDArray[np.intp], clicks: NDArray[np.intp], diameter_px: float, side: int
) -> slice:
    """Of one axis, what holds the particle, the clicks, and room for the outline to move."""
    pad = 4 + int(CUT_REACH * diameter_px)
    low, high = min(set_[0], clicks.min()), max(set_[-1], clicks.max())
    return slice(max(0, int(low) - pad), min(side, int(high) + pad + 1))


def _mark(
    marks: NDArray[np.uint8], clicks: Sequence[tuple[int, int]], radius_px: float, value: int
) -> None:
    for row, column in clicks:
        cv2.circle(marks, (column, row), max(2, round(radius_px)), value, -1)


def _grabcut(image: NDArray[np.uint8], marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """1 where something is, 0 where not: [h, w]; ``marks``, GrabCut's own values, are used up."""
    inside = (marks & 1) > 0
    if inside.all() or not inside.any():  # it needs some of both
        return inside.view(np.uint8)
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)  # the same question gets the same answer
    cv2.grabCut(image, marks, (0, 0, 1, 1), models[0], models[1], 3, cv2.GC_INIT_WITH_MASK)
    return np.asarray(marks & 1, np.uint8)


def _window(size: tuple[int, int], at: tuple[int, int], diameter_px: float) -> tuple[slice, slice]:
    reach = int(min(MOST_REACH_PX, max(LEAST_REACH_PX, REACH * diameter_px)))
    rows, columns = (
        slice(max(0, place - reach), min(side, place + reach + 1))
        for place, side in zip(at, size, strict=True)
    )
    return rows, columns


def _grown(
    predicted: Predicted, at: tuple[int, int], rows: slice, columns: slice, diameter_px: float
) -> Mask:
    """What grows from a click, as a mask of the window."""
    image = cv2.GaussianBlur(predicted.image[rows, columns], (0, 0), 1.0)
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    seen = np.sqrt(np.sum(np.square(_gradient(colours)), axis=2))
    # The window's own mean is what noise and texture make.
    seen *= 0.02 / (float(seen.mean()) + 1e-3)
    (height, width), (h, w) = predicted.size, predicted.foreground.shape
    scale = np.array([[w / width, 0, 0], [0, h / height, 0]], np.float32)
    scale[:, 2] = (
        (columns.start + 0.5) * w / width - 0.5,
        (rows.start + 0.5) * h / height - 0.5,
    )
    foreground = cv2.warpAffine(
        predicted.foreground,
        scale,
        (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32) / np.float32(255)
    edges = seen + _gradient(foreground[:, :, None])[:, :, 0]
    start = (at[0] - rows.start, at[1] - columns.start)
    below = np.clip(1 - foreground / max(float(foreground[start]), 0.05), 0, 1)
    distance = _distance(PER_PIXEL + PER_EDGE * edges + below**2, [start])
    order = np.sort(distance, axis=None)
    area = diameter_px**2
    smallest = min(len(order) - 1, max(8, int(SMALLEST * area)))
    largest = min(len(order) - 1, max(9, int(LARGEST * area)))
    best, clearest = distance <= order[smallest], -1.0
    for size in np.unique(np.geomspace(smallest, largest, LEVELS).astype(int)).tolist():
        level = distance <= order[size]
        inner = level.view(np.uint8)
        rim = cv2.dilate(inner, _ball(1)) - cv2.erode(inner, _ball(1))
        clear = float(edges[rim > 0].mean()) if rim.any() else 0.0
        if clear > clearest:
            best, clearest = level, clear
    return _filled(best)


def _without(
    whole: Mask, adds: Sequence[tuple[int, int]], takes: Sequence[tuple[int, int]]
) -> Mask:
    """The pixels of ``whole`` that are nearer to a click that adds, by paths within it."""
    rows, columns = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
    ends = np.array([*adds, *takes])
    top, left = min(rows[0], ends[:, 0].min()), min(columns[0], ends[:, 1].min())
    bottom, right = max(rows[-1], ends[:, 0].max()) + 1, max(columns[-1], ends[:, 1].max()) + 1
    part = whole[top:bottom, left:right]
    lengths = np.where(part, 1.0, 10.0)
    kept, lost = (
        _distance(lengths, (np.array(each) - (top, left)).tolist()) for each in (adds, takes)
    )
    left_over = np.zeros_like(whole)
    left_over[top:bottom, left:right] = part & (kept < lost)
    return left_over


def _distance(
    lengths: NDArray[np.floating], starts: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Of each pixel from the nearest start, along the shortest path."""
    from skimage.graph import MCP_Geometric  # scikit-image takes a second to load

    distances, _ = MCP_Geometric(lengths).find_costs(starts)
    return cast(NDArray[np.float64], distances)


def _gradient(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W, C] the change per pixel of each channel."""
    each = [
        cv2.magnitude(cv2.Sobel(channel, cv2.CV_32F, 1, 0), cv2.Sobel(channel, cv2.CV_32F, 0, 1))
        for channel in cv2.split(values)
    ]
    return np.asarray(np.stack(each, axis=2) / 8, np.float32)


def _filled(mask: Mask) -> Mask:
    outside = connected(np.pad(~mask, 1, constant_values=True))
    return np.asarray(outside != outside[0, 0])[1:-1, 1:-1]


def _ball(radius: int) -> NDArray[np.uint8]:
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
