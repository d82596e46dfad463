"""The score of a task from outside the queue, from the quantiles that a publication keeps."""

from __future__ import annotations

import pytest

from backend.outside_score import outside_score, percentile_between, score_between
from tests.backend import rows

ARM = "entropy/mean"


def test_a_publication_from_before_the_weights_ranks_by_its_arm() -> None:
    old = rows.publication(arm=ARM, quantiles=[0.9, 0.6, 0.1])
    assert outside_score({ARM: 0.7}, old) == pytest.approx(1 / 3)


def test_chance_favours_no_place() -> None:
    by_chance = rows.publication(weights={}, arm_quantiles={}, quantiles=[0.9, 0.1])
    assert outside_score({ARM: 0.7}, by_chance) == 0.5


@pytest.mark.parametrize(
    ("uncertainty", "score"), [(0.95, 0.0), (0.5, 0.5), (0.05, 1.0), (0.6, 0.25)]
)
def test_a_task_from_outside_stands_behind_those_more_uncertain(
    uncertainty: float, score: float
) -> None:
    assert score_between(uncertainty, [0.9, 0.6, 0.4, 0.1]) == score


def test_without_quantiles_it_stands_in_the_middle() -> None:
    assert score_between(0.3, []) == 0.5


def test_a_percentile_is_read_between_the_quantiles_and_ties_count_half() -> None:
    assert percentile_between(0.25, [0.0, 0.5, 1.0]) == 0.25
    assert percentile_between(0.5, [0.0, 0.5, 1.0]) == 0.5
    assert percentile_between(-1.0, [0.0, 0.5, 1.0]) == 0.0
    assert percentile_between(2.0, [0.0, 0.5, 1.0]) == 1.0
    assert percentile_between(0.3, [0.3] * 101) == 0.5
    assert percentile_between(0.0, [0.0, 0.0, 0.0, 1.0, 2.0]) == 0.25
