"""The units and the ranges of the measures of uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.aggregate import AGGREGATES
from acquisition.uncertainty import MEASURES

UNITS: Mapping[str, str] = {
    "predictive_entropy": "nats",
    "variation_ratio": "share of members",
    "mutual_information": "nats",
    "standard_deviation": "probability",
    "least_confidence": "probability",
}

CUT_PERCENTILE = 99.9
"""Where a scale ends if a map stays far below the most that is possible."""

WHOLE_SCALE_FROM = 0.5
"""The share of the most possible that a map must reach for the whole scale to be shown. Below
it, most colours would not occur."""


@dataclass(frozen=True)
class Scale:
    """What the ends of a map's colours stand for.

    Attributes:
        top: the value of the last colour, in the measure's unit; 0 is that of the first.
        most: the most that the measure can be, with so many members and classes.
        cut: ``top`` lies below ``most``, and values above ``top`` have the last colour too.
    """

    top: float
    most: float
    cut: bool


def most_possible(measure: str, members: int, classes: int) -> float:
    """A measure's upper bound, in its unit, as ``acquisition.uncertainty`` states it.

    Every measure reaches it if C divides M. With one member it is 0 for the measures of
    disagreement.
    """
    M, C = members, classes
    return {
        "predictive_entropy": math.log(C),
        "variation_ratio": 1 - math.ceil(M / C) / M,
        "mutual_information": math.log(min(M, C)),
        "standard_deviation": math.sqrt((1 - 1 / min(M, C)) / C),
        "least_confidence": 1 - 1 / C,
    }[measure]


def scale_of(uncertainty_map: NDArray[np.float32], most: float) -> Scale:
    """The whole scale, or one that ends where the map's values do if they stay far below it.

    Args:
        uncertainty_map: [h, w], in the measure's unit.
        most: of ``most_possible``.
    """
    reached = float(np.percentile(uncertainty_map, CUT_PERCENTILE))
    if 0 < reached < WHOLE_SCALE_FROM * most:
        return Scale(reached, most, cut=True)
    return Scale(most, most, cut=False)


def arms_table(arms: Mapping[str, float]) -> str:
    """The scores of all arms, measures down and aggregates across, each in its measure's unit.

    Args:
        arms: as ``Prediction.arms``.
    """
    rows = [["", *AGGREGATES]]
    for measure in MEASURES:
        scores = [f"{arms[f'{measure}/{aggregate}']:.4f}" for aggregate in AGGREGATES]
        rows.append([f"{measure}, {UNITS[measure]}", *scores])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
