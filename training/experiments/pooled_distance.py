"""Where the uncertainty of a run's last networks lies: pooled by the distance to a boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.experiments.runs import BadRun, DistanceBins, Run
from training.experiments.statistics import mean_known

NEAR_PX, FAR_PX = 2.0, 10.0
"""A boundary's neighbourhood, as ``acquisition.aggregate.BOUNDARY_PX`` has it, and what is clear
of it."""


@dataclass(frozen=True)
class Distance:
    """Uncertainty by distance to a boundary, over several networks.

    Attributes:
        edges_px: where the bins begin; the last is open.
        networks: how many were pooled.
        pixels: [bins] summed over the networks.
        wrong: [bins] mean share of wrong pixels; NaN in a bin that is empty for all.
        measures: [bins] mean of each measure, likewise.
        near_px: bins up to here count as near a boundary: those within ``NEAR_PX``, or the first
            bin if it is wider.
        far_px: bins from here on count as far from one: those beyond ``FAR_PX``; None without any.
        ratios: of each measure, its mean over the pixels near a boundary divided by that over the
            pixels far from one; None if a side has no pixels, or the far mean is 0.
    """

    edges_px: tuple[float, ...]
    networks: int
    pixels: NDArray[np.int64]
    wrong: NDArray[np.float64]
    measures: dict[str, NDArray[np.float64]]
    near_px: float
    far_px: float | None
    ratios: dict[str, float | None]


def last_uncertainties(run: Run) -> list[tuple[str, int, int, DistanceBins]]:
    """Strategy, seed, round and uncertainty by distance of the last round that has it."""
    found = []
    for strategy in run.strategies:
        for seed in run.seeds:
            held = [line for line in run.curve(strategy, seed) if line.uncertainty_by_distance]
            if held and held[-1].uncertainty_by_distance is not None:
                found.append((strategy, seed, held[-1].round, held[-1].uncertainty_by_distance))
    return found


def pooled_distance(bins: Sequence[DistanceBins]) -> Distance | None:
    """Several networks' uncertainty by distance as one; None if there is none.

    Raises:
        BadRun: they differ in their bins or their measures.
    """
    if not bins:
        return None
    first = bins[0]
    if any(d.edges_px != first.edges_px or {*d.measures} != {*first.measures} for d in bins):
        raise BadRun(
            "The rounds of a run must hold uncertainty by distance for the same edges and measures;"
            f" the first has {list(first.edges_px)} px and {', '.join(first.measures)}, another "
            "has not."
        )
    pixels = np.array([d.pixels for d in bins], np.int64)  # [networks, bins]
    empty = pixels == 0
    wrong = _filled([d.wrong for d in bins], empty)
    measures = {name: _filled([d.measures[name] for d in bins], empty) for name in first.measures}
    edges = np.array([*first.edges_px, np.inf])
    # A probe's bins are as wide as its stride, and the first may reach beyond NEAR_PX.
    near = edges[1:] <= max(NEAR_PX, edges[1])
    far = (edges[:-1] >= FAR_PX) & ~near
    return Distance(
        first.edges_px,
        len(bins),
        pixels.sum(axis=0),
        mean_known(wrong),
        {name: mean_known(uncertainty) for name, uncertainty in measures.items()},
        float(edges[1:][near].max()),
        float(edges[:-1][far].min()) if far.any() else None,
        {name: _ratio(uncertainty, pixels, near, far) for name, uncertainty in measures.items()},
    )


def _filled(
    rows: Sequence[tuple[float | None, ...]], empty: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """[networks, bins], with NaN in every empty bin."""
    return np.where(empty, np.nan, np.array(rows, np.float64))


def _ratio(
    uncertainty: NDArray[np.float64],
    pixels: NDArray[np.int64],
    near: NDArray[np.bool_],
    far: NDArray[np.bool_],
) -> float | None:
    total = np.nan_to_num(uncertainty) * pixels
    counts = pixels[:, near].sum(), pixels[:, far].sum()
    if 0 in counts or total[:, far].sum() == 0:
        return None
    return float((total[:, near].sum() / counts[0]) / (total[:, far].sum() / counts[1]))
