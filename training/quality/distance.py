"""Uncertainty by the distance to the nearest boundary: whether it lies there is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from acquisition.masks import UNKNOWN

EDGES_PX = (0, 1, 2, 3, 5, 8, 12, 20)
"""Bin b holds the distances above its edge, up to the next one inclusive; the last is open. Fine
where the uncertainty falls steeply, up to the radius of a cell at the network's resolution."""

BINS = len(EDGES_PX)

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class UncertaintyByDistance:
    """Pixels, errors and uncertainty by the distance to the nearest boundary; images add by ``+``.

    Attributes:
        pixels: [BINS] known pixels.
        wrong: [BINS] those of them that were predicted as another class.
        sums: measure name to [BINS], the sum of its map over the pixels, in the measure's unit.
        without_boundary: images that show one class at most, and so are in no bin.
    """

    pixels: Counts
    wrong: Counts
    sums: Mapping[str, NDArray[np.float64]]
    without_boundary: int

    def __add__(self, other: UncertaintyByDistance) -> UncertaintyByDistance:
        if self.sums.keys() != other.sums.keys():
            raise ValueError(
                f"the same measures add up, got {', '.join(self.sums) or 'none'} "
                f"and {', '.join(other.sums) or 'none'}"
            )
        return UncertaintyByDistance(
            self.pixels + other.pixels,
            self.wrong + other.wrong,
            {name: each + other.sums[name] for name, each in self.sums.items()},
            self.without_boundary + other.without_boundary,
        )

    def means(self) -> dict[str, NDArray[np.float64]]:
        """Measure name to [BINS], its mean in the measure's unit; NaN in an empty bin."""
        return {name: _per_pixel(each, self.pixels) for name, each in self.sums.items()}

    def wrong_share(self) -> NDArray[np.float64]:
        """[BINS] share of the pixels that are wrong, between 0 and 1; NaN in an empty bin."""
        return _per_pixel(self.wrong, self.pixels)

    def to_json(self) -> dict[str, Any]:
        """The bins' lower edges, counts, shares and means; None in an empty bin."""
        return {
            "edges_px": list(EDGES_PX),
            "pixels": [int(count) for count in self.pixels],
            "wrong": _or_none(self.wrong_share()),
            "measures": {name: _or_none(mean) for name, mean in self.means().items()},
        }


def uncertainty_by_distance(
    maps: Mapping[str, NDArray[np.floating]],
    truth: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
) -> UncertaintyByDistance:
    """Collect one image's uncertainty and errors by the distance to the truth's nearest boundary.

    Args:
        maps: measure name to map [h, w], as ``Prediction.maps``.
        truth: [h, w] uint8 class indices, 255 where nothing is known; those pixels count nowhere.
        predicted: [h, w] uint8 class indices.

    Raises:
        ValueError: a shape differs, or a map is not finite.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in shape")
    for name, each in maps.items():
        if each.shape != truth.shape:
            raise ValueError(f"truth {truth.shape} and map {name} {each.shape} differ in shape")
        if not np.isfinite(each).all():
            raise ValueError(f"map {name} holds values that are not finite")
    distance = boundary_distance(truth)
    # NaN is larger than no edge.
    counted = distance > 0
    bins = np.searchsorted(EDGES_PX, distance[counted], side="left") - 1
    wrong = (predicted != truth)[counted]
    return UncertaintyByDistance(
        np.bincount(bins, minlength=BINS),
        np.bincount(bins[wrong], minlength=BINS),
        {name: _sums(bins, each[counted]) for name, each in maps.items()},
        0 if counted.any() else 1,
    )


def boundary_distance(mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far each known pixel is from the nearest known pixel of another class.

    Between the pixels' centres, in px: 1 where the pixel touches another class by a side, the
    square root of 2 where it does so only by a corner. The edge of what is unknown is no
    boundary; nor is the image's own. Where a strip of unknown pixels parts two classes, the
    boundary lies somewhere in it, and the distance is the most that it can be.

    Args:
        mask: [h, w] uint8 class indices; 255 where nothing is known.

    Returns:
        [h, w] px, at least 1; NaN where nothing is known, and everywhere where fewer than two
        classes are known.
    """
    distance = np.full(mask.shape, np.nan)
    known = mask != UNKNOWN
    classes = np.unique(mask[known])
    if len(classes) < 2:
        return distance
    for class_index in classes:
        own = mask == class_index
        # The transform measures to the nearest zero.
        to_others = distance_transform_edt(~known | own)
        distance[own] = to_others[own]
    return distance


def _sums(bins: NDArray[np.intp], values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.bincount(bins, values, minlength=BINS).astype(np.float64, copy=False)


def _per_pixel(
    sums: NDArray[np.int64] | NDArray[np.float64], pixels: Counts
) -> NDArray[np.float64]:
    mean = np.full(len(pixels), np.nan)
    np.divide(sums, pixels, out=mean, where=pixels > 0)
    return mean


def _or_none(values: NDArray[np.float64]) -> list[float | None]:
    """JSON knows no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]
