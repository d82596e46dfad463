"""How long a label takes, and what pre-annotations save."""

from __future__ import annotations

import pytest

from backend.insight.lead_time import FEWEST_COMPARED, lead_times, time_saved


def test_labels_are_grouped_in_their_order() -> None:
    times = [(float(n), 10.0 + n, False) for n in range(12)]
    first, second = lead_times(times)
    assert (first.labels, first.until, first.middle) == (5, 4.0, 12.0)
    assert (second.labels, second.low, second.high) == (10, 16.0, 18.0)
    assert lead_times(times[:4]) == []
    assert len(lead_times(times * 20)) == 20


def test_what_is_saved_is_the_difference_of_medians_and_a_pause_does_not_count() -> None:
    alone = [(float(n), 90.0 + n % 5, False) for n in range(20)]
    helped = [(100.0 + n, 40.0 + n % 5, True) for n in range(19)]
    found = time_saved([*alone, *helped, (200.0, 5000.0, True)])
    assert found is not None
    assert (found.assisted, found.alone) == (20, 20)
    assert found.each_s["value"] == pytest.approx(50, abs=1)
    assert found.each_s["low"] is not None
    assert found.each_s["low"] > 45


def test_of_few_labels_nothing_is_said() -> None:
    few = [(float(n), 50.0, n < FEWEST_COMPARED - 1) for n in range(60)]
    assert time_saved(few) is None
    assert time_saved([]) is None
