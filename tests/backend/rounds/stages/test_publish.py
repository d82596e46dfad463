"""Places in a queue, as Label Studio orders them."""

from __future__ import annotations

import pytest

from backend.rounds.ranking import Ranked
from backend.rounds.stages import publish
from backend.rounds.stages.publish import (
    _that_can_be_sent,
    _warn_of_many_brushes,
    _within_bounds,
    place_score,
)
from backend.rounds.stages.shards import Scored

PLACES = [Ranked(task_id, 0.5, "uncertainty") for task_id in (4, 2, 3, 1)]


def test_scores_rise_with_the_place_and_stay_inside_0_and_1() -> None:
    scores = [place_score(position, 4) for position in range(4)]
    assert scores == [0.125, 0.375, 0.625, 0.875]


def of_sizes(*sizes: int) -> dict[int, Scored]:
    """Tasks in the order of ``PLACES`` whose regions take so many bytes."""
    return {
        place.task_id: Scored(arms={}, result=b"x" * size)
        for place, size in zip(PLACES, sizes, strict=True)
    }


def test_a_queue_that_is_too_much_is_cut_at_its_end_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publish, "LARGEST_PUBLICATION", 100)
    problems: list[str] = []
    assert _within_bounds(PLACES, of_sizes(40, 40, 20, 1), problems) == PLACES[:3]
    [said] = problems
    assert said.startswith("The queue holds 3 instead of 4 tasks")
    assert _within_bounds(PLACES, of_sizes(40, 40, 10, 10), problems) == PLACES
    assert len(problems) == 1


def test_a_task_too_large_for_a_request_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "LARGEST_RESULT", 50)
    left, problems = _that_can_be_sent(of_sizes(10, 51, 50, 1))
    assert list(left) == [4, 3, 1]
    assert [said.split(" is ")[0] for said in problems] == ["Task 2: its pre-annotation"]


def test_many_brushes_of_one_task_are_warned_of() -> None:
    scored = {task_id: Scored(arms={}) for task_id in (1, 2, 3)}
    scored[4] = Scored(arms={}, result=b'{"type":"brushlabels"}' * 101)
    problems: list[str] = []
    _warn_of_many_brushes(PLACES, scored, problems)
    assert "1 of 4 pre-annotations" in problems[0]
    assert "task 4 has 101" in problems[0]
