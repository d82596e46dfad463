"""Estimates of a round's end: by its own pace, by former rounds, or none."""

from __future__ import annotations

import pytest

from backend.insight.round_time import time_left, typical_error

STAGES = ("choose", "score", "publish")


def timings(*seconds: float) -> dict[str, float]:
    return dict(zip(STAGES, seconds, strict=True))


def test_without_a_former_round_there_is_no_estimate() -> None:
    assert time_left("rank", "score", 0.5, 10.0, []) == (None, None)
    assert time_left("rank", "score", 0.0, 10.0, [{"choose": 1.0}]) == (None, None)


def test_the_stage_under_way_goes_by_its_own_pace_and_those_after_it_by_former_rounds() -> None:
    former = [timings(1, 40, 6), timings(1, 20, 8), timings(1, 30, 10)]
    # A quarter took 10 s, so 30 s are left; then the median of 6, 8 and 10 s.
    assert time_left("rank", "score", 0.25, 10.0, former)[0] == 38.0


def test_before_it_has_a_pace_the_stage_takes_what_it_took() -> None:
    former = [timings(1, 40, 6)]
    assert time_left("rank", "score", 0.0, 15.0, former) == (31.0, None)
    assert time_left("rank", "score", 0.0, 90.0, former) == (6.0, None)


def test_the_last_stage_goes_by_its_pace_alone() -> None:
    assert time_left("rank", "publish", 0.5, 7.0, []) == (7.0, None)


def test_the_typical_error_is_the_median_over_rounds_that_others_estimated() -> None:
    # Oldest last. Totals 110, 100, 80 and 100; each is estimated by up to three before it.
    former = [timings(0, 0, total) for total in (110, 100, 80, 100)]
    # 80 by 100: 25 %; 100 by the median of 80 and 100: 10 %; 110 by that of 100, 80, 100: 1/11.
    assert typical_error("rank", former) == pytest.approx(0.10)
    assert typical_error("rank", former[1:]) is None


def test_a_round_without_times_tests_nothing() -> None:
    former = [{"choose": 1.0}, timings(1, 1, 1), timings(0, 0, 0)]
    assert typical_error("rank", former) is None
