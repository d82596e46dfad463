"""The score of a task that is opened without standing in the queue.

A publication keeps quantiles of what it ranked by, and a task's own measures tell where in its
queue the task would have stood.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from backend.ledger import Publication


def outside_score(arms: Mapping[str, float], publication: Publication) -> float:
    """The score in [0, 1] that a task from outside the queue would have had in it.

    Args:
        arms: arm to the task's score.
        publication: one without weights ranks by its ``arm`` alone, and one with no weight above
            0 by chance, which favours no place.
    """
    weights = publication.weights
    if weights is None:
        return score_between(arms[publication.arm], publication.quantiles)
    total = sum(weights.values())
    if total == 0:
        return 0.5
    quantiles = publication.arm_quantiles or {}
    uncertainty = sum(
        weight / total * percentile_between(arms[arm], quantiles[arm])
        for arm, weight in weights.items()
        if weight > 0
    )
    return score_between(uncertainty, publication.quantiles)


def score_between(uncertainty: float, quantiles: Sequence[float]) -> float:
    """The score that a task of this uncertainty would have had in the queue.

    Args:
        quantiles: uncertainty at evenly spaced places, the most uncertain first.

    Returns:
        In [0, 1]: the share of the queue that is more uncertain.
    """
    more = sum(q > uncertainty for q in quantiles)
    return more / len(quantiles) if quantiles else 0.5


def percentile_between(value: float, quantiles: Sequence[float]) -> float:
    """Share of the pool below a value, those equal counted half, from its quantiles.

    Args:
        quantiles: evenly spaced from the smallest to the largest, ascending.
    """
    below, through = bisect_left(quantiles, value), bisect_right(quantiles, value)
    last = len(quantiles) - 1
    if through > below:
        return (below + through - 1) / (2 * last)
    if below in (0, len(quantiles)):
        return float(below > 0)
    low, high = quantiles[below - 1], quantiles[below]
    return (below - 1 + (value - low) / (high - low)) / last
