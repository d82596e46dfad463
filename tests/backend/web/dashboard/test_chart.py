"""Charts: points where the numbers are, round ticks, gaps, and none of no numbers."""

from __future__ import annotations

import re

import pytest

from backend.web.dashboard.chart import LEFT, RIGHT, WIDE, Series, line_chart


def test_points_stand_in_proportion_and_the_band_goes_round_them() -> None:
    points = [(10.0, 0.5, 0.4, 0.6), (20.0, 0.7, 0.6, 0.8), (40.0, 0.6, 0.5, 0.7)]
    chart = line_chart([Series("all", points)])
    assert chart is not None
    (line,) = chart.lines
    xs, ys = zip(*line.marks, strict=True)
    assert (xs[0], xs[2]) == (LEFT, WIDE - RIGHT)
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(1 / 3, abs=0.001)
    assert ys[0] > ys[2] > ys[1]  # down is small
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.11)
    assert len(re.findall(r"[\d.]+ [\d.]+", line.band)) == 6
    assert [tick.text for tick in chart.y_ticks] == ["40%", "50%", "60%", "70%", "80%"]


def test_what_was_not_measured_leaves_a_gap() -> None:
    points = [(float(x), y, None, None) for x, y in enumerate([0.1, 0.2, None, 0.4, 0.5])]
    chart = line_chart([Series("one", points)])
    assert chart is not None
    assert chart.lines[0].path.count("M") == 2
    assert len(chart.lines[0].marks) == 4
    assert chart.lines[0].band == ""


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.0], [1.0], [0.0001, 0.0002]])
def test_any_numbers_give_an_axis_around_them(values: list[float]) -> None:
    chart = line_chart([Series("one", [(1.0 * n, y, None, None) for n, y in enumerate(values)])])
    assert chart is not None
    heights = [tick.at for tick in chart.y_ticks]
    assert heights == sorted(heights, reverse=True)
    assert len(heights) >= 2
    for _x, y in chart.lines[0].marks:
        assert heights[-1] - 0.1 <= y <= heights[0] + 0.1


def test_without_numbers_there_is_no_chart() -> None:
    assert line_chart([]) is None
    assert line_chart([Series("none", [(1.0, None, None, None)])]) is None
