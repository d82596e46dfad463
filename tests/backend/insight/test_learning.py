"""Curves over labels, and what more labels are worth."""

from __future__ import annotations

import math

import pytest

from backend.insight.learning import (
    MOST_POINTS,
    LearningPoint,
    learning,
    mean_interval,
    more_labels,
)
from backend.insight.measure_weights import measure_weights
from backend.ledger.shapes import Interval
from backend.workplace import Workplace
from tests.backend.web.dashboard.filled import CLASSES, fill


def point(images: int, value: float) -> LearningPoint:
    measured = Interval(value=value, low=None, high=None)
    return LearningPoint(1, images, 0.0, measured, None, {})


def test_an_interval_is_two_standard_errors_wide_within_0_and_1() -> None:
    found = mean_interval([0.4, 0.5, 0.6])
    assert found is not None
    half = 1.96 * 0.1 / math.sqrt(3)
    assert (found["value"], found["low"]) == (pytest.approx(0.5), pytest.approx(0.5 - half))
    wide = mean_interval([0.0, 1.0])
    assert wide is not None
    assert (wide["low"], wide["high"]) == (0.0, 1.0)
    assert mean_interval([0.7]) == {"value": 0.7, "low": None, "high": None}
    assert mean_interval([]) is None


def test_on_a_logarithmic_curve_more_labels_are_worth_what_the_curve_says() -> None:
    curve = [point(n, 0.3 + 0.1 * math.log(n)) for n in (10, 20, 40, 80)]
    found = more_labels(curve)
    assert found is not None
    assert found.change["value"] == pytest.approx(0.1 * math.log(90 / 80))
    assert found.change["low"] == pytest.approx(found.change["high"])  # no point lies off it
    assert found.versions == 4


def test_points_off_the_curve_widen_the_interval() -> None:
    found = more_labels([point(10, 0.5), point(20, 0.4), point(40, 0.6), point(80, 0.5)])
    assert found is not None
    low, high = found.change["low"], found.change["high"]
    assert low is not None
    assert high is not None
    assert low < 0 < high


def test_too_few_sizes_say_nothing_of_more_labels() -> None:
    assert more_labels([point(10, 0.5), point(20, 0.6), point(40, 0.7)]) is None
    assert more_labels([point(10, 0.5)] * 9) is None
    assert more_labels([]) is None


def test_the_curves_of_a_project_come_from_its_versions_and_corrections(work: Workplace) -> None:
    row = fill(work, rounds=5)
    found = learning(work.ledger, row.id)
    assert [each.images for each in found.points] == [10, 20, 30, 40, 50]
    assert found.points[0].audit is None
    assert found.points[-1].audit is not None
    assert found.classes == list(CLASSES[1:])
    assert [each.round for each in found.effort] == [1, 2, 3, 4, 5]
    assert all(each.low <= each.middle <= each.high for each in found.effort)
    assert found.effort[0].images == 9  # one was an audit
    assert set(found.to_json()) == {"points", "classes", "more", "effort", "times", "saved"}


def test_a_long_curve_is_thinned_out_and_keeps_its_newest_version(work: Workplace) -> None:
    row = fill(work, rounds=MOST_POINTS + 5)
    found = learning(work.ledger, row.id)
    assert len(found.points) == MOST_POINTS
    assert [found.points[0].version, found.points[-1].version] == [1, MOST_POINTS + 5]
    assert found.more is not None
    assert found.more.versions == 10


def test_the_weights_of_the_measures_are_summed_over_their_arms(work: Workplace) -> None:
    row = fill(work, rounds=6)
    found = measure_weights(work.ledger, row.id)
    assert [each.name for each in found] == [f"committee-v{n}.1" for n in (3, 4, 5, 6)]
    for each in found:
        assert sum(each.weights.values()) == pytest.approx(1.0)
    assert found[-1].weights["mutual_information"] == pytest.approx(7 / 11)
