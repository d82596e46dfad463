"""Places in a queue, as Label Studio orders them."""

from __future__ import annotations

from backend.rounds.stages.publish import place_score


def test_scores_rise_with_the_place_and_stay_inside_0_and_1() -> None:
    scores = [place_score(position, 4) for position in range(4)]
    assert scores == [0.125, 0.375, 0.625, 0.875]
