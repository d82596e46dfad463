"""How long people take for a label, and what pre-annotations save them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from backend.ledger.shapes import Interval, LabelTime

MOST_PERIODS, FEWEST_OF_PERIOD = 20, 5
"""Points of the curve, and labels that each stands for at least."""

FEWEST_COMPARED = 10
"""Labels of either kind without which nothing is said of what is saved."""

RESAMPLES = 1000


@dataclass(frozen=True)
class LeadTimes:
    """Labels made one after the other.

    Attributes:
        labels: how many there were with them, from the first on.
        until: when the last of them was made, unix seconds.
        low, middle, high: quartiles of the seconds that each took.
    """

    labels: int
    until: float
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class TimeSaved:
    """Labels that began with a pre-annotation, beside those that did not.

    Attributes:
        assisted, alone: how many there are of either.
        assisted_s, alone_s: median seconds of either.
        each_s: the difference, with its 95 % interval by bootstrap; negative where those that began
            with a pre-annotation took longer.
    """

    assisted: int
    alone: int
    assisted_s: float
    alone_s: float
    each_s: Interval


def lead_times(times: Sequence[LabelTime]) -> list[LeadTimes]:
    """Labels in groups of one size, oldest first."""
    size = max(FEWEST_OF_PERIOD, -(-len(times) // MOST_PERIODS))
    found = []
    for start in range(0, len(times) - size + 1, size):
        group = times[start : start + size]
        low, middle, high = quantiles((each[1] for each in group), n=4, method="inclusive")
        found.append(LeadTimes(start + size, group[-1][0], low, middle, high))
    return found


def time_saved(times: Sequence[LabelTime]) -> TimeSaved | None:
    """What a pre-annotation saves of a label's time; None where too few tell.

    Medians, since a task that was left open over lunch counts in full. Nobody drew by lot who got a
    pre-annotation: the first labels have none, by people who were new to the task.
    """
    import numpy as np

    assisted = [seconds for _at, seconds, with_prediction in times if with_prediction]
    alone = [seconds for _at, seconds, with_prediction in times if not with_prediction]
    if min(len(assisted), len(alone)) < FEWEST_COMPARED:
        return None
    rng = np.random.default_rng(0)
    drawn = [
        np.median(rng.choice(each, (RESAMPLES, len(each))), axis=1) for each in (alone, assisted)
    ]
    low, high = np.percentile(drawn[0] - drawn[1], (2.5, 97.5)).tolist()
    first, second = median(alone), median(assisted)
    each_s = Interval(value=first - second, low=low, high=high)
    return TimeSaved(len(assisted), len(alone), second, first, each_s)
