"""How a project's quality and the annotators' effort have changed with the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles, stdev

from backend.insight.label_list import collected
from backend.insight.lead_time import LeadTimes, TimeSaved, lead_times, time_saved
from backend.insight.read_model import Json, to_json
from backend.ledger import Ledger, Version
from backend.ledger.shapes import Interval

MOST_POINTS = 40
"""Versions of a curve; of more, so many are taken evenly, the newest among them."""

MORE_LABELS = 10
"""Labels whose value is estimated."""

FITTED, FEWEST_FITTED = 10, 4
"""Newest versions that the estimate goes by, and how many it needs."""

_T_95 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}
"""Two-sided 95 % points of Student's t, by degrees of freedom."""

_Z_95 = 1.96


@dataclass(frozen=True)
class LearningPoint:
    """A version's quality.

    Attributes:
        images: labelled ones that it learnt from.
        out_of_fold: mean foreground Dice of these images, each predicted by a member that never saw
            it, with its 95 % interval; None where no member was left to judge.
        audit: on the audit images.
        dice: by class name, out of fold; None for a class that nothing showed.
    """

    version: int
    images: int
    made: float
    out_of_fold: Interval | None
    audit: Interval | None
    dice: dict[str, float | None]


@dataclass(frozen=True)
class Effort:
    """What annotators corrected of one round's images.

    Attributes:
        images: how many were judged, audits not counted.
        low, middle, high: quartiles of the share of pixels that was corrected, 0 to 1.
    """

    round: int
    images: int
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class MoreLabels:
    """What so many more labels are expected to add to the mean foreground Dice.

    By least squares of a + b log(images) through ``versions`` versions.
    """

    labels: int
    change: Interval
    versions: int


@dataclass(frozen=True)
class Learning:
    """The curves of a project, oldest first.

    Attributes:
        times: of the labels that the last training round read, as far as Label Studio knows.
    """

    points: Sequence[LearningPoint]
    classes: Sequence[str]
    more: MoreLabels | None
    effort: Sequence[Effort]
    times: Sequence[LeadTimes]
    saved: TimeSaved | None

    def to_json(self) -> Json:
        found: Json = to_json(self)
        return found


def learning(ledger: Ledger, project_id: int) -> Learning:
    """What the versions and the corrections of a project say."""
    numbers = ledger.versions.numbers(project_id)
    chosen = numbers if len(numbers) <= MOST_POINTS else _evenly(numbers, MOST_POINTS)
    versions = ledger.versions.some(project_id, chosen)
    points = [_point(version) for version in versions]
    classes = list(dict.fromkeys(name for version in versions for name in version.classes[1:]))
    # From the newest versions of all, not from those that a long curve is thinned out to.
    newest = [_point(each) for each in ledger.versions.some(project_id, numbers[-FITTED:])]
    times = collected(ledger, project_id).get("times", [])
    return Learning(
        points,
        classes,
        more_labels(newest),
        _efforts(ledger, project_id),
        lead_times(times),
        time_saved(times),
    )


def _evenly(numbers: Sequence[int], count: int) -> list[int]:
    step = (len(numbers) - 1) / (count - 1)
    return [numbers[round(place * step)] for place in range(count)]


def _point(version: Version) -> LearningPoint:
    metrics = version.metrics
    audit = metrics.get("audit")
    scores = list(metrics.get("scores", {}).values()) if metrics.get("out_of_fold") else []
    return LearningPoint(
        version=version.number,
        images=metrics.get("examples", len(scores)),
        made=version.created_at,
        out_of_fold=mean_interval(scores),
        audit=None if audit is None else audit["foreground_dice"],
        dice=metrics.get("dice") or {},
    )


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean of values of 0 to 1 with its 95 % interval; None of no value."""
    if not values:
        return None
    mean = fmean(values)
    if len(values) < 2:
        return Interval(value=mean, low=None, high=None)
    half = _Z_95 * stdev(values) / math.sqrt(len(values))
    return Interval(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half))


def more_labels(points: Sequence[LearningPoint]) -> MoreLabels | None:
    """What ``MORE_LABELS`` more labels are expected to add; None where too little is known.

    Args:
        points: the newest versions, oldest first; at most ``FITTED`` count.
    """
    told = [
        (math.log(point.images), point.out_of_fold["value"])
        for point in points[-FITTED:]
        if point.out_of_fold is not None and point.images > 0
    ]
    if len({x for x, _y in told}) < FEWEST_FITTED:
        return None
    mean_x, mean_y = fmean(x for x, _y in told), fmean(y for _x, y in told)
    spread = sum((x - mean_x) ** 2 for x, _y in told)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in told) / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in told)
    freedom = len(told) - 2
    half = _T_95[freedom] * math.sqrt(left / freedom / spread)
    last = max(point.images for point in points)
    step = math.log((last + MORE_LABELS) / last)
    change = Interval(value=slope * step, low=(slope - half) * step, high=(slope + half) * step)
    return MoreLabels(MORE_LABELS, change, len(told))


def _efforts(ledger: Ledger, project_id: int) -> list[Effort]:
    by_round: dict[int, list[float]] = {}
    for round_id, error in ledger.evidence.errors(project_id):
        by_round.setdefault(round_id, []).append(error)
    return [_effort(number, errors) for number, errors in sorted(by_round.items())]


def _effort(number: int, errors: Sequence[float]) -> Effort:
    low, high = (errors[0], errors[0])
    if len(errors) > 1:
        low, _middle, high = quantiles(errors, n=4, method="inclusive")
    return Effort(number, len(errors), low, median(errors), high)
